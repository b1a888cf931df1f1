"""Outputs: every format for every task, and everything that can be wrong with one."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import MissingDependencyError, OutputError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.columns import Result, exact, floats_text
from bertonnx.runtime.io.writers import check_output, json_line, open_writer
from bertonnx.runtime.rows import Item
from tests.fake_predictor import LABELS, card
from tests.jobs import ROOT
from tests.results import CARDS, ENDINGS, ordered, results_of, same_item, write

# Floats --------------------------------------------------------------------------------------


def test_every_float32_survives_its_text_and_the_text_is_the_shortest() -> None:
    random = np.random.default_rng(3)
    some = random.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    unit = random.normal(size=200_000).astype(np.float32) / 20
    edges = np.array([0.1, 1e-45, 3.4028235e38, 1.17549435e-38, 9.999999e-5, 0.3, 2**-24, 1.5], np.float32)
    for array in (some[np.isfinite(some)], unit, edges, -edges):
        array = array[array != np.trunc(array)]
        texts = floats_text(array).split(", ")
        assert np.array(texts, np.float64).astype(np.float32).tobytes() == array.tobytes()
        assert list(map(float, texts[:50_000])) == [float(str(x)) for x in array[:50_000]]


def test_whole_numbers_keep_their_point_and_their_sign() -> None:
    array = np.array([1.0, -0.0, 0.0, 16777216.0, 1e30, 0.5], np.float32)
    assert floats_text(array) == "1.0, -0.0, 0.0, 16777216.0, 1e+30, 0.5"
    back = np.array(json.loads(f"[{floats_text(array)}]"), np.float32)
    assert back.tobytes() == array.tobytes()


def test_nan_and_infinity_are_null() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 0.25], np.float32)
    assert floats_text(array) == "null, null, null, 0.25"
    assert exact(float("nan")) is None
    assert json_line(0, {"score": float("inf"), "embedding": array}) == (
        '{"row": 0, "embedding": [null, null, null, 0.25], "score": null}'
    )
    assert json_line(0, {"score": float("nan")}) == '{"row": 0, "score": null}'


# JSON ----------------------------------------------------------------------------------------


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


# Tables --------------------------------------------------------------------------------------


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


def test_the_columns_are_those_that_are_documented(tmp_path: Path) -> None:
    expected = {
        "feature-extraction": ["embedding"],
        "text-classification": ["label", "score", *(f"score_{label}" for label in LABELS)],
        "multi-label": ["labels", *(f"score_{label}" for label in LABELS)],
        "regression": ["score"],
        "token-classification": ["entities"],
        "question-answering": ["answer", "score", "start", "end"],
        "fill-mask": ["masks"],
    }
    for name, columns in expected.items():
        path = write(tmp_path / "out.parquet", name, results_of(name))
        assert pq.read_schema(path).names == ["row", *columns, "truncated", "error_type", "error_message"]


def test_a_nan_is_an_empty_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "out.csv", "regression", [{"score": float("nan")}])
    assert path.read_text() == "row,score,truncated,error_type,error_message\n0,,false,,\n"


def test_npy(tmp_path: Path) -> None:
    results = results_of("feature-extraction")
    array = np.load(write(tmp_path / "out.npy", "feature-extraction", results))
    assert (array.dtype, array.shape) == (np.float32, (12, 8))
    for row, result in zip(array, results, strict=True):
        if isinstance(result, RowError):
            assert np.isnan(row).all()
        else:
            assert row.tobytes() == result["embedding"].tobytes()
    for name, width in (("text-classification", 3), ("multi-label", 3), ("regression", 1)):
        results = results_of(name)
        array = np.load(write(tmp_path / "out.npy", name, results))
        assert array.shape == (12, width)
        item = results[3]
        assert isinstance(item, dict)
        assert array[3].tolist() == [*item.get("scores", {"": item.get("score")}).values()]


@pytest.mark.parametrize("name", ["token-classification", "question-answering", "fill-mask"])
def test_npy_names_the_formats_that_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}.*write \.jsonl, \.csv, \.tsv, \.parquet or \.arrow"):
        open_writer(tmp_path / "out.npy", card=CARDS[name])


def test_a_width_that_is_not_known(tmp_path: Path) -> None:
    for ending in (".csv", ".npy", ".parquet"):
        with pytest.raises(OutputError, match=r"how wide its embeddings are.*write \.jsonl"):
            open_writer(tmp_path / f"out{ending}", card=card("feature-extraction", width=None))


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_rows_is_a_valid_output(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"out{ending}", "feature-extraction", [])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if ending == ".jsonl":
        assert path.read_bytes() == b""
    elif ending == ".npy":
        assert np.load(path).shape == (0, 8)
    elif ending in (".parquet", ".arrow"):
        data = pq.read_table(path) if ending == ".parquet" else pa.ipc.open_file(path).read_all()
        assert (data.num_rows, data.num_columns) == (0, 5)
    else:
        names = ["row", *(f"e{i}" for i in range(8)), "truncated", "error_type", "error_message"]
        assert path.read_text() == ("," if ending == ".csv" else "\t").join(names) + "\n"


# When the disk changes -------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_older_output_stays_until_the_first_row(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    path.write_text("older")
    writer = open_writer(path, card=CARDS["feature-extraction"])
    writer.abort()
    assert path.read_text() == "older"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    results = results_of("feature-extraction")
    writer = open_writer(path, card=CARDS["feature-extraction"])
    writer.write(0, results[0])
    spooled = ending in (".parquet", ".arrow", ".npy")
    assert (path.read_bytes() == b"older") is spooled
    writer.finish()
    assert path.read_bytes() != b"older"


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_every_row_is_there_at_once(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    writer = open_writer(path, card=CARDS["regression"])
    for index in range(5):
        writer.write(index, {"score": 0.5})
        assert path.read_text().count("0.5") == index + 1
    writer.abort()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["feature-extraction", "text-classification"])
def test_going_on_behind_any_cut(tmp_path: Path, name: str, ending: str) -> None:
    """Cut what an unfinished run left at any byte: the rest is written as if nothing had happened."""
    results = results_of(name)
    whole = write(tmp_path / f"whole{ending}", name, results).read_bytes()
    path = tmp_path / f"out{ending}"
    writer = open_writer(path, card=CARDS[name])
    for index, result in enumerate(results):
        writer.write(index, result)
        writer.flush()
    writer.abort()
    left = path if ending in (".jsonl", ".csv", ".tsv") else tmp_path / f"out{ending}.partial"
    data = left.read_bytes()
    seen = set()
    for size in range(0, len(data) + 1, 7 if len(data) < 4000 else 101):
        left.write_bytes(data[:size])
        writer = open_writer(path, card=CARDS[name], resume=True)
        rows, errors, truncated = writer.done
        seen.add(rows)
        before = results[:rows]
        assert errors == sum(isinstance(r, RowError) for r in before)
        assert truncated == sum(isinstance(r, dict) and "truncated" in r for r in before)
        for index in range(rows, len(results)):
            writer.write(index, results[index])
        writer.finish()
        writer.close()
        assert path.read_bytes() == whole, f"cut at {size} of {len(data)}"
    assert seen >= set(range(len(results) - 1))


def test_what_this_run_cannot_have_written_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"row": 0, "score": 1.0}\n{"row": 7, "score": 1.0}\n')
    with pytest.raises(
        UsageError, match="not hold one row of results for each row of input; run without --resume"
    ):
        open_writer(path, card=CARDS["regression"], resume=True)
    table = tmp_path / "out.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="has other columns"):
        open_writer(table, card=CARDS["regression"], resume=True)
    write(tmp_path / "other.parquet", "fill-mask", [])
    writer = open_writer(tmp_path / "x.parquet", card=CARDS["fill-mask"])
    writer.start()
    writer.abort()
    with pytest.raises(UsageError, match="has other columns"):
        open_writer(tmp_path / "x.parquet", card=CARDS["regression"], resume=True)


# What can be wrong ------------------------------------------------------------------------------


def test_checks_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "in.csv")
    with pytest.raises(UsageError, match=r"names no format; use one of \.jsonl \.ndjson \.csv"):
        check_output(tmp_path / "out.txt")
    with pytest.raises(OutputError, match=r"is a folder; name a file in it, such as .*out\.jsonl"):
        check_output(tmp_path)
    with pytest.raises(OutputError, match=r"there is no folder .*mkdir -p"):
        check_output(tmp_path / "no" / "out.csv")
    with pytest.raises(UsageError, match="is the input; name another file"):
        check_output(tmp_path / "link.csv", input=tmp_path / "in.csv")
    with pytest.raises(OutputError, match=r"cannot write /proc/out\.jsonl"):
        check_output("/proc/out.jsonl")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.csv", "link.csv"]


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "bertonnx\[arrow\]"'):
        check_output(tmp_path / "out.parquet")


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for ending in (".jsonl", ".npy"):
        link = tmp_path / f"out{ending}"
        link.symlink_to(tmp_path / "real" / f"out{ending}")
        write(link, "regression", [{"score": 0.5}])
        assert link.is_symlink()
        assert (tmp_path / "real" / f"out{ending}").is_file()


def test_a_full_device(tmp_path: Path) -> None:
    full = tmp_path / "out.jsonl"
    full.symlink_to("/dev/full")
    writer = open_writer(full, card=CARDS["regression"])
    with pytest.raises(OutputError, match=r"No space left on device; .* kept: .* --resume"):
        writer.write(0, {"score": 0.5})
    writer.abort()


@contextmanager
def tiny_disk(folder: Path, size: str = "64k") -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_and_going_on_after_it(tmp_path: Path, ending: str) -> None:
    results: list[Result] = [results_of("feature-extraction")[3]] * 5000
    whole = write(tmp_path / f"whole{ending}", "feature-extraction", results).read_bytes()
    with tiny_disk(tmp_path / "disk") as disk:
        path = disk / f"out{ending}"
        writer = open_writer(path, card=CARDS["feature-extraction"])

        def fill() -> None:
            for index, result in enumerate(results):
                writer.write(index, result)
            writer.finish()

        with pytest.raises(OutputError, match="No space left on device"):
            fill()
        writer.abort()
        assert not path.exists() or ending in (".jsonl", ".csv", ".tsv")
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        writer = open_writer(path, card=CARDS["feature-extraction"], resume=True)
        done = writer.done.rows
        assert 100 < done < 5000 or (ending in (".parquet", ".arrow") and done < 5000)
        for index in range(done, len(results)):
            writer.write(index, results[index])
        writer.finish()
        writer.close()
        assert path.read_bytes() == whole


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


@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_does_not_grow_with_the_output(tmp_path: Path, ending: str) -> None:
    """20,000 embeddings more, and their objects, are 4 MB; whoever keeps them shows."""
    program = (
        "import sys, tracemalloc, numpy as np, pyarrow as pa\n"
        "from tests.fake_predictor import card\n"
        "from bertonnx.runtime.io.writers import open_writer\n"
        "rows = int(sys.argv[2])\n"
        "def make(n):\n"
        "    writer = open_writer(sys.argv[1], card=card('feature-extraction'))\n"
        "    item = {'embedding': np.full(8, 0.1, np.float32)}\n"
        "    for i in range(n): writer.write(i, item)\n"
        "    writer.finish(); writer.close()\n"
        "make(10)\n"
        "tracemalloc.start()\n"
        "make(rows)\n"
        "print(tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory())\n"
    )
    # Arrow holds rows until there are enough for a row group; tracing makes text slow.
    counts = (20_000, 60_000) if ending in (".parquet", ".arrow", ".npy") else (4_000, 24_000)
    peak = {
        rows: int(
            subprocess.run(
                [sys.executable, "-c", program, tmp_path / f"out{ending}", str(rows)],
                capture_output=True,
                check=True,
                cwd=ROOT,
            ).stdout
        )
        for rows in counts
    }
    assert peak[counts[1]] < peak[counts[0]] + 1_000_000, peak


# More than the best, ------------------------------------------------------

BEST: dict[str, tuple[Card, Item]] = {
    "top": (
        CARDS["text-classification"],
        {"label": "a", "score": 0.5, "top": [{"label": "a", "score": 0.5}]},
    ),
    "answers": (
        CARDS["question-answering"],
        {**(answer := {"answer": "é", "score": 0.25, "start": 1, "end": 2}), "answers": [answer]},
    ),
}


@pytest.mark.parametrize("name", BEST)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_the_best_few_have_a_column(tmp_path: Path, name: str, ending: str) -> None:
    model, item = BEST[name]
    for top_k in (1, 2):
        path = tmp_path / f"out{ending}"
        writer = open_writer(path, card=model, top_k=top_k)
        writer.write(0, item if top_k == 2 else {k: v for k, v in item.items() if k != name})
        writer.finish()
        writer.close()
        if ending == ".parquet":
            row = pq.read_table(path).to_pylist()[0]
        elif ending == ".jsonl":
            row = json.loads(path.read_text())
        else:
            with path.open(newline="") as file:
                row = next(csv.DictReader(file))
            row = {k: json.loads(v) if k == name else v for k, v in row.items()}
        assert row.get(name) == (item[name] if top_k == 2 else None)
        assert (name in row) is (top_k == 2)


def test_regression_with_several_outputs(tmp_path: Path) -> None:
    model = card("text-classification", problem_type="regression", labels=("x", "y"))
    for ending in (".csv", ".npy"):
        writer = open_writer(tmp_path / f"out{ending}", card=model)
        writer.write(0, {"scores": {"x": 1.5, "y": -2.0}})
        writer.finish()
        writer.close()
    expected = "row,score_x,score_y,truncated,error_type,error_message\n0,1.5,-2.0,false,,\n"
    assert (tmp_path / "out.csv").read_text() == expected
    assert np.load(tmp_path / "out.npy").tolist() == [[1.5, -2.0]]


# What is there and is finished ---------------------------------------------------------------------


def _saved(path: Path, array: object) -> None:
    with path.open("wb") as file:
        np.save(file, array)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04 a zip file",
        np.zeros(12, np.float32),
        np.float32(0),
        np.zeros((12, 7), np.float32),
        np.zeros((12, 8), np.float64),
        np.zeros((12, 8, 1), np.float32),
        np.array([["a"] * 8], dtype=object),
    ],
    ids=["garbage", "short", "zip", "1-D", "0-D", "width", "float64", "3-D", "objects"],
)
def test_a_foreign_npy_is_not_taken_for_a_finished_one(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "out.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        _saved(path, content)
    with pytest.raises(UsageError, match=r"out\.npy was not written by this command; run without --resume"):
        open_writer(path, card=CARDS["feature-extraction"]).finished()


def test_a_cut_npy_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    path = write(tmp_path / "out.npy", "feature-extraction", results_of("feature-extraction"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="was not written by this command"):
        open_writer(path, card=CARDS["feature-extraction"]).finished()


@pytest.mark.parametrize("name", CARDS)
def test_a_finished_output_is_known_again(tmp_path: Path, name: str) -> None:
    held = name not in ("token-classification", "question-answering", "fill-mask")
    for ending in ENDINGS if held else [ending for ending in ENDINGS if ending != ".npy"]:
        path = write(tmp_path / f"out{ending}", name, results_of(name))
        done = open_writer(path, card=CARDS[name]).finished()
        assert done is not None
        assert done[:2] == (12, 2), ending
