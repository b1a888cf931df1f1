"""What holds of every input, and what can be wrong with a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import InputError
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.rows import Row
from tests.tables import TABLES, rows_of, table, texts_of, written


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    long = "word " * 2_000_000
    assert texts_of(written(tmp_path / "in.txt", f"a\n{long}\nb\n")) == ["a", long, "b"]
    assert texts_of(written(tmp_path / "in.csv", f'text,n\n"{long}\n",1\nb,2\n')) == [long + "\n", "b"]


def test_bytes_for_a_progress_bar(tmp_path: Path) -> None:
    for ending in [".txt", *TABLES]:
        columns = {"text": [f"text {i}" for i in range(100)]}
        path = tmp_path / f"in{ending}"
        path = table(path, columns) if ending != ".txt" else written(path, "a\n" * 100)
        with open_rows(path, needs_pair=False) as source:
            assert source.bytes_total == path.stat().st_size
            steps = [source.bytes_done for _ in source]
        assert steps == sorted(steps), ending
        assert 0 <= steps[0] <= steps[-1], ending
        assert source.bytes_done == path.stat().st_size, ending


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; give one file, .*: cat '.*'/\*\.txt > all\.txt"):
        rows_of(tmp_path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*in\.txt"):
        rows_of(tmp_path / "in.txt")


@pytest.mark.parametrize("name", ["in", "in.docx", "in.txt.gz"])
def test_an_ending_that_says_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.txt \.csv \.tsv \.jsonl \.ndjson \.parquet \.arrow \.feather"):
        rows_of(written(tmp_path / name, "a\n"))


def test_endings_in_capitals(tmp_path: Path) -> None:
    assert texts_of(written(tmp_path / "IN.TXT", "a\n")) == ["a"]


@pytest.mark.parametrize("ending", [".txt", *TABLES])
def test_skip_is_the_rest_of_the_rows(tmp_path: Path, ending: str) -> None:
    texts = [f"{'two' + chr(10) if ending == '.csv' and i % 3 == 0 else ''}row {i}" for i in range(10)]
    path = tmp_path / f"in{ending}"
    path = (
        written(path, "".join(f"{t}\n" for t in texts)) if ending == ".txt" else table(path, {"text": texts})
    )
    for count in range(13):
        with open_rows(path, needs_pair=False, skip=count) as source:
            assert source.skipped == min(count, 10)
            assert [row.text for row in source if isinstance(row, Row)] == texts[count:]


def read_stdin(data: bytes, *, needs_pair: bool = False, column: str | None = None) -> str:
    program = (
        "from bertonnx.runtime.io.readers import open_rows\n"
        "from bertonnx.runtime.options import RunOptions\n"
        f"rows = open_rows('-', RunOptions(column={column!r}), needs_pair={needs_pair})\n"
        "for row in rows: print(ascii(getattr(row, 'text', row)))"
    )
    run = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False)
    return run.stdout.decode() + run.stderr.decode().strip().rpartition("\n")[2]


def test_standard_input() -> None:
    assert read_stdin(b"\xef\xbb\xbfa\n{}\n\n", needs_pair=False) == "'a'\n'{}'\n''\n"
    assert read_stdin(b'{"t": "a"}\n', needs_pair=False, column="t") == "'a'\n"
    assert "say column and pair_column to read JSON lines" in read_stdin(b"", needs_pair=True)
    assert "add pair_column='NAME'" in read_stdin(b"", needs_pair=True, column="t")
    assert "put this before it: iconv -f UTF-16" in read_stdin("a".encode("utf-16"), needs_pair=False)


@pytest.mark.parametrize("ending", [".txt", *TABLES])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, ending: str) -> None:
    """All rows together are 20 MB; a reader that holds on to them shows."""
    # Parquet and Arrow are read by thousands of rows; of the others, tracing makes each row slow.
    count, size = (200_000, 100) if ending in (".parquet", ".arrow") else (20_000, 1_000)
    texts = [f"{i} " + "x" * size for i in range(count)]
    path = tmp_path / f"in{ending}"
    if ending == ".txt":
        written(path, "".join(f"{t}\n" for t in texts))
    elif ending == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    elif ending == ".arrow":
        with pa.ipc.new_file(path, pa.schema([("text", pa.string())])) as out:
            # A batch is read at once, and not mapped.
            out.write_table(pa.table({"text": texts}), max_chunksize=10_000)
    else:
        table(path, {"text": texts})
    program = (
        "import pyarrow, tracemalloc\n"
        "from bertonnx.runtime.io.readers import open_rows\n"
        "tracemalloc.start()\n"
        f"n = sum(1 for _ in open_rows({str(path)!r}, needs_pair=False))\n"
        "print(n, tracemalloc.get_traced_memory()[1] + pyarrow.default_memory_pool().max_memory())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    read, peak = map(int, run.stdout.split())
    assert read == count
    assert peak < 12_000_000, "bytes at the peak"
