"""The readers of Keras' files: what they read, and what they refuse."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bertonnx.errors import CheckpointError, MissingDependencyError
from bertonnx.exporters.checkpoint.tensorflow.archive import unpack
from bertonnx.exporters.checkpoint.tensorflow.hdf5 import read_hdf5

h5py = pytest.importorskip("h5py", reason="h5py is not installed, which reads Keras' files")

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_hdf5(path)
    return str(caught.value)


def test_arrays_by_their_paths(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["layers/dense/vars/0"] = NUMBERS
        file["layers/dense/vars/1"] = NUMBERS[0].astype(">f4")
        file["words"] = ["a text"]
    found = {one.name: one for one in read_hdf5(tmp_path / "a.h5")}
    assert found["layers/dense/vars/0"].shape == (2, 3)
    assert np.array_equal(found["layers/dense/vars/0"].values(), NUMBERS)
    # The same digest as in any other file, whatever order its bytes have here.
    assert found["layers/dense/vars/1"].values().dtype.byteorder in ("=", "<")
    assert found["layers/dense/vars/1"].values().tolist() == [0, 1, 2]
    assert not found["words"].numeric


def test_names_of_keras_2_have_no_layer_before_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = ["bert"]
        file["bert/tf_bert_model/bert/pooler/dense/kernel:0"] = NUMBERS
    (one,) = read_hdf5(tmp_path / "a.h5")
    assert one.name == "tf_bert_model/bert/pooler/dense/kernel"
    assert one.label == "bert/tf_bert_model/bert/pooler/dense/kernel:0"


def test_links_are_not_followed(tmp_path: Path) -> None:
    for name, link, said in (
        ("external", h5py.ExternalLink("other.h5", "/x"), "x is a link to another file"),
        ("soft", h5py.SoftLink("/y"), "x is a link to another place in it"),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"] = link
        assert said in refused(tmp_path / f"{name}.h5")


def test_numbers_in_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(NUMBERS.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (2, 3), "f4", external=[(str(tmp_path / "raw"), 0, 24)])
    assert "the numbers of x lie in another file" in refused(tmp_path / "a.h5")
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "x", (2, 3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    assert "the numbers of x lie in another file" in refused(tmp_path / "a.h5")


def test_references_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("g")
        file.create_dataset("x", (1,), h5py.ref_dtype)[0] = group.ref
    assert "x holds references to objects" in refused(tmp_path / "a.h5")


def test_a_small_file_of_many_numbers_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (100_000, 100_000), "f4", chunks=(1000, 1000))
    assert "stand for 40000000000 bytes of numbers" in refused(tmp_path / "a.h5")


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(1000, np.float32)
    whole = path.read_bytes()
    for length in (0, 20, 2500):
        path.write_bytes(whole[:length])
        assert "cannot be read as HDF5" in refused(path)


def test_h5py_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "bertonnx\[export,tensorflow\]"'):
        read_hdf5(tmp_path / "a.h5")


def archive(path: Path, config: object, *, names: tuple[str, ...] = (), large: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("config.json", json.dumps(config))
        zipped.writestr("model.weights.h5", b"\0" * large)
        for name in names:
            zipped.writestr(name, "x")
    return path


def not_unpacked(path: Path, into: Path) -> str:
    into.mkdir()
    with pytest.raises(CheckpointError) as caught:
        unpack(path, into)
    return str(caught.value)


def test_an_archive_is_unpacked_into_its_folder_alone(tmp_path: Path) -> None:
    names = ("assets/tokenizer/vocabulary.txt", "../evil.txt", "assets/../../evil.txt", "other.py")
    path = archive(tmp_path / "a.keras", {"class_name": "BertBackbone"}, names=names)
    (tmp_path / "in").mkdir()
    unpack(path, tmp_path / "in")
    found = sorted(one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*") if one.is_file())
    assert found == ["a.keras", "in/assets/tokenizer/vocabulary.txt", "in/config.json", "in/model.weights.h5"]


def test_code_in_an_archive_is_refused_and_not_run(tmp_path: Path) -> None:
    inner = {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None]}}
    path = archive(tmp_path / "a.keras", {"class_name": "Functional", "config": {"layers": [inner]}})
    assert "layers that hold Python code (Lambda), which is never run here" in not_unpacked(
        path, tmp_path / "in"
    )


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.keras", {}, large=200 << 20)
    assert "that would take 209715" in not_unpacked(path, tmp_path / "in")
    assert not any((tmp_path / "in").iterdir())


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.keras").write_bytes(b"PK no")
    assert "cannot be read as Keras' archive" in not_unpacked(tmp_path / "a.keras", tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as zipped:
        zipped.writestr("config.json", "{}")
    assert "it has no model.weights.h5" in not_unpacked(tmp_path / "b.keras", tmp_path / "in2")


def test_bfloat16_of_keras_3(tmp_path: Path) -> None:
    halves = (NUMBERS.view(np.uint32) >> 16).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = halves.view("|V2")
        file["x"].attrs["dtype"] = "bfloat16"
    (one,) = read_hdf5(tmp_path / "a.h5")
    assert one.dtype == "bfloat16"
    assert one.values().tolist() == NUMBERS.tolist()
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = halves.view("|V2")
    assert "x holds no numbers" in refused(tmp_path / "b.h5")
