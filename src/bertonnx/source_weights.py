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
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.modelfile.named_weights import Weight, named_alike, read_weights
from bertonnx.runtime.places import require_name

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
    require_name(path, SourceError)
    return read_weights(path) if path.suffix == ".onnx" else _of_source(path, "")


def _of_source(path: Path, layout: str) -> list[Weight]:
    """Return the weights of a checkpoint, read as a kind of that name where it holds two models."""
    # Only those who look at checkpoints pay for importing what reads them.
    from bertonnx.exporters.checkpoint.tensorflow.account import open_account
    from bertonnx.exporters.checkpoint.tensorflow.locate import locate
    from bertonnx.exporters.checkpoint.tensorflow.reading import kind_of, read_tensors
    from bertonnx.exporters.options import Trust

    located = locate(path, Trust())
    if located is None:
        raise SourceError(
            "{source} is no TensorFlow checkpoint, nor a model file that was exported from one",
            source=str(path),
        )
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as scratch:
        found, _ = read_tensors(located, Path(scratch))
        kind = kind_of(str(path), found)
        if kind.generator is not None and kind.generator.name == layout:
            kind = kind.generator
        entries = open_account(str(path), found, kind, ("ExponentialMovingAverage",)).entries
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
        misplaced: name of the tensor of the source whose numbers stand in its place, its own where they are
            there and turned; "" for none.
        turned: whether those stand there transposed.
    """

    name: str
    became: str
    shape: tuple[int, ...]
    exact: bool
    difference: float | None
    allowed: float
    ok: bool
    misplaced: str = ""
    turned: bool = False


def compare_weights(model: str | Path, source: str | Path) -> list[Difference]:
    """Return how the weights of a model file differ from those of a TensorFlow checkpoint, tensor by tensor.

    A tensor that has another's numbers, or its own transposed, is told from one that was changed: swapped
    layers are the mistake that is hardest to see.

    A model file of the same model in PyTorch can be compared too, where it is in fp32 or fp16: its weights
    are found by their names in PyTorch.

    Raises:
        ModelFileError: the file's weights have other names, or are in INT8 and not made from a TensorFlow
            checkpoint.
        BertonnxError: as `weights`.
    """
    path, other = Path(model).expanduser(), Path(source).expanduser()
    card = read_model_file(path).card
    wanted = [one for one in _of_source(other, str(card.source.get("layout", ""))) if one.became]
    held = read_weights(path) if card.tensors else named_alike(path, [one.source_tensor for one in wanted])
    there = {one.became: one for one in held if one.became}
    by_shape: dict[tuple[int, ...], list[Weight]] = {}
    for one in wanted:
        by_shape.setdefault(one.shape, []).append(one)
    return [_difference(one, there.get(one.became), by_shape[one.shape]) for one in wanted]


def _difference(one: Weight, held: Weight | None, others: Sequence[Weight]) -> Difference:
    if held is None or held.values is None or one.values is None:
        # What a file folds into others is there in its predictions alone.
        return Difference(one.name, one.became, one.shape, False, None, 0.0, held is not None)
    if held.shape != one.shape:
        return Difference(one.name, one.became, one.shape, held.exact, None, 0.0, False)
    distance, allowed = _distance(held.values, one.values), _allowed(held, one.values)
    ok = distance <= allowed
    misplaced, turned = ("", False) if ok else _whose(held, others, one)
    return Difference(one.name, one.became, one.shape, held.exact, distance, allowed, ok, misplaced, turned)


def _allowed(held: Weight, wanted: Any) -> float:
    return 0.0 if held.exact else 2 * _ALIKE * float(np.abs(wanted).max(initial=0.0))


def _distance(one: Any, other: Any) -> float:
    # Infinities of a damaged source give NaN, which is no more than anything, and so never alike.
    with np.errstate(invalid="ignore"):
        return float(np.abs(one - other).max(initial=0.0))


def _whose(held: Weight, others: Sequence[Weight], own: Weight) -> tuple[str, bool]:
    """Return the tensor of the source whose numbers these are, "" for none, and whether they are turned."""
    assert held.values is not None
    square = held.values.ndim == 2 and held.values.shape[0] == held.values.shape[1]
    for turned in (False, True) if square else (False,):
        for other in others:
            if other.values is None or (other.name == own.name and not turned):
                continue
            wanted = other.values.T if turned else other.values
            if _distance(held.values, wanted) <= _allowed(held, wanted):
                return other.name, turned
    return "", False


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
