"""What the card says of a checkpoint's files, and of the libraries that saved it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from bertonnx.exporters.checkpoint.provenance import files_of, name_of, saved_by
from bertonnx.exporters.checkpoint.source import Source
from tests.checkpoints import make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    versions = {"sentence_transformers": "6.2.0", "transformers": "5.30.0", "pytorch": "2.13.0"}
    return make(
        tmp_path / "model",
        config__json=json.dumps({"model_type": "bert", "transformers_version": "5.24.0"}),
        config_sentence_transformers__json=json.dumps({"__version__": versions}),
        modules__json="[]",
        model__safetensors=b"weights",
        tokenizer__json="{}",
        vocab__txt="a",
        README__md="not read",
        training_args__bin=b"not read",
    )


def source_of(folder: Path) -> Source:
    return Source(str(folder), "folder", None, folder)


def test_every_file_that_is_read_by_its_bytes(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    found = files_of(source_of(folder))
    assert list(found) == sorted(
        [
            *("1_Pooling/config.json", "config.json", "config_sentence_transformers.json"),
            *("model.safetensors", "modules.json", "tokenizer.json", "vocab.txt"),
        ]
    )
    assert found["model.safetensors"] == sha256(b"weights").hexdigest()


def test_shards_and_an_older_layout(folder: Path) -> None:
    inner = folder / "0_Transformer"
    inner.mkdir()
    (folder / "config.json").rename(inner / "config.json")
    (folder / "model.safetensors").unlink()
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (inner / name).write_bytes(name.encode())
    found = files_of(source_of(folder))
    assert {name for name in found if "safetensors" in name} == {
        "0_Transformer/model-00001-of-00002.safetensors",
        "0_Transformer/model-00002-of-00002.safetensors",
    }
    assert not any(name.startswith("base/") for name in found)
    assert saved_by(source_of(folder))["transformers"] == "5.24.0"


def test_the_libraries_that_saved_it(folder: Path) -> None:
    # config.json is of who saved the weights.
    assert saved_by(source_of(folder)) == {
        "sentence_transformers": "6.2.0",
        "transformers": "5.24.0",
        "pytorch": "2.13.0",
    }
    (folder / "config_sentence_transformers.json").unlink()
    assert saved_by(source_of(folder)) == {"transformers": "5.24.0"}
    (folder / "config.json").write_text("{}")
    assert saved_by(source_of(folder)) == {}


def test_a_path_is_nobodys_business(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_of(str(folder)) == "model"
    assert name_of("/somewhere/that/is/not/here") == "here"
    assert name_of("owner/name") == "owner/name"
    monkeypatch.chdir(folder)
    assert name_of(".") == "model"
