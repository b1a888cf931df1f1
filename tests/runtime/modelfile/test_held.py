"""A model's file may be written over, cut or deleted at any time: no wrong answer, and no process dies."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import bertonnx
from bertonnx.errors import ModelFileError
from bertonnx.exporters.onnxgraph import files
from bertonnx.exporters.onnxgraph.files import load_proto, save_proto
from bertonnx.runtime.modelfile import held as module
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import read_model_file, weights_sha256

TEXTS = ["one text", "another, longer text", "", "und noch einer"]

LEASES = pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")


@pytest.fixture(params=["leased", "read"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let files be mapped under a lease, or be read into memory."""
    if request.param == "read":
        monkeypatch.setattr(module, "_lease", lambda _: False)
    elif sys.platform != "linux":
        pytest.skip("leases are Linux's")
    return str(request.param)


@pytest.fixture
def path(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(classifier, tmp_path / "m.onnx"))


def _mapped(path: Path) -> bool:
    """Whether this process has a file mapped, whose end would then be its own."""
    maps = Path("/proc/self/maps")
    return maps.exists() and str(path) in maps.read_text()


@pytest.mark.parametrize("beside", [False, True])
def test_an_open_model_keeps_its_weights(
    way: str, beside: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside:
        monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 1000)
        save_proto(load_proto(path), path)
    weights = path.with_name("m.onnx.data") if beside else path
    with held(weights) as file:
        assert file.leased is (way == "leased")
    with bertonnx.load(path, provider="cpu", threads=2) as model:
        before = model.classify(TEXTS)
        assert not _mapped(weights)
        weights.write_bytes(bytes(weights.stat().st_size))  # written over at its place
        assert model.classify(TEXTS) == before
        os.truncate(weights, 10)
        assert [model.classify([text]) for text in TEXTS] == [[item] for item in before]
        weights.unlink()
        assert model.classify(TEXTS) == before


def test_both_ways_give_the_same(way: str, path: Path, classifier: Path) -> None:
    with bertonnx.load(classifier, provider="cpu") as reference, bertonnx.load(path, provider="cpu") as model:
        assert model.classify(TEXTS) == reference.classify(TEXTS)
    assert weights_sha256(path) == weights_sha256(classifier)
    assert bertonnx.check(path).examples > 0
    assert way


@LEASES
def test_who_wants_to_write_waits_until_the_model_is_open(path: Path) -> None:
    with held(path) as file:
        assert file.leased
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@LEASES
def test_a_file_that_somebody_has_open_for_writing_is_read(path: Path) -> None:
    with path.open("r+b"), held(path) as file:
        assert not file.leased
        assert file.data[:] == path.read_bytes()


def test_a_file_that_changes_while_it_is_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = module._read

    def written_meanwhile(descriptor: int, size: int) -> object:
        with path.open("ab") as stream:
            stream.write(b"more")
        return reading(descriptor, size)

    monkeypatch.setattr(module, "_lease", lambda _: False)
    monkeypatch.setattr(module, "_read", written_meanwhile)
    for action in (read_model_file, bertonnx.load, bertonnx.check):
        with pytest.raises(ModelFileError, match="changed while it was being opened"):
            action(path)


def test_a_file_is_read_once_for_all_that_is_asked_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    reading = module._read

    def counted(descriptor: int, size: int) -> object:
        reads.append(size)
        return reading(descriptor, size)

    monkeypatch.setattr(module, "_lease", lambda _: False)
    monkeypatch.setattr(module, "_read", counted)
    with bertonnx.load(path, provider="cpu"):
        assert len(reads) == 1
    bertonnx.check(path, "cpu")
    assert len(reads) == 2
    assert module._holding == {}
