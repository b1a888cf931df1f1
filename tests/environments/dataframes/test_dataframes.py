"""The lines of docs/dataframes.md, run: DuckDB, Polars, pandas and Dask over `predict_batch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for name in ("duckdb", "polars", "pandas", "dask"):
    pytest.importorskip(name, reason="runs in the environment that tools/environments.sh makes")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet  # noqa: E402

from tests.markdown import ROOT, Page  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PAGE = Page(ROOT / "docs" / "dataframes.md", (ROOT / "docs" / "dataframes.md").read_text(encoding="utf-8"))
LIBRARIES = ("pandas", "polars", "duckdb", "dask")


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_lines_of_the_page_give_what_run_gives(
    library: str,
    exported: dict[str, Path],
    table_of: Callable[..., Any],
    results_of_run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (block,) = [block for block in PAGE.blocks("python") if f"import {library}" in block]
    table = table_of("text-classification").drop_columns(["deep"])
    expected = results_of_run(exported["text-classification"], table)
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").symlink_to(exported["text-classification"])
    pyarrow.parquet.write_table(table, "reviews.parquet")
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, f"docs/dataframes.md, {library}", "exec"), names)
    result = names["result"]
    if library == "polars":
        result = result.to_arrow()
    elif library == "duckdb":
        result = result.to_arrow_table() if hasattr(result, "to_arrow_table") else result.arrow()
    elif library == "dask":
        result = result.compute()
    if not isinstance(result, pa.Table):
        result = pa.Table.from_pandas(result, preserve_index=False)
    rows = result.sort_by("id").to_pylist()
    assert [row["id"] for row in rows] == table.column("id").to_pylist()
    for field in ("label", "score", "truncated", "error_type"):
        found = [row[field] for row in rows]
        # pandas has no null among numbers.
        assert [None if value != value else value for value in found] == [row[field] for row in expected], (
            field
        )
