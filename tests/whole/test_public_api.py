"""The public names, their signatures, and the tree of errors."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx import errors
from bertonnx.errors import BertonnxError

MODEL_METHODS = {
    "embed": "(self, texts, *, prompt=None)",
    "classify": "(self, texts, pairs=None, top_k=1)",
    "entities": "(self, texts, *, aggregation='simple')",
    "answer": "(self, questions, contexts, *, top_k=1)",
    "fill_mask": "(self, texts, *, top_k=5)",
    "predict": "(self, texts, pairs=None, *, prompt=None)",
    "predict_batch": "(self, batch, *, prompt=None)",
}


def shape(function: Any) -> str:
    """Return a signature without its annotations."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_names() -> None:
    assert bertonnx.__all__ == sorted(bertonnx.__all__, key=lambda name: (name.islower(), name))
    assert {"export", "load", "check", "Model", "ExportReport", "BertonnxError"} <= set(bertonnx.__all__)
    for name in bertonnx.__all__:
        assert getattr(bertonnx, name).__doc__, name
        assert name in dir(bertonnx)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        bertonnx.nonsense  # noqa: B018


def test_load() -> None:
    assert shape(bertonnx.load) == (
        "(path, provider='auto', threads=None, *, max_length=None, long_text=None, tf32=False, "
        "gpu_memory=None)"
    )


def test_export() -> None:
    parameters = list(inspect.signature(bertonnx.export).parameters.values())
    assert [p.name for p in parameters[:2]] == ["source", "output"]
    assert parameters[1].default == "model.onnx"
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[2:])
    defaults = {p.name: p.default for p in parameters[2:]}
    expected = {
        "task": None,
        "revision": None,
        "precision": "fp32",
        "optimize": "full",
        "max_length": None,
        "pooling": None,
        "normalize": None,
        "force": False,
        "trust_remote_code": False,
        "allow_pickle": False,
    }
    assert {name: defaults[name] for name in expected} == expected


@pytest.mark.parametrize("name", MODEL_METHODS)
def test_model_methods(name: str) -> None:
    method = getattr(bertonnx.Model, name)
    assert shape(method) == MODEL_METHODS[name]
    assert method.__doc__


def test_the_methods_work_as_in_the_contract(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["feature-extraction"], provider="cpu", threads=None) as model:
        vectors = model.embed(["Ada", "Paris"])
        assert vectors.dtype == np.float32
        assert vectors.shape == (2, 32)
        assert model.embed([]).shape == (0, 32)
        assert np.array_equal(np.array(model.predict(["Ada"])[0]["embedding"], np.float32), vectors[0])
    with bertonnx.load(exported["question-answering"]) as model:
        (answer,) = model.answer(["Who?"], ["Ada wrote."])
        assert list(answer) == ["answer", "score", "start", "end"]
    with bertonnx.load(exported["fill-mask"]) as model:
        assert len(model.fill_mask(["a [MASK]"], top_k=3)[0]["masks"][0]) == 3
        with pytest.raises(errors.TaskError, match=r"embed\(\) needs .*; call fill_mask\(\) or predict\(\)"):
            model.embed(["Ada"])


def _classes() -> dict[str, type[BertonnxError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BertonnxError)
    }


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    drawn = re.findall(r"^ {4}((?:│   )?(?:[├└]── )?)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert sorted(name for _, name in drawn) == sorted(_classes()) == sorted(errors.__all__)
    parents: dict[int, str] = {}
    for branch, name in drawn:
        parents[len(branch)] = name
        bases = [base.__name__ for base in _classes()[name].__bases__]
        assert bases == [parents[len(branch) - 4] if branch else "Exception"], name
        assert _classes()[name].__doc__


def test_exit_codes() -> None:
    assert {name: kind.exit_code for name, kind in _classes().items() if kind.exit_code != 1} == {
        "UsageError": 2
    }
