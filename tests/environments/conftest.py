"""What tests in environments of their own share: models, though most of them cannot export, and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.exported import LABELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models by task: those in BERTONNX_TINY, or exported by BERTONNX_EXPORTER, or by this Python."""
    folder = tmp_path_factory.mktemp("exported")
    if made := os.environ.get("BERTONNX_TINY"):
        # Copied, as tests put others in their place.
        shutil.copytree(made, folder, dirs_exist_ok=True)
    else:
        python = os.environ.get("BERTONNX_EXPORTER", sys.executable)
        subprocess.run(
            [python, "-m", "tests.exported", folder], cwd=ROOT, check=True, capture_output=True, timeout=600
        )
    return {task: folder / task / "model.onnx" for task in LABELS}


@pytest.fixture(scope="session")
def table_of() -> Callable[[str, int], Any]:
    """Return what makes a table of texts for a task: with a null, an empty text and a long one among them."""
    import pyarrow as pa

    def make(task: str, rows: int = 40) -> Any:
        mask = " [MASK]" if task == "fill-mask" else ""
        texts: list[str | None] = [
            f"Ada wrote {i} letters to Paris, said film {i % 7}{mask}" for i in range(rows)
        ]
        texts[3 : 3 + 3] = [None, "", f"{'The film is slow, but worth it. ' * 30}{mask}"][: max(0, rows - 3)]
        table = {"id": list(range(rows)), "text": texts, "deep": [{"n": [i, None]} for i in range(rows)]}
        if task in ("question-answering", "text-ranking"):
            table["other"] = [f"In {1800 + i} Ada Lovelace lived in London." for i in range(rows)]
        return pa.table(table)

    return make


@pytest.fixture(scope="session")
def results_of_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Any], list[dict[str, Any]]]:
    """Return what gives the rows that `bertonnx run` writes for a table."""
    import pyarrow.parquet

    import bertonnx

    def run(model: Path, table: Any) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("run")
        pair = "other" if "other" in table.schema.names else None
        pyarrow.parquet.write_table(table, folder / "in.parquet")
        bertonnx.run(
            model, folder / "in.parquet", folder / "out.parquet", column="text", pair_column=pair, threads=1
        )
        result: list[dict[str, Any]] = pyarrow.parquet.read_table(folder / "out.parquet").to_pylist()
        return result

    return run


@pytest.fixture(scope="session")
def descendants() -> Callable[[str], list[int]]:
    """Return what finds the processes below this one whose command line has a word."""

    def found(word: str) -> list[int]:
        parents, lines = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except (OSError, IndexError):
                continue

        def is_below(process: int) -> bool:
            while process not in (0, os.getpid()):
                process = parents.get(process, 0)
            return process != 0

        return sorted(process for process, line in lines.items() if word in line and is_below(process))

    return found


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Return what waits for something to become true, and gives it."""

    def wait(happens: Callable[[], Any]) -> Any:
        end = time.monotonic() + 120
        while not (found := happens()):
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.05)
        return found

    return wait


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the modules of these tests, and run the Python that runs them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
