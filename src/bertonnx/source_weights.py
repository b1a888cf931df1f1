"""The weights of a TensorFlow checkpoint, and those of a model file made from one, by the same names."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import SourceError
from bertonnx.models.card import Card
from bertonnx.runtime.modelfile.named_weights import Weight, read_weights

__all__ = ["Difference", "compare_weights", "csv_of", "json_of", "weights"]

_ALIKE = 0.05
"""Share of a tensor's own size by which another precision may change it."""


def weights(source: str | Path) -> list[Weight]:
    """Return the weights of a TensorFlow checkpoint, or of a model file, each with what it became in PyTorch.

    Neither TensorFlow nor PyTorch is needed. Of a model file, the weights are mapped back to the checkpoint
    that it was exported from: fused, transposed and smoothed tensors are undone, and those of fp16 and INT8
    are not `exact`.

    Args:
        source: a checkpoint, as `export` reads it, or a `.onnx` file that was exported from one.

    Raises:
        SourceError: there is no such checkpoint.
        CheckpointError: it is incomplete or damaged.
        ModelFileError: the model file cannot be read, or was not made from a TensorFlow checkpoint.
        MissingDependencyError: h5py is not installed and needed.
    """
    path = Path(source).expanduser()
    if path.suffix == ".onnx":
        return read_weights(path)
    # Only those who look at checkpoints pay for importing what reads them.
    from bertonnx.exporters.checkpoint.tensorflow.account import open_account
    from bertonnx.exporters.checkpoint.tensorflow.locate import locate
    from bertonnx.exporters.checkpoint.tensorflow.reading import kind_of, read_tensors
    from bertonnx.exporters.options import Trust

    located = locate(path, Trust())
    if located is None:
        raise SourceError(
            "{source} is no TensorFlow checkpoint, nor a model file that was exported from one",
            source=str(source),
        )
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as scratch:
        found, _ = read_tensors(located, Path(scratch))
        layout = kind_of(str(source), found)
        entries = open_account(str(source), found, layout, ("ExponentialMovingAverage",)).entries
        return [_of_entry(one) for one in entries]


def _of_entry(entry: Any) -> Weight:
    stored, placed = entry.stored, entry.placed
    why = entry.why or "unknown"
    return Weight(
        name=stored.label or stored.name,
        shape=stored.shape,
        dtype=stored.dtype,
        became="" if placed is None else placed.name,
        how=f"left out: {why}" if placed is None else placed.how,
        exact=True,
        # A copy: an archive's file is gone when this returns.
        values=np.array(stored.values()) if stored.numeric else None,
    )


@dataclass(frozen=True)
class Difference:
    """One tensor of a source, in a model file.

    Attributes:
        name: in the source.
        became: PyTorch's name.
        shape: in the source.
        exact: whether the file holds the source's own numbers.
        difference: largest absolute difference; None where the file does not hold it.
        allowed: what its precision may make of it; 0 where it holds them exactly.
        ok: whether it is no further.
        misplaced: name of the tensor of the source whose numbers stand in its place; "" for none.
    """

    name: str
    became: str
    shape: tuple[int, ...]
    exact: bool
    difference: float | None
    allowed: float
    ok: bool
    misplaced: str


def compare_weights(model: str | Path, source: str | Path) -> list[Difference]:
    """Return how the weights of a model file differ from those of a TensorFlow checkpoint, tensor by tensor.

    A tensor that has another's numbers is told from one that was changed: swapped layers are the mistake that
    is hardest to see.

    Raises:
        BertonnxError: as `weights`.
    """
    there = {one.became: one for one in weights(model) if one.became}
    wanted = [one for one in weights(source) if one.became]
    by_shape: dict[tuple[int, ...], list[Weight]] = {}
    for one in wanted:
        by_shape.setdefault(one.shape, []).append(one)
    return [_difference(one, there.get(one.became), by_shape[one.shape]) for one in wanted]


def _difference(one: Weight, held: Weight | None, others: Sequence[Weight]) -> Difference:
    if held is None or held.values is None or one.values is None:
        # What a file folds into others is there in its predictions alone.
        known = held is not None
        return Difference(one.name, one.became, one.shape, False, None, 0.0, known, "")
    if held.shape != one.shape:
        return Difference(one.name, one.became, one.shape, held.exact, None, 0.0, False, "")
    distance = _distance(held.values, one.values)
    allowed = 0.0 if held.exact else 2 * _ALIKE * float(np.abs(one.values).max(initial=0.0))
    ok = distance <= allowed
    return Difference(
        one.name,
        one.became,
        one.shape,
        held.exact,
        distance,
        allowed,
        ok,
        "" if ok else _whose(held, others, one),
    )


def _distance(one: Any, other: Any) -> float:
    # Infinities of a damaged source give NaN, which is no more than anything, and so never alike.
    with np.errstate(invalid="ignore"):
        return float(np.abs(one - other).max(initial=0.0))


def _whose(held: Weight, others: Sequence[Weight], own: Weight) -> str:
    """Return the tensor of the source whose numbers these are; "" where they are nobody's."""
    assert held.values is not None
    for other in others:
        if other.name != own.name and other.values is not None:
            size = float(np.abs(other.values).max(initial=0.0))
            distance = _distance(held.values, other.values)
            if distance <= (0.0 if held.exact else 2 * _ALIKE * size):
                return other.name
    return ""


_COLUMNS = ("name", "shape", "dtype", "sha256", "became", "how")


def csv_of(card: Card) -> str:
    """Return what became of each tensor of a card's source, a row each, with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(_rows(card))
    return out.getvalue()


def _rows(card: Card) -> Iterator[tuple[str, ...]]:
    for one in card.tensors:
        yield one.name, "x".join(map(str, one.shape)), one.dtype, one.sha256, one.became, one.how


def json_of(card: Card) -> str:
    """Return the same as a list of objects."""
    rows = [
        {**dict(zip(_COLUMNS, row, strict=True)), "shape": list(one.shape)}
        for row, one in zip(_rows(card), card.tensors, strict=True)
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)
