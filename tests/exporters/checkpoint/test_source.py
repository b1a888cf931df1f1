"""From what the user typed to a checkpoint on this disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertonnx.errors import SourceError, UsageError
from bertonnx.exporters.checkpoint.source import Source, resolve
from bertonnx.exporters.options import Trust
from bertonnx.wording import COMMAND_LINE, PYTHON, R
from tests.checkpoints import BERT, make, refused


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT, model__safetensors="x")
    assert resolve(tmp_path) == Source(str(tmp_path), "folder", None, tmp_path)
    assert resolve(str(tmp_path)).kind == "folder"


def test_a_sentence_transformers_folder_is_recognized(tmp_path: Path) -> None:
    make(tmp_path, modules__json="[]", config__json=BERT, model__safetensors="x")
    assert resolve(tmp_path).kind == "sentence-transformers"


def test_the_old_layout_of_sentence_transformers(tmp_path: Path) -> None:
    inner = {"0_Transformer___config__json": BERT, "0_Transformer___model__safetensors": b"x"}
    make(tmp_path, modules__json="[]", **inner)
    assert resolve(tmp_path).kind == "sentence-transformers"


def test_a_revision_of_a_folder_is_wrong_usage(tmp_path: Path) -> None:
    said = refused(UsageError, tmp_path, revision="v1")
    assert "--revision v1" in said
    assert "local folder" in said
    assert "leave --revision out" in said


def test_each_language_says_what_it_would_type(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT, pytorch_model__bin="x")
    with pytest.raises(SourceError) as caught:
        resolve(tmp_path)
    for face, words in (
        (COMMAND_LINE, "add --allow-pickle,"),
        (PYTHON, "add allow_pickle=True,"),
        (R, "add allow_pickle = TRUE,"),
    ):
        assert words in caught.value.worded(face)


def test_what_is_trusted_stays_with_the_source(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT, model__safetensors="x")
    trust = Trust(allow_pickle=True, trust_remote_code=True)
    assert resolve(tmp_path, trust=trust).trust == trust
    assert resolve(tmp_path).trust == Trust(allow_pickle=False, trust_remote_code=False)


def test_a_file_is_refused_with_the_folder_to_type(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    said = refused(SourceError, path)
    assert "is a file" in said
    assert f"bertonnx export {tmp_path}" in said


def test_an_onnx_file_needs_no_export(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    assert f"bertonnx run {path} input.txt" in refused(SourceError, path)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "gone")
    assert "does not exist" in refused(SourceError, path)
