"""What holds of every output, and everything that can be wrong with one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import MissingDependencyError, OutputError, RowError, UsageError
from bertonnx.runtime.io.columns import Result
from bertonnx.runtime.io.writers import check_output
from tests.jobs import ROOT
from tests.results import CARDS, ENDINGS, results_of, write, writer_of


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


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_older_output_stays_until_the_first_row(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    path.write_text("older")
    writer = writer_of(path, CARDS["feature-extraction"])
    writer.abort()
    assert path.read_text() == "older"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    results = results_of("feature-extraction")
    writer = writer_of(path, CARDS["feature-extraction"])
    writer.write(0, results[0])
    spooled = ending in (".parquet", ".arrow", ".npy")
    assert (path.read_bytes() == b"older") is spooled
    writer.finish()
    assert path.read_bytes() != b"older"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["feature-extraction", "text-classification"])
def test_going_on_behind_any_cut(tmp_path: Path, name: str, ending: str) -> None:
    """Cut what an unfinished run left at any byte: the rest is written as if nothing had happened."""
    results = results_of(name)
    whole = write(tmp_path / f"whole{ending}", name, results).read_bytes()
    path = tmp_path / f"out{ending}"
    writer = writer_of(path, CARDS[name])
    for index, result in enumerate(results):
        writer.write(index, result)
        writer.flush()
    writer.abort()
    left = path if ending in (".jsonl", ".csv", ".tsv") else tmp_path / f"out{ending}.partial"
    data = left.read_bytes()
    seen = set()
    for size in range(0, len(data) + 1, 7 if len(data) < 4000 else 101):
        left.write_bytes(data[:size])
        writer = writer_of(path, CARDS[name], resume=True)
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
        UsageError, match="not hold one row of results for each row of input; run without resume"
    ):
        writer_of(path, CARDS["regression"], resume=True)
    table = tmp_path / "out.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="has other columns"):
        writer_of(table, CARDS["regression"], resume=True)
    write(tmp_path / "other.parquet", "fill-mask", [])
    writer = writer_of(tmp_path / "x.parquet", CARDS["fill-mask"])
    writer.start()
    writer.abort()
    with pytest.raises(UsageError, match="has other columns"):
        writer_of(tmp_path / "x.parquet", CARDS["regression"], resume=True)


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


@pytest.mark.parametrize("length", [300, 254, 246])
def test_a_name_that_is_too_long_or_those_beside_it(tmp_path: Path, length: int) -> None:
    given = tmp_path / ("x" * (length - 4) + ".npy")
    with pytest.raises(OutputError, match=r"cannot write .*: File name too long"):
        check_output(given)
    assert list(tmp_path.iterdir()) == []


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
    writer = writer_of(full, CARDS["regression"])
    with pytest.raises(OutputError, match=r"No space left on device; .* kept: .* resume=True"):
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
        writer = writer_of(path, CARDS["feature-extraction"])

        def fill() -> None:
            for index, result in enumerate(results):
                writer.write(index, result)
            writer.finish()

        with pytest.raises(OutputError, match="No space left on device"):
            fill()
        writer.abort()
        assert not path.exists() or ending in (".jsonl", ".csv", ".tsv")
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        writer = writer_of(path, CARDS["feature-extraction"], resume=True)
        done = writer.done.rows
        assert 100 < done < 5000 or (ending in (".parquet", ".arrow") and done < 5000)
        for index in range(done, len(results)):
            writer.write(index, results[index])
        writer.finish()
        writer.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_does_not_grow_with_the_output(tmp_path: Path, ending: str) -> None:
    """Some thousand embeddings more, and their objects, are megabytes; whoever keeps them shows."""
    program = (
        "import sys, tracemalloc, numpy as np, pyarrow as pa\n"
        "from tests.fake_predictor import card\n"
        "from tests.results import writer_of\n"
        "def make(n):\n"
        "    writer = writer_of(sys.argv[1], card('feature-extraction'))\n"
        "    item = {'embedding': np.full(8, 0.1, np.float32)}\n"
        "    for i in range(n): writer.write(i, item)\n"
        "    writer.finish(); writer.close()\n"
        "make(10)\n"
        "tracemalloc.start()\n"
        "for rows in map(int, sys.argv[2:]):\n"
        "    tracemalloc.reset_peak()\n"
        "    make(rows)\n"
        "    print(tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory())\n"
    )
    # Arrow holds rows until there are enough for a row group; tracing makes text slow.
    held = ending in (".parquet", ".arrow", ".npy")
    few, many, allowed = ("20000", "60000", 1_000_000) if held else ("1000", "6000", 150_000)
    out = subprocess.run(
        [sys.executable, "-c", program, tmp_path / f"out{ending}", few, many],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout
    small, large = map(int, out.split())
    assert large < small + allowed, (small, large)


@pytest.mark.parametrize("name", CARDS)
def test_a_finished_output_is_known_again(tmp_path: Path, name: str) -> None:
    held = name not in ("token-classification", "question-answering", "fill-mask")
    for ending in ENDINGS if held else [ending for ending in ENDINGS if ending != ".npy"]:
        path = write(tmp_path / f"out{ending}", name, results_of(name))
        done = writer_of(path, CARDS[name]).finished()
        assert done is not None
        assert done[:2] == (12, 2), ending
