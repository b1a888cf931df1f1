"""A model on its way: what is wrong with it is said when it is asked for, and nothing stays held."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertonnx.errors import ModelFileError, OutputError, UsageError
from bertonnx.prediction import run_file
from bertonnx.runtime.modelfile import held
from bertonnx.runtime.opening import Opening
from bertonnx.runtime.options import LoadOptions


def test_an_error_waits_for_who_asks(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x00")
    for name in ("absent.onnx", "broken.onnx"):
        opening = Opening(tmp_path / name, LoadOptions())
        assert not held._holding
        with pytest.raises(ModelFileError, match=name):
            opening.result()


def test_what_is_wrong_with_the_output_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        run_file(tmp_path / "absent.onnx", "-", tmp_path / "no" / "o.jsonl")


def test_a_model_that_nobody_takes_is_let_go(exported: dict[str, Path]) -> None:
    path = exported["text-classification"]
    with pytest.raises(KeyError), Opening(path, LoadOptions()) as opening:
        raise KeyError("another")
    assert not held._holding
    assert not opening._thread.is_alive()


def test_a_length_that_the_model_does_not_take_is_said_before_what_the_provider_lacks(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ModelFileError("a fault")

    monkeypatch.setattr("bertonnx.runtime.opening.open_session", fails)
    path = exported["text-classification"]
    with pytest.raises(UsageError, match="is more than the model takes"):
        Opening(path, LoadOptions(max_length=1 << 20)).result()
    with pytest.raises(ModelFileError, match="a fault"):
        Opening(path, LoadOptions()).result()
    assert not held._holding


def test_it_is_opened_once(exported: dict[str, Path]) -> None:
    opening = Opening(exported["text-classification"], LoadOptions(provider="cpu"))
    found, tokenizer, session = opening.result()
    assert (found.card.task, session.provider) == ("text-classification", "cpu")
    assert tokenizer.max_length == found.card.max_length
    assert not held._holding
