"""Parquet and Arrow IPC, read."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import InputError, MissingDependencyError
from tests.tables import rows_of, texts_of, written


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather", "stream.arrow"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_arrow_and_parquet(tmp_path: Path, ending: str, kind: Any) -> None:
    path = tmp_path / f"in{ending}"
    data = pa.table({"n": [1, 2, 3], "text": pa.array(["a", None, "é\0"]).cast(kind)})
    if ending == ".parquet":
        pq.write_table(data, path)
    elif ending == ".feather":
        pyarrow.feather.write_feather(data, str(path))
    else:
        opened = pa.ipc.new_stream if ending.startswith("stream") else pa.ipc.new_file
        with opened(path, data.schema) as out:
            out.write_table(data)
    assert texts_of(path) == ["a", "<missing-text>", "é\0"]


def test_a_column_of_numbers_is_refused_and_one_of_nulls_is_not(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a"], "n": [1], "none": pa.nulls(1)}), path)
    with pytest.raises(InputError, match=r"the column 'n' of .* holds int64, and text is needed"):
        rows_of(path, column="n")
    assert texts_of(path, column="none") == ["<missing-text>"]


_BOMBS = """
import resource, sys
import pyarrow as pa, pyarrow.parquet as pq
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.options import RunOptions
path, layout = sys.argv[1:]
text, rows = "word " * 800_000, 2_000
if layout == "views":
    _, views, *texts = pa.array([text], pa.string_view()).buffers()
    views = pa.py_buffer(views.to_pybytes()[:16] * rows)
    column = pa.Array.from_buffers(pa.string_view(), rows, [None, views, *texts])
else:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
table = pa.table({"text": column})
if path.endswith(".parquet"):
    pq.write_table(table, path, compression="zstd")
else:
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
with open_rows(path, RunOptions(column="text"), needs_pair=False) as found:
    print(sum(row.text == text for row in found))
"""


@pytest.mark.parametrize(
    ("ending", "layout"), [(".parquet", "dictionary"), (".arrow", "dictionary"), (".arrow", "views")]
)
def test_a_thousand_rows_that_point_to_one_huge_text_take_no_gigabytes(
    tmp_path: Path, ending: str, layout: str
) -> None:
    path = tmp_path / f"in{ending}"
    command = [sys.executable, "-c", _BOMBS, str(path), layout]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2000\n", "")
    assert path.stat().st_size < 100_000


def test_invalid_utf8_in_an_arrow_column(tmp_path: Path) -> None:
    path = tmp_path / "in.arrow"
    raw = pa.array([b"a", b"\xff", None, b"b"], pa.binary())
    data = pa.table({"text": pa.Array.from_buffers(pa.string(), 4, raw.buffers())})
    with pa.ipc.new_file(path, data.schema) as out:
        out.write_table(data)
    assert texts_of(path) == ["a", "<invalid-text>", "<missing-text>", "b"]


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("data", [b"", b"PAR1 no, text", b"\xff\xff\xff\xff"])
def test_what_is_not_parquet_or_arrow(tmp_path: Path, ending: str, data: bytes) -> None:
    with pytest.raises(InputError, match="cannot be read as"):
        rows_of(written(tmp_path / f"in{ending}", data))


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    texts = [f"{i} {random.random()}" for i in range(5000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000, use_dictionary=False)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = b"\xff" * 4000
    with pytest.raises(InputError, match="cannot be read on as Parquet"):
        rows_of(written(path, bytes(data)))


def test_without_pyarrow_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "bertonnx\[arrow\]"'):
        rows_of(written(tmp_path / "in.parquet", b"x"))
