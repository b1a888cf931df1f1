"""Broken Arrow data: an error of ours, whatever is wrong, and never the end of the process.

Some of it would end the tests themselves, so it is read in processes of its own.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import InputError
from bertonnx.runtime.io.arrow_batch import predict_batch
from tests.fake_predictor import FakePredictor
from tests.jobs import ROOT
from tests.tables import texts_of

READ = """
import sys
from bertonnx.errors import InputError
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.options import RunOptions
for path in sys.argv[1:]:
    try:
        with open_rows(path, RunOptions(column="text"), needs_pair=False) as rows:
            print(sum(1 for _ in rows), "rows")
    except InputError as error:
        print(error)
"""


def _offsets(*offsets: int, form: str = "<4i") -> tuple[bytes, bytes]:
    return struct.pack(form, 0, 1, 3, 6), struct.pack(form, *offsets)


def _view(length: int, buffer: int, offset: int) -> tuple[bytes, bytes]:
    form = "<i4sii"
    return struct.pack(form, 20, b"abcd", 0, 0), struct.pack(form, length, b"abcd", buffer, offset)


TEXTS = ["a", "bb", "ccc"]
BROKEN: dict[str, tuple[Any, tuple[bytes, bytes]]] = {
    "last offset far behind the end": (pa.array(TEXTS), _offsets(0, 1, 3, 1 << 28)),
    "negative offset": (pa.array(TEXTS), _offsets(0, -7, 3, 6)),
    "negative first offset": (pa.array(TEXTS), _offsets(-(1 << 30), 1, 3, 6)),
    "offsets that go back": (pa.array(TEXTS), _offsets(0, 5, 3, 6)),
    "large offsets": (pa.array(TEXTS, pa.large_string()), _offsets(0, 1 << 40, 3, 6, form="<4q")),
    "negative large offset": (pa.array(TEXTS, pa.large_string()), _offsets(0, -(1 << 40), 3, 6, form="<4q")),
    "a view of no buffer": (pa.array(["abcd" * 5], pa.string_view()), _view(20, 7, 0)),
    "a view behind its buffer": (pa.array(["abcd" * 5], pa.string_view()), _view(20, 0, 1 << 28)),
    "a view of negative length": (pa.array(["abcd" * 5], pa.string_view()), _view(-20, 0, 0)),
    "an index out of range": (
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 1, 0, 2, 2, 2], pa.int8()), TEXTS),
        (bytes([0, 1, 2, 1, 0, 2, 2, 2]), bytes([0, 1, 2, 1, 0, 2, 2, 77])),
    ),
    "a negative index": (
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 1, 0, 2, 2, 2], pa.int8()), TEXTS),
        (bytes([0, 1, 2, 1, 0, 2, 2, 2]), bytes([0, 1, 2, 1, 0, 2, 2, 255])),
    ),
    "a broken dictionary": (pa.array(TEXTS).dictionary_encode(), _offsets(0, 1, 3, 1 << 28)),
}
"""What was sound when it was written, and which bytes of it change to what."""


def _stream(*columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("text", columns[0].type)])) as out:
        for column in columns:
            out.write_batch(pa.RecordBatch.from_arrays([column], names=["text"]))
    return bytes(sink.getvalue())


def _broken(what: str) -> bytes:
    column, (sound, broken) = BROKEN[what]
    data = _stream(column)
    assert data.count(sound) == 1
    return data.replace(sound, broken)


def test_no_broken_column_ends_the_process(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.arrow" for n in range(len(BROKEN))]
    for path, what in zip(paths, BROKEN, strict=True):
        path.write_bytes(_broken(what))
    run = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, check=False, text=True, cwd=ROOT
    )
    assert (run.returncode, run.stderr) == (0, "")
    for path, what, line in zip(paths, BROKEN, run.stdout.splitlines(), strict=True):
        assert line.startswith(f"{path} cannot be read on as Arrow IPC: batch 0 of it: "), (what, line)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_record_batch_in_memory(what: str) -> None:
    (batch,) = pa.ipc.open_stream(_broken(what))
    with pytest.raises(InputError, match="the column 'text' of the record batch is broken: "):
        predict_batch(FakePredictor(), batch)


def test_the_batch_that_is_broken_is_named(tmp_path: Path) -> None:
    sound, broken = _offsets(0, 1, 3, 1 << 28)
    path = tmp_path / "in.arrow"
    path.write_bytes(_stream(pa.array(["x"]), pa.array(TEXTS)).replace(sound, broken))
    with pytest.raises(InputError, match=r"in\.arrow cannot be read on as Arrow IPC: batch 1 of it: "):
        texts_of(path)


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path: Path, kind: Any) -> None:
    long = b"more than twelve bytes \xff"
    if kind == pa.string_view():
        raw = pa.array([b"a", long, b"b"], pa.binary_view())
        column = pa.Array.from_buffers(kind, 3, raw.buffers())
    else:
        raw = pa.array([b"a", long, b"b"], pa.binary())
        column = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
        if pa.types.is_dictionary(kind):
            column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), column)
    path = tmp_path / "in.arrow"
    path.write_bytes(_stream(column))
    assert texts_of(path) == ["a", "<invalid-text>", "b"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("ending", [".arrow", ".parquet"])
def test_a_file_that_is_cut(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"in{ending}"
    table = pa.table({"text": [f"text {i}" for i in range(3000)]})
    if ending == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as out:
            out.write_table(table, max_chunksize=1000)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cannot be read"):
        texts_of(path)


def test_an_extension_type_is_no_text_and_its_name_is_said(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(['{"a": 1}']).cast(pa.json_())})
    with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as out:
        out.write_table(table)
    with pytest.raises(InputError, match=r"'text' .* holds extension<arrow\.json>, and text is needed"):
        texts_of(tmp_path / "in.arrow")
