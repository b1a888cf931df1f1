"""The reader of TensorFlow's checkpoints: what it reads, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow.bundle import read_bundle
from bertonnx.exporters.checkpoint.tensorflow.sstable import DamagedError, entries, varint
from tests.exporters.checkpoint.tensorflow.bundles import DTYPES, MAGIC, entry, field, table, write_bundle

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def refused(prefix: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_bundle(prefix)
    return str(caught.value)


def test_numbers_shapes_and_names_are_as_written(tmp_path: Path) -> None:
    halves = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    given = {
        "b/kernel": NUMBERS,
        "a/step": np.array(7, np.int64),
        "c/half": NUMBERS.astype(np.float16),
        "d/brain": ("bfloat16", halves),
    }
    found = {one.name: one for one in read_bundle(write_bundle(tmp_path / "model.ckpt", given))}
    assert list(found) == ["a/step", "b/kernel", "c/half", "d/brain"]
    assert np.array_equal(found["b/kernel"].values(), NUMBERS)
    assert found["a/step"].values() == 7
    assert found["a/step"].shape == ()
    assert found["c/half"].dtype == "float16"
    assert found["d/brain"].dtype == "bfloat16"
    assert found["d/brain"].values().tolist() == [1.5, -2.0]


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    (one,) = read_bundle(write_bundle(tmp_path / "m", {"x": NUMBERS}))
    assert one.sha256() == hashlib.sha256(NUMBERS.tobytes()).hexdigest()


def test_a_missing_file_of_numbers_is_named(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"x": NUMBERS}, shards=2)
    assert "m.data-00001-of-00002 is not there" in refused(prefix)


def test_a_file_of_numbers_that_is_cut_short_is_named(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"x": NUMBERS})
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    assert "is cut short: x ends at byte 24, and the file has 23" in refused(prefix)
    data.write_bytes(b"")
    assert "cut short" in refused(prefix)


def test_changed_numbers_are_told_by_the_checksum_of_their_tensor(tmp_path: Path) -> None:
    # Long enough for the sum's columns, with a rest; and short.
    large = np.arange(70_001, dtype=np.uint8)
    given = {"a/large": large.astype(np.float32), "b/small": NUMBERS}
    prefix = write_bundle(tmp_path / "m", given)
    assert all(np.array_equal(one.values(), given[one.name]) for one in read_bundle(prefix))
    data = tmp_path / "m.data-00000-of-00001"
    whole = data.read_bytes()
    for place, name in (
        (0, "a/large"),
        (123_457, "a/large"),
        (280_003, "a/large"),
        (len(whole) - 1, "b/small"),
    ):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        wrong = []
        for one in read_bundle(prefix):
            try:
                one.read()
            except CheckpointError as error:
                wrong.append(str(error))
        assert len(wrong) == 1
        assert f"m.data-00000-of-00001 is damaged: the checksum of {name} is wrong" in wrong[0]


def test_a_graph_of_objects_that_was_changed_names_no_variable(tmp_path: Path) -> None:
    source = Path(__file__).parent / "data" / "garden-2" / "source"
    for path in source.glob("ckpt*"):
        shutil.copy(path, tmp_path)
    (data,) = tmp_path.glob("*.data-*")
    raw = bytearray(data.read_bytes())
    place = raw.index(b"self_attention/query/kernel")
    raw[place : place + 4] = b"Self"
    data.write_bytes(raw)
    prefix = data.with_name(data.name.partition(".data")[0])
    assert "graph of objects that is damaged (its checksum is wrong)" in refused(prefix)


def test_a_variable_in_slices_is_refused_by_its_name(tmp_path: Path) -> None:
    sliced = entry(DTYPES["float32"], (4, 3), 0, 0, more=field(7, b""))
    part = {"emb/table": sliced, "\x00emb": entry(DTYPES["float32"], (2, 3), 0, 24)}
    prefix = write_bundle(tmp_path / "m", {"x": NUMBERS}, entries=part)
    assert "whose variable emb/table lies in slices" in refused(prefix)


def test_sizes_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"x": NUMBERS}, entries={"x": entry(1, (2, 4), 0, 24)})
    assert "gives x the shape (2, 4) of float32, which is 32 bytes, and 24 bytes in the file" in refused(
        prefix
    )


def test_numbers_of_a_kind_that_no_model_has_are_refused(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"x": NUMBERS}, entries={"x": entry(12, (2, 3), 0, 24)})
    assert "x holds numbers of a kind that no BERT has (type 12)" in refused(prefix)


def test_a_file_beyond_those_of_the_header_is_refused(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"x": NUMBERS}, entries={"x": entry(1, (2, 3), 0, 24, shard=3)})
    assert "x lies in file 4, and there are 1" in refused(prefix)


@pytest.mark.parametrize(("method", "name"), [(1, "snappy"), (2, "zstd"), (9, "method 9")])
def test_compressed_blocks_are_refused_by_name(tmp_path: Path, method: int, name: str) -> None:
    assert f"compressed ({name})" in refused(write_bundle(tmp_path / "m", {"x": NUMBERS}, compression=method))


def test_a_wrong_ending_is_no_index(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"x": NUMBERS})
    (tmp_path / "m.index").write_bytes(table([(b"", b"")], magic=MAGIC + 1))
    assert "last bytes are not those of a checkpoint's index" in refused(prefix)
    (tmp_path / "m.index").write_bytes(b"")
    assert "last bytes" in refused(prefix)


def test_every_changed_byte_of_an_index_is_noticed_or_harmless(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"a": NUMBERS, "b": NUMBERS + 1})
    index = tmp_path / "m.index"
    whole = index.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read_bundle(prefix)
        except CheckpointError:
            noticed += 1
            continue
        assert [one.name for one in found] == ["a", "b"]
        assert np.array_equal(found[1].values(), NUMBERS + 1)
    # Only padding of the footer and the block of metadata, which is not read, may change.
    assert noticed > len(whole) * 0.6


def test_every_shortened_index_is_refused(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", {"a": NUMBERS})
    index = tmp_path / "m.index"
    whole = index.read_bytes()
    for length in range(0, len(whole), 7):
        index.write_bytes(whole[:length])
        refused(prefix)


def test_keys_out_of_order_are_refused() -> None:
    with pytest.raises(DamagedError, match="out of order"):
        list(entries(table([(b"b", b""), (b"a", b"")])))


def test_numbers_of_too_many_bytes_are_refused() -> None:
    assert varint(b"\xff" * 9 + b"\x01", 0) == (2**64 - 1, 10)
    for wrong in (b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"):
        with pytest.raises(DamagedError, match="more than 64 bits"):
            varint(wrong, 0)
    with pytest.raises(DamagedError, match="cut off"):
        varint(b"\x80", 0)
