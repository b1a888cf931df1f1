"""Input files for tests, and what is read from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertonnx.errors import RowError
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.options import RunOptions
from bertonnx.runtime.rows import Row

__all__ = ["TABLES", "rows_of", "table", "texts_of", "written"]

TABLES = [".csv", ".tsv", ".jsonl", ".parquet", ".arrow"]


def rows_of(path: Path, **options: Any) -> list[Row | RowError]:
    """Read a file; what is an option of a run goes there, the rest to the reader."""
    asked = {name: options.pop(name) for name in ("column", "pair_column") if name in options}
    with open_rows(path, RunOptions(**asked), **{"needs_pair": False, **options}) as rows:
        return list(rows)


def texts_of(path: Path, **options: Any) -> list[str]:
    """The texts; of a row with an error, its kind in angle brackets."""
    return [f"<{row.kind}>" if isinstance(row, RowError) else row.text for row in rows_of(path, **options)]


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def table(path: Path, columns: dict[str, list[Any]]) -> Path:
    """Write columns in the format of the path's ending."""
    ending = path.suffix
    rows = list(zip(*columns.values(), strict=True))
    if ending in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file, delimiter="," if ending == ".csv" else "\t")
            out.writerows([list(columns), *rows])
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    elif ending == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=3)
    else:
        data = pa.table(columns)
        with pa.ipc.new_file(path, data.schema) as out:
            out.write_table(data, max_chunksize=3)
    return path
