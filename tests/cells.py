"""Cells of the matrix, exported once for all tests and workers of a run of pytest.

An export of a tiny checkpoint takes longer than most of what is asked of it.
"""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import bertonnx
from tests.tiny import save_tiny

__all__ = ["Cell", "Cells", "made_in"]

Cells = Callable[[str, str], "Cell"]
"""From a family and a task to their cell."""


@dataclass(frozen=True)
class Cell:
    """A family for a task, as all that is left to its default exports it; nobody may change its files.

    Attributes:
        checkpoint: the tiny checkpoint.
        report: of its export.
    """

    checkpoint: Path
    report: bertonnx.ExportReport


def made_in(place: Path) -> Cells:
    """Return what gives cells, and makes those that are not in a folder yet."""

    def cell(family: str, task: str) -> Cell:
        folder = place / f"{family}-{task}"
        if not folder.is_dir():
            _make(folder, family, task)
        report: bertonnx.ExportReport = pickle.loads((folder / "report").read_bytes())
        return Cell(folder / "checkpoint", replace(report, path=folder / "model.onnx"))

    return cell


def _make(folder: Path, family: str, task: str) -> None:
    folder.parent.mkdir(exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder.parent, prefix="making-"))
    report = bertonnx.export(save_tiny(own / "checkpoint", family, task), own / "model.onnx")
    (own / "report").write_bytes(pickle.dumps(report))
    try:
        own.rename(folder)
    except OSError:
        # Another worker was first.
        shutil.rmtree(own)
