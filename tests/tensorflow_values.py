"""What TensorFlow computed of a checkpoint, against the file that bertonnx exports of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import bertonnx
from bertonnx.exporters.convert import ExportReport
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session.session import open_session

__all__ = ["exported", "furthest"]

ALLOWED = 2e-6
"""Of the largest number of an output, or of 1."""


def exported(folder: Path, into: Path, **options: Any) -> ExportReport:
    """Export a fixture's source, a folder or the one thing in it."""
    return bertonnx.export(folder / "source", into / "model.onnx", force=True, **options)


def furthest(report: ExportReport, folder: Path, names: Mapping[str, str]) -> float:
    """Return the largest difference from TensorFlow's values, as a multiple of what is allowed.

    Args:
        report: of the export.
        folder: of the fixture.
        names: the graph's output -> what the fixture calls it.
    """
    session = open_session(report.path, report.card, LoadOptions(provider="cpu", threads=1))
    worst = 0.0
    with np.load(folder / "values.npz") as values:
        for number in range(sum(name.startswith("ids_") for name in values.files)):
            ids = values[f"ids_{number}"].astype(np.int64)
            given = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": values[f"segments_{number}"].astype(np.int64),
            }
            feeds = {name: given[name] for name in report.card.inputs}
            found = session.run(tuple(names), feeds)
            for own, name in zip(found, names.values(), strict=True):
                worst = max(worst, _difference(own, values[f"{name}_{number}"]))
    return worst / ALLOWED


def _difference(own: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    assert own.shape == wanted.shape
    assert np.abs(wanted).max() > 0.05
    return float(np.abs(own - wanted).max() / max(1.0, np.abs(wanted).max()))
