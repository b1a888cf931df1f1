"""One message in the words of the command line, of Python and of R."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from bertonnx.errors import BertonnxError, RowError, UsageError
from bertonnx.wording import (
    COMMAND_LINE,
    PYTHON,
    Call,
    Install,
    Message,
    Method,
    Option,
    Options,
    R,
    command_face,
    printable,
    worded,
)

FACES = (COMMAND_LINE, PYTHON, R)

WORDED = [
    (Option("max_length"), ("--max-length", "max_length", "max_length")),
    (Option("max_length", 9), ("--max-length 9", "max_length=9", "max_length = 9")),
    (Option("top_k", 3), ("--top-k 3", "top_k=3", "top_n = 3")),
    (Option("provider", "cuda"), ("--provider cuda", "provider='cuda'", 'device = "cuda"')),
    (Option("quantize", True), ("--quantize", "quantize=True", "quantize = TRUE")),
    (Option("normalize", False), ("--no-normalize", "normalize=False", "normalize = FALSE")),
    (Option("lengths", (8, 16)), ("--lengths 8,16", "lengths=(8, 16)", "lengths = c(8, 16)")),
    (
        Options([Option("quantize", True), Option("precision", "fp16")]),
        (
            "--quantize or --precision fp16",
            "quantize=True or precision='fp16'",
            'quantize = TRUE or precision = "fp16"',
        ),
    ),
    (
        Call("export", "SOURCE", output=Path("a b.onnx"), task=None, force=True),
        (
            "bertonnx export SOURCE -o a b.onnx --force",
            "bertonnx.export(source, output='a b.onnx', force=True)",
            'bert_export(source, path = "a b.onnx", force = TRUE)',
        ),
    ),
    (Call("doctor"), ("bertonnx doctor", "bertonnx doctor", "bert_sitrep()")),
    (
        Call("check", "m.onnx"),
        ("bertonnx check m.onnx", "bertonnx.check('m.onnx')", 'bert_verify("m.onnx")'),
    ),
    (Install("cpu"), ('pip install "bertonnx[cpu]"', 'pip install "bertonnx[cpu]"', "bert_install()")),
    (
        Install("", upgrade=True),
        ("pip install --upgrade bertonnx", "pip install --upgrade bertonnx", "bert_install()"),
    ),
    (
        Install("gpu", remove=("onnxruntime",)),
        (
            'pip uninstall -y onnxruntime && pip install "bertonnx[gpu]"',
            'pip uninstall -y onnxruntime && pip install "bertonnx[gpu]"',
            "bert_install(gpu = TRUE)",
        ),
    ),
    (
        Install("train,arrow,export"),
        (
            'pip install "bertonnx[train,arrow,export]"',
            'pip install "bertonnx[train,arrow,export]"',
            'bert_install(export = TRUE, extras = c("train", "arrow"))',
        ),
    ),
]


@pytest.mark.parametrize(("term", "words"), WORDED, ids=lambda value: repr(value)[:40])
def test_terms(term: Option, words: tuple[str, str, str]) -> None:
    assert tuple(term.worded(face) for face in FACES) == words
    assert str(term) == words[1]


def test_facts_are_values_and_each_face_words_the_message() -> None:
    error = UsageError("{asked} is over {limit:.1f}", asked=Option("max_length", 9), limit=5)
    assert str(error) == "max_length=9 is over 5.0"
    assert error.worded(COMMAND_LINE) == "--max-length 9 is over 5.0"
    assert error.worded(R) == "max_length = 9 is over 5.0"
    assert error.facts["limit"] == 5


def test_braces_of_a_user_are_left_alone() -> None:
    assert str(BertonnxError("a {thing} {0}")) == "a {thing} {0}"
    assert str(BertonnxError("no file {name}", name="{limit} {}")) == "no file {limit} {}"


def test_errors_inside_errors_are_worded_too() -> None:
    inner = UsageError("use {option}", option=Option("top_k"))
    outer = BertonnxError("row {row}: {why}", row=3, why=inner)
    assert outer.worded(COMMAND_LINE) == "row 3: use --top-k"
    assert outer.worded(R) == "row 3: use top_n"


@pytest.mark.parametrize(
    "error",
    [
        UsageError("use {option}", option=Option("top_k", 2)),
        RowError("too-long", "{n} tokens", n=7),
        RowError("runtime", "plain {text}"),
    ],
)
def test_errors_survive_pickling(error: BertonnxError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.worded(COMMAND_LINE) == error.worded(COMMAND_LINE)
    assert getattr(again, "kind", None) == getattr(error, "kind", None)


def test_messages_are_values() -> None:
    assert Message("{a}", a=1) == Message("{a}", a=1) != Message("{a}", a=2)
    assert pickle.loads(pickle.dumps(Message("{a}", a=1))) == Message("{a}", a=1)


def test_a_method_is_called_as_each_face_calls_it() -> None:
    said = [Method("classify").worded(face) for face in (COMMAND_LINE, PYTHON, R)]
    assert said == ["classify()", "classify()", "bert_classify()"]
    assert Method("predict").worded(R) == "predict()"


def test_the_command_speaks_as_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTONNX_FACE", raising=False)
    assert command_face() is COMMAND_LINE
    monkeypatch.setenv("BERTONNX_FACE", "R")
    assert command_face() is R


def test_plain_texts_are_worded_as_they_are() -> None:
    assert worded("a {b}", R) == "a {b}"
    assert worded(Message("{a}", a=Option("top_k")), R) == "top_n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é 日本 🙂\n\tand a tab", "plain, é 日本 🙂\n\tand a tab"),
        ("\x1b[31mred\x1b[0m", "\\u001b[31mred\\u001b[0m"),
        ("a\rb\x08c\x00\x7f", "a\\u000db\\u0008c\\u0000\\u007f"),
        ("\x9b31m", "\\u009b31m"),
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
