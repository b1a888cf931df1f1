"""Outputs of text: JSON Lines, CSV, TSV."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bertonnx.errors import RowError, UsageError
from bertonnx.runtime.io.text import json_line
from bertonnx.runtime.io.writers import check_output, open_writer
from bertonnx.runtime.rows import Item
from tests.jobs import ROOT, run, run_until, texts
from tests.results import CARDS, ordered, results_of, same_item, write, writer_of


@pytest.mark.parametrize("name", CARDS)
def test_json_lines_hold_all_of_an_item(tmp_path: Path, name: str) -> None:
    results = results_of(name)
    data = write(tmp_path / "out.jsonl", name, results).read_text(encoding="utf-8")
    lines = data.splitlines()  # which splits at U+0085 and U+2028 too
    assert len(lines) == len(results)
    for index, (line, result) in enumerate(zip(lines, results, strict=True)):
        back = json.loads(line)
        assert next(iter(back)) == "row"
        assert back.pop("row") == index
        if isinstance(result, RowError):
            message = str(result).replace("\udc80", "\\udc80")
            assert back == {"error": {"type": result.kind, "message": message}}
        else:
            assert same_item(back, ordered(result))


def test_json_lines_are_those_of_the_contract() -> None:
    score = float(np.float32(0.98))
    item = {"label": "POSITIVE", "score": score, "scores": {"NEGATIVE": np.float32(0.02), "POSITIVE": score}}
    assert json_line(0, item) == (
        '{"row": 0, "label": "POSITIVE", "score": 0.98, "scores": {"NEGATIVE": 0.02, "POSITIVE": 0.98}}'
    )
    assert json_line(3, {"embedding": np.array([0.1, -0.25], np.float32), "truncated": True}) == (
        '{"row": 3, "embedding": [0.1, -0.25], "truncated": true}'
    )
    assert (
        json_line(4, RowError("too-long", "é")) == '{"row": 4, "error": {"type": "too-long", "message": "é"}}'
    )
    assert json_line(1, {"score": score, "truncated": False}) == '{"row": 1, "score": 0.98}'


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("name", CARDS)
def test_tables_of_text(tmp_path: Path, name: str, ending: str) -> None:
    results = results_of(name)
    path = write(tmp_path / f"out{ending}", name, results)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="," if ending == ".csv" else "\t", strict=True))
    assert len(rows) == len(results)
    for index, (row, result) in enumerate(zip(rows, results, strict=True)):
        assert row["row"] == str(index)
        if isinstance(result, RowError):
            assert (row["error_type"], row["truncated"]) == (result.kind, "false")
            assert row["error_message"] == str(result).replace("\udc80", "\\udc80")
            assert set(list(row.values())[1:-3]) == {""}
        else:
            assert (row["error_type"], row["error_message"]) == ("", "")
            assert row["truncated"] == ("true" if result.get("truncated") else "false")
            check_cells(name, row, result)


def check_cells(name: str, row: dict[str, str], item: Item) -> None:
    if name == "feature-extraction":
        assert same_item([float(row[f"e{i}"]) for i in range(8)], item["embedding"])
    elif name in ("token-classification", "fill-mask"):
        field = "entities" if name == "token-classification" else "masks"
        assert same_item(json.loads(row[field]), item[field])
    elif name == "question-answering":
        assert (row["answer"], row["start"], row["end"]) == (item["answer"], "0", "9")
        assert same_item(float(row["score"]), item["score"])
    else:
        for label, score in item.get("scores", {}).items():
            assert same_item(float(row[f"score_{label}"]), score)
        if name == "multi-label":
            assert row["labels"] == "|".join(item["labels"])
        else:
            assert row.get("label") == item.get("label")
            assert same_item(float(row["score"]), item["score"])


def test_a_nan_is_an_empty_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "out.csv", "regression", [{"score": float("nan")}])
    assert path.read_text() == "row,score,truncated,error_type,error_message\n0,,false,,\n"


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_every_row_is_there_at_once(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    writer = writer_of(path, CARDS["regression"])
    for index in range(5):
        writer.write(index, {"score": 0.5})
        assert path.read_text().count("0.5") == index + 1
    writer.abort()


def test_a_reader_that_goes_away_is_a_broken_pipe() -> None:
    program = (
        "import sys\n"
        "from tests.fake_predictor import card\n"
        "from bertonnx.runtime.io.writers import open_writer\n"
        "writer = open_writer(None, card=card('text-classification'))\n"
        "try:\n"
        "    for i in range(1_000_000): writer.write(i, {'score': 0.5})\n"
        "except BrokenPipeError: sys.stderr.write('broken pipe'); sys.stderr.flush()\n"
        "import os; os._exit(0)\n"
    )
    run = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -n 2', sys.executable, program],
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert run.stdout == b'{"row": 0, "score": 0.5}\n{"row": 1, "score": 0.5}\n'
    assert run.stderr == b"broken pipe"


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "=", '=HYPERLINK("x";"y")']
HARMLESS = ["a=1", " =1", "", "'", "1", "a;=cmd()", 'a"b', "two\nlines", "é"]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_spreadsheet_finds_no_formula_where_that_is_asked_for(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    card = CARDS["question-answering"]
    target = check_output(path, csv_safe=True)
    writer = open_writer(target, card=card)
    cells = [*FORMULAS, *HARMLESS]
    for row, text in enumerate(cells):
        writer.write(row, {"answer": text, "score": -0.5, "start": 0, "end": 1})
    writer.write(len(cells), RowError("runtime", "=1+1"))
    writer.finish()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="," if ending == ".csv" else "\t"))
    # Numbers are no texts: an apostrophe would make them some.
    assert {row["score"] for row in rows[:-1]} == {"-0.5"}
    assert [row["answer"] for row in rows[: len(FORMULAS)]] == ["'" + text for text in FORMULAS]
    assert [row["answer"] for row in rows[len(FORMULAS) : -1]] == HARMLESS
    assert rows[-1]["error_message"] == "'=1+1"
    # Each text is quoted: none can begin a cell of its own where semicolons separate.
    assert b'"a;=cmd()"' in path.read_bytes()


def test_texts_are_as_they_were_where_it_is_not_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    writer = writer_of(path, CARDS["question-answering"])
    writer.write(0, {"answer": "=1+1", "score": 0.5, "start": 0, "end": 1})
    writer.finish()
    assert path.read_text().splitlines()[1].startswith("0,=1+1,0.5,")


def test_formulas_are_a_thing_of_spreadsheets(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"csv_safe=True is for files that spreadsheets open \(\.csv \.tsv\)"
    ):
        check_output(tmp_path / "out.jsonl", csv_safe=True)


def test_a_run_goes_on_only_as_safe_as_it_was_begun(tmp_path: Path) -> None:
    input, output = tmp_path / "in.txt", tmp_path / "out.csv"
    input.write_text("".join(f"={text}\n" for text in texts(30)))
    run_until(10, input, output, csv_safe=True)
    with pytest.raises(UsageError, match="begun with csv_safe=True, and now it is not given"):
        run(input, output, resume=True)
    assert run(input, output, resume=True, csv_safe=True).resumed_rows == 10


def test_no_control_character_is_left_in_a_json_line() -> None:
    text = "".join(map(chr, range(0xA0))) + "\u2028\u2029"
    line = json_line(0, {"label": text})
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u2029" for c in line)
    assert json.loads(line)["label"] == text
    assert json_line(0, {"label": "a\x7f"}) == '{"row": 0, "label": "a\\u007f"}'
