"""Where each of PyTorch's parameters lies in a finished file, so that its weights can be looked at.

Tracing turns weights round and gives some names of its own; INT8 rounds and smooths them, and folds some
biases into others. What is found is found by its numbers, and written so that it can be undone
(`runtime.modelfile.named_weights`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

from bertonnx.runtime.modelfile.initializers import Initializer, read_initializers
from bertonnx.runtime.modelfile.named_weights import Place, stored_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Named", "named", "places"]

Array = npt.NDArray[Any]
Named = Mapping[str, tuple[str, bool]]
"""Parameter -> the initializer of the fp32 graph that holds it, and whether it is transposed there."""

_NEAR = 0.05
"""Share of a weight's own size by which INT8 may round it; from another weight it is 1 and more away."""

_TURNS = 6


def named(graph: onnx.ModelProto, model: PreTrainedModel) -> Named:
    """Return where an fp32 graph holds the parameters of a model, by their numbers."""
    there: dict[tuple[tuple[int, ...], str], str] = {}
    names = set()
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            names.add(tensor.name)
            there.setdefault((array.shape, _digest(array)), tensor.name)
    return dict(_found(model, there, names))


def _found(
    model: PreTrainedModel, there: Mapping[tuple[tuple[int, ...], str], str], names: set[str]
) -> Iterator[tuple[str, tuple[str, bool]]]:
    for name, parameter in model.state_dict().items():
        if not parameter.is_floating_point():
            continue
        array = parameter.detach().cpu().float().numpy()
        plain = there.get((array.shape, _digest(array)))
        if plain is not None:
            # Of several with the same numbers, as biases of zeros are, that of its own name.
            yield name, (name if name in names else plain, False)
        elif array.ndim == 2:
            turned = there.get((array.T.shape, _digest(array.T)))
            if turned is not None:
                yield name, (turned, True)


def _digest(array: Array) -> str:
    return hashlib.sha1(np.ascontiguousarray(array).data, usedforsecurity=False).hexdigest()


def places(path: Path, where: Named, model: PreTrainedModel) -> list[Place]:
    """Return where a finished file holds the parameters, and what undoes what was done to them.

    Args:
        path: the file, of whatever precision.
        where: of its fp32 graph.
        model: in fp32.
    """
    there = read_initializers(path)
    values = model.state_dict()
    found = []
    for name, (own, turned) in where.items():
        array = values[name].detach().cpu().float().numpy()
        place = _place(name, own, turned, there)
        found.append(place if place is None else _undone(place, there, array))
    kept = [place for place in found if place is not None]
    known = {place.name for place in kept}
    lost = {name: value for name, value in values.items() if value.is_floating_point() and name not in known}
    return [*kept, *_renamed(lost, there)]


def _renamed(lost: Mapping[str, Any], there: Mapping[str, Initializer]) -> Iterator[Place]:
    """Yield the places of biases that INT8 named after sums, and of what is not there or part of others."""
    sums = {_of_sum(name): name for name in there}
    for name, value in lost.items():
        array = value.detach().cpu().float().numpy()
        own = sums.get(name, "")
        # INT8 mends biases a little, and adds others to some, which are not these any more.
        same = own and there[own].shape == array.shape and _distance(there[own].values, array) < _NEAR
        yield Place(name, array.shape, own if same else "", mended=bool(same))


def _of_sum(name: str) -> str:
    """Return the parameter whose sum a bias is named after: "/a/b/Add_output_0/bias" is "a.b.bias"."""
    return re.sub(r"/(Add|Gemm|MatMul)_output_0(/first)?/bias$", "/bias", name).strip("/").replace("/", ".")


def _place(name: str, own: str, turned: bool, there: Mapping[str, Initializer]) -> Place | None:
    for suffix in ("", "/float16", "/int8"):
        if own + suffix in there:
            shape = there[own + suffix].shape
            return Place(name, tuple(reversed(shape)) if turned else shape, own + suffix, turned)
    return None


def _undone(place: Place, there: Mapping[str, Initializer], wanted: Array) -> Place | None:
    """Return a place with the factors that smoothing put into it, by the weights that were there before."""
    stored = stored_values(place, there)
    if not place.rounded or stored.ndim != 2:
        return place
    # Smoothing of what goes in, and of attention's output, which the values' layer takes.
    scaled, columns, rows = stored, np.ones(stored.shape[1]), np.ones(stored.shape[0])
    # In turns, since the values' layer has both; what the other has left is then in each.
    for _ in range(_TURNS):
        columns = _factors(stored * rows[:, None], wanted, axis=0)
        rows = _factors(stored * columns[None], wanted, axis=1)
        scaled = stored * columns[None] * rows[:, None]
    if _distance(scaled, wanted) < 0.7 * _distance(stored, wanted):
        place, stored = replace(place, columns=_text(columns), rows=_text(rows)), scaled
    return place if _distance(stored, wanted) < _NEAR else None


def _factors(stored: Array, wanted: Array, *, axis: int) -> Array:
    """Return what each column (axis 0) or row is best multiplied with, as float16 holds it."""
    shares = (stored * wanted).sum(axis=axis) / np.maximum((stored * stored).sum(axis=axis), 1e-30)
    factors: Array = shares.astype(np.float16).astype(np.float32)
    return factors


def _text(factors: Array) -> str:
    return base64.b64encode(factors.astype("<f2").tobytes()).decode()


def _distance(stored: Array, wanted: Array) -> float:
    return float(np.linalg.norm(stored - wanted) / max(float(np.linalg.norm(wanted)), 1e-30))
