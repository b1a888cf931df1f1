"""Bad input and bad models from the outside: a clear error or an error row, and nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import Command, read_lines, with_metadata, written

# run: bad input ------------------------------------------------------------------------------------


def test_an_empty_file_is_no_rows(command: Command, classifier: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv", "a.tsv", "a.jsonl"):
        assert command("run", classifier, written(tmp_path / name, "")) == (0, "", "")


@pytest.mark.parametrize(
    ("data", "kinds_of_rows"),
    [
        (b"a\n\n   \nb", ["", "", "", ""]),
        (b"good\n\xff\xfe bad\ngood\n", ["", "invalid-text", ""]),
        (b"good\ncut \xe2\x82\n", ["", "invalid-text"]),
        (b"\xef\xbb\xbfwith a mark\n", [""]),
        (b"dos\r\nlines\r\n", ["", ""]),
        (b"a\x00b\x01\x7f\n", [""]),
        (b"only \xe2\x80\xa8 LF ends \xc2\x85 a line\x0b\x0c\n", [""]),
        (b"words " * 1_600_000 + b"\nshort\n", ["", ""]),
        (b"x" * 3_000_000 + b"\nshort\n", ["", ""]),
        (b"x" * 10_000_000 + b"\nshort\n", ["too-long", ""]),
    ],
    ids=[
        "blank",
        "invalid",
        "cut character",
        "mark",
        "crlf",
        "control",
        "separators",
        "10 MB",
        "word",
        "huge word",
    ],
)
def test_strange_lines(
    command: Command, classifier: Path, tmp_path: Path, data: bytes, kinds_of_rows: list[str]
) -> None:
    outcome = command("run", classifier, written(tmp_path / "a.txt", data))
    found = [line["error"]["type"] if "error" in line else "" for line in outcome.lines]
    assert found == kinds_of_rows
    assert outcome.code == (3 if any(kinds_of_rows) else 0)
    assert [line["row"] for line in outcome.lines] == list(range(len(kinds_of_rows)))


def test_a_mark_and_line_ends_are_no_part_of_a_text(
    command: Command, classifier: Path, tmp_path: Path
) -> None:
    plain = command("run", classifier, written(tmp_path / "a.txt", b"Ada\nParis\n"))
    for data in (b"\xef\xbb\xbfAda\nParis", b"Ada\r\nParis\r\n"):
        assert command("run", classifier, written(tmp_path / "b.txt", data)) == plain


def test_rows_that_fail_alone(command: Command, classifier: Path, tmp_path: Path) -> None:
    rows = ['{"text": "good"}', '{"text": "\\ud800"}', '{"text": null}', '{"text": 5}', "{", "{}", "[]"]
    outcome = command("run", classifier, written(tmp_path / "a.jsonl", "\n".join(rows)))
    assert outcome.code == 3
    assert "label" in outcome.lines[0]
    assert [line["error"]["type"] for line in outcome.lines[1:]] == [
        "invalid-text",
        "missing-text",
        "invalid-text",
        "invalid-json",
        "missing-text",
        "invalid-json",
    ]
    assert outcome.err.startswith("6 of 7 rows have an error")


def test_on_error_fail_stops_and_keeps_what_was_finished(
    command: Command, classifier: Path, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.txt", b"good\n\xff\ngood\n")
    output = tmp_path / "out.jsonl"
    outcome = command("run", classifier, file, "-o", output, "--on-error", "fail")
    assert outcome.code == 1
    assert outcome.error.startswith("row 1: line 2 is not valid UTF-8")
    assert [line["row"] for line in read_lines(output)] == [0]


def test_ragged_rows_of_a_table(command: Command, classifier: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "id,text\n1,good\n2\n3,too,many\n4,good\n")
    outcome = command("run", classifier, file)
    assert outcome.code == 3
    assert [line.get("error", {}).get("type") for line in outcome.lines] == [
        None,
        "ragged-row",
        "ragged-row",
        None,
    ]


def test_nulls_of_a_parquet_file(command: Command, classifier: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["good", None, ""]}), tmp_path / "a.parquet")
    outcome = command("run", classifier, tmp_path / "a.parquet")
    assert outcome.code == 3
    assert [line.get("error", {}).get("type") for line in outcome.lines] == [None, "missing-text", None]


@pytest.mark.parametrize(
    ("name", "data", "options", "said"),
    [
        ("a.txt", "a\n".encode("utf-16"), [], "UTF-16"),
        ("a.docx", b"PK", [], "the ending of"),
        ("none", b"", [], "the ending of"),
        ("a.csv", b"id,body\n1,x\n", [], "its columns are: id, body"),
        ("a.csv", b"id,body\n1,x\n", ["--column", "text"], "no column 'text'; its columns are: id, body"),
        ("a.parquet", b"nonsense", [], "Parquet"),
        ("a.arrow", b"nonsense", [], "Arrow"),
        ("a.txt", b"x\n", ["--pair-column", "b"], "pairs of texts are needed"),
    ],
)
def test_input_that_cannot_be_read(
    command: Command, classifier: Path, tmp_path: Path, name: str, data: bytes, options: list[str], said: str
) -> None:
    outcome = command("run", classifier, written(tmp_path / name, data), *options, "-o", tmp_path / "o.jsonl")
    assert outcome.code == 1
    assert said in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_input_that_is_not_there_or_a_folder(command: Command, classifier: Path, tmp_path: Path) -> None:
    missing = command("run", classifier, tmp_path / "no.txt")
    assert (missing.code, missing.error.split(";")[0]) == (1, f"there is no file {tmp_path / 'no.txt'}")
    folder = command("run", classifier, tmp_path)
    assert folder.code == 1
    assert "is a folder" in folder.error


def test_question_answering_needs_contexts(
    command: Command, exported: dict[str, Path], tmp_path: Path
) -> None:
    model = exported["question-answering"]
    for file, said in (
        (written(tmp_path / "a.txt", "Who?\n"), "pairs of texts are needed"),
        (written(tmp_path / "a.csv", "q,c\nWho?,Ada.\n"), "say --column NAME and --pair-column NAME"),
    ):
        outcome = command("run", model, file)
        assert outcome.code == 1
        assert said in outcome.error
    named = written(tmp_path / "b.csv", "question,context\nWho?,Ada.\n")
    assert command("run", model, named).lines[0]["answer"]


def test_a_model_of_text_pairs_needs_pairs(command: Command, classifier: Path, tmp_path: Path) -> None:
    def of_pairs(metadata: dict[str, str]) -> None:
        metadata["bertonnx.card"] = json.dumps({**json.loads(metadata["bertonnx.card"]), "pairs": True})

    model = with_metadata(classifier, tmp_path / "model.onnx", of_pairs)
    alone = command("run", model, written(tmp_path / "a.txt", "Ada\n"))
    assert alone.code == 1
    assert "pairs of texts are needed" in alone.error
    file = written(tmp_path / "a.jsonl", '{"premise": "Ada", "hypothesis": "wrote"}\n{"premise": "Ada"}\n')
    outcome = command("run", model, file)
    assert outcome.code == 3
    assert "label" in outcome.lines[0]
    assert outcome.lines[1]["error"]["type"] == "missing-pair"


@pytest.mark.parametrize(
    ("place", "said"),
    [("no/out.jsonl", "there is no folder"), (".", "is a folder"), ("/proc/out.jsonl", "cannot write")],
)
def test_output_that_cannot_be_written(
    command: Command, classifier: Path, tmp_path: Path, place: str, said: str
) -> None:
    file = written(tmp_path / "a.txt", "text\n")
    outcome = command("run", classifier, file, "-o", tmp_path / place)
    assert outcome.code == 1
    assert said in outcome.error


def test_npy_cannot_hold_entities(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "text\n")
    outcome = command("run", exported["token-classification"], file, "-o", tmp_path / "o.npy")
    assert outcome.code == 2
    assert ".jsonl" in outcome.error


# Bad models ----------------------------------------------------------------------------------------


def _newer(metadata: dict[str, str]) -> None:
    metadata["bertonnx.card"] = json.dumps({**json.loads(metadata["bertonnx.card"]), "format": 99})


def _truncated(source: Path, target: Path) -> Path:
    return written(target, source.read_bytes()[:-1000])


BAD_MODELS: Mapping[str, tuple[Callable[[Path, Path], Path], str]] = {
    "missing": (lambda _, target: target, "there is no file"),
    "zero bytes": (lambda _, target: written(target, b""), "is empty (zero bytes)"),
    "truncated": (_truncated, "truncated"),
    "text": (lambda _, target: written(target, "not a model\n"), "is not an ONNX model"),
    "zip": (lambda _, target: written(target, b"PK\x03\x04" + bytes(64)), "is not an ONNX model"),
    "newer": (lambda source, target: with_metadata(source, target, _newer), "newer bertonnx (card format 99"),
    "without tokenizer": (
        lambda source, target: with_metadata(source, target, lambda m: m.update({"bertonnx.tokenizer": ""})),
        "carries no tokenizer",
    ),
    "damaged card": (
        lambda source, target: with_metadata(source, target, lambda m: m.update({"bertonnx.card": "{"})),
        "card is damaged",
    ),
    "damaged tokenizer": (
        lambda source, target: with_metadata(source, target, lambda m: m.update({"bertonnx.tokenizer": "{"})),
        "tokenizer",
    ),
    "without card": (
        lambda source, target: with_metadata(source, target, dict.clear),
        "was not made by bertonnx",
    ),
}


@pytest.mark.parametrize(
    ("what", "name"),
    # The card can be read whatever the tokenizer is.
    [(w, n) for n in BAD_MODELS for w in ("run", "check", "info") if (w, "tokenizer" in n) != ("info", True)],
)
def test_a_bad_model(command: Command, classifier: Path, tmp_path: Path, name: str, what: str) -> None:
    make, said = BAD_MODELS[name]
    model = make(classifier, tmp_path / "model.onnx")
    file = written(tmp_path / "a.txt", "text\n")
    outcome = command(what, model, *([file, "-o", tmp_path / "o.jsonl"] if what == "run" else []))
    assert outcome.code == 1
    assert said in outcome.error
    assert not (tmp_path / "o.jsonl").exists()


def test_a_folder_of_nothing(command: Command, tmp_path: Path) -> None:
    outcome = command("run", tmp_path, "-")
    assert outcome.code == 1
    assert "holds no model.onnx (.onnx files there: none)" in outcome.error


@pytest.mark.parametrize("what", ["run", "check"])
def test_cuda_is_never_replaced_in_silence(
    command: Command, classifier: Path, tmp_path: Path, what: str
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    file = [written(tmp_path / "a.txt", "text\n")] if what == "run" else []
    outcome = command(what, classifier, *file, "--provider", "cuda")
    assert outcome.code == 1
    assert "provider cuda was asked for" in outcome.error
    assert 'pip install "bertonnx[gpu]"' in outcome.error


def test_control_characters_of_a_header_do_not_reach_the_terminal(
    command: Command, classifier: Path, tmp_path: Path
) -> None:
    path = written(tmp_path / "in.csv", "\x1b]0;title\x07a,b\x9b31m\n1,2\n")
    error = command("run", classifier, path).error
    assert "its columns are: \\u001b]0;title\\u0007a, b\\u009b31m" in error
    assert error.isprintable()
