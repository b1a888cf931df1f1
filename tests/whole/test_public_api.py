"""The public names, their signatures, and the tree of errors."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import bertonnx
from bertonnx import errors
from bertonnx.cli import app
from bertonnx.errors import BertonnxError, UsageError
from bertonnx.exporters.options import ExportOptions
from bertonnx.runtime.options import DecodeOptions, LoadOptions
from bertonnx.wording import COMMAND_LINE, PYTHON, R

ROOT = Path(__file__).parents[2]


COMMANDS_ONLY = {"lengths", "repeat", "seconds", "text"}
"""Options of commands that neither Python nor R has as functions."""

CLUSTERS_ONLY = {"prefix", "ship", "workers"}
"""Options of record batches and of the engines that hold them."""

NOT_IN_R = {
    *COMMANDS_ONLY,
    *CLUSTERS_ONLY,
    # R serves nothing, and signs nothing; what it verifies is the model that is open.
    *("cors", "host", "port", "private_key", "signature"),
    # Those of the model that made the vectors; and what is looked for is a matrix there.
    *("ranges", "query_column"),
}

MODEL_METHODS = {
    "embed": "(self, texts, *, prompt=None, dimensions=None, normalize=None, encoding='float32')",
    "similarity": "(self, a, b)",
    "classify": "(self, texts, pairs=None, top_k=1, *, raw_scores=False, threshold=None)",
    "entities": "(self, texts, *, aggregation='simple')",
    "answer": "(self, questions, contexts, *, top_k=1, no_answer=False, raw_scores=False)",
    "fill_mask": "(self, texts, *, top_k=5)",
    "predict": "(self, texts, pairs=None, *, prompt=None, task=None)",
    "embed_sparse": "(self, texts, *, prompt=None, top_k=None)",
    "predict_batch": (
        "(self, batch, *, column=None, pair_column=None, keep=False, plain=False, first_row=0, prefix='', "
        "on_error='record', top_k=None, aggregation='simple', prompt=None, no_answer=False, "
        "raw_scores=False, query=None, task=None, dimensions=None, normalize=None, encoding='float32', "
        "labels=(), "
        "template='This example is {}.', multi_label=False, entailment=None, threshold=None)"
    ),
    "batch_schema": (
        "(self, schema=None, *, keep=False, plain=False, first_row=0, prefix='', top_k=None, "
        "aggregation='simple', prompt=None, no_answer=False, raw_scores=False, query=None, "
        "task=None, dimensions=None, normalize=None, encoding='float32', labels=(), "
        "template='This example is {}.', multi_label=False, entailment=None, threshold=None)"
    ),
    "zero_shot": (
        "(self, texts, labels, *, template='This example is {}.', multi_label=False, entailment=None, "
        "threshold=None, top_k=1)"
    ),
    "embed_chunks": ("(self, texts, *, prompt=None, dimensions=None, normalize=None, encoding='float32')"),
    "embed_tokens": "(self, texts, *, layer=-1, words=None, prompt=None)",
    "rank": "(self, query, documents, *, top_k=None, raw_scores=False)",
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
    assert (
        sorted(name for _, name in drawn)
        == sorted(_classes())
        == sorted(set(errors.__all__) - {"TruncationWarning"})
    )
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


WRONG: dict[str, list[dict[str, Any]]] = {
    "load": [
        {"provider": "tpu"},
        {"provider": None},
        {"threads": 0},
        {"threads": "two"},
        {"max_length": 9999},
        {"max_length": 1},
        {"max_length": "long"},
        {"max_length": 16.5},
        {"long_text": "fold"},
        {"long_text": 3},
        {"tf32": True, "provider": "cpu"},
        {"gpu_memory": -1},
        {"gpu_memory": "all"},
        {"gpu_memory": 2, "provider": "cpu"},
    ],
    "export": [
        {"task": "nerd"},
        {"task": 3},
        {"precision": "int4"},
        {"optimize": "most"},
        {"max_length": "long"},
        {"pooling": "median"},
        {"activation": "loud"},
        {"labels": "no-such-file.txt"},
        {"verify_with": ("nobody",)},
        {"target": "m1", "quantize": True},
        {"target": "avx2"},
        {"calibration": "texts.txt", "task": "ner"},
        {"dimensions": 0},
        {"hidden_states": (0.5,)},
        {"calibrate_scores": "labelled.csv", "task": "ner"},
        {"min_agreement": 0.9},
        {"min_agreement": 99, "quantize": True},
        {"min_agreement": "high", "quantize": True},
        {"precision": "fp16", "quantize": True},
        {"optimize": "none", "quantize": True},
    ],
}
"""Arguments that are wrong, the first of which the error must name."""


@pytest.mark.parametrize(
    ("function", "arguments"), [(function, given) for function, many in WRONG.items() for given in many]
)
def test_an_error_names_the_argument_as_python_does(
    function: str, arguments: dict[str, Any], exported: dict[str, Path], tmp_path: Path
) -> None:
    source = exported["feature-extraction"] if function == "load" else tmp_path
    name = next(iter(arguments))
    with pytest.raises(UsageError) as caught:
        getattr(bertonnx, function)(source, **arguments)
    said = str(caught.value)
    assert re.search(rf"\b{name}\b", said)
    assert "--" not in said
    on_the_command_line = caught.value.worded(COMMAND_LINE)
    assert COMMAND_LINE.option(name) in on_the_command_line
    assert f"{name}=" not in on_the_command_line


def test_the_options_that_can_be_wrong_are_tried() -> None:
    harmless = {"force", "labels", "revision", "normalize", "quantize", "ignore_keys"}
    for function, kind in (("load", LoadOptions), ("export", ExportOptions)):
        tried = {name for arguments in WRONG[function] for name in arguments}
        assert {item.name for item in fields(kind) if item.init} - tried <= harmless


MANY_ROWS: dict[str, Any] = {
    "run": bertonnx.run,
    "predict_batch": bertonnx.Model.predict_batch,
    "batch_schema": bertonnx.Model.batch_schema,
    "ray": bertonnx.ray.predict,
    "spark": bertonnx.spark.predict,
    "udf": bertonnx.spark.udf,
}
"""What reads many rows, and so has every option of `DecodeOptions`."""


@pytest.mark.parametrize("name", MANY_ROWS)
def test_what_reads_many_rows_has_every_option_of_a_text(name: str) -> None:
    """A missing one is a line among the parameters of that function, which `taken` finds by its name."""
    parameters = inspect.signature(MANY_ROWS[name]).parameters
    # A batch has a row for a row, and chunks are several.
    other = set() if name == "run" else {"chunks"}
    defaults = {item.name: item.default for item in fields(DecodeOptions) if item.name not in other}
    assert {option: parameters[option].default for option in defaults if option in parameters} == defaults


def _named_options() -> dict[str, set[str]]:
    """Return the options that messages name, and the files that do."""
    named: dict[str, set[str]] = {}
    rooms = ("models", "runtime", "exporters", "src")
    for path in (file for room in rooms for file in (ROOT / room).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Option":
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    named.setdefault(str(name.value), set()).add(place)
    # Those that messages name by the field of an options object.
    for kind in (LoadOptions, DecodeOptions, ExportOptions):
        for item in (item for item in fields(kind) if item.init):
            named.setdefault(item.name, set()).add(kind.__name__)
    return named


def test_python_has_every_argument_that_its_messages_name() -> None:
    functions: list[Any] = [bertonnx.load, bertonnx.export, bertonnx.check, bertonnx.run]
    functions += [bertonnx.sign, bertonnx.verify_signature, bertonnx.serve, bertonnx.search]
    functions += [bertonnx.train, bertonnx.evaluate, bertonnx.Client]
    functions += MANY_ROWS.values()
    functions += [getattr(bertonnx.Model, name) for name in MODEL_METHODS]
    arguments = {name for function in functions for name in inspect.signature(function).parameters}
    missing = {
        name: places for name, places in _named_options().items() if PYTHON.option(name) not in arguments
    }
    assert set(missing) == COMMANDS_ONLY, missing


def test_the_command_line_has_every_option_that_its_messages_name() -> None:
    group: Any = typer.main.get_command(app)
    commands = group.commands.values()
    options = {word for command in commands for option in command.params for word in option.opts}
    missing = {name for name in _named_options() if COMMAND_LINE.option(name) not in options}
    # Texts are columns there, and record batches only in Python. Tokens are entities as one way of several
    # only in Python and R.
    # A key stands in a variable, and not among the words of a command; a row of `run` has no single layer
    # and no tokens that are joined to words.
    assert missing - {"aggregation"} == {"pairs", "api_key", "layer", "words", *CLUSTERS_ONLY}


def test_r_has_every_argument_that_its_messages_name() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "r" / "R").glob("*.R")))
    functions = re.findall(r"^(?:bert_|predict\.)\w+ <- function\((.*?)\) \{$", sources, re.M | re.S)
    arguments = {name for function in functions for name in re.findall(r"(\w+)(?: =|,|$)", function)}
    exporter = re.findall(r"^EXPORT_\w+ <- c\((.*?)\)$", sources, re.M | re.S)
    arguments |= {name for options in exporter for name in re.findall(r"\w+", options)}
    missing = {name for name in _named_options() if R.option(name) not in arguments}
    # R has vectors in place of columns.
    assert missing - {"column"} <= NOT_IN_R
