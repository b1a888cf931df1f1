"""The weights of a model file by the names that they had in PyTorch, with what was done to them undone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import ModelFileError
from bertonnx.models.card import PLACES_KEY, Card
from bertonnx.models.reading import WrongKindError, parse, read
from bertonnx.models.source_tensors import SourceTensor, change
from bertonnx.runtime.modelfile.initializers import Initializer, read_initializers
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.wording import Call

__all__ = ["Place", "Weight", "as_text", "read_weights", "stored_values"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where a parameter of PyTorch lies in a file.

    Attributes:
        name: PyTorch's.
        shape: PyTorch's.
        initializer: the graph's name; "" where the file does not hold it: it plays no part in the task, or
            was folded into others.
        turned: whether it lies there transposed.
        rows: what each of its rows is multiplied with, in base64 of little-endian float16; "" for nothing.
        columns: what each of its columns is multiplied with, likewise.
        mended: whether INT8 changed its numbers a little where they are still in float32.
    """

    name: str
    shape: tuple[int, ...]
    initializer: str = ""
    turned: bool = False
    rows: str = ""
    columns: str = ""
    mended: bool = False

    @property
    def rounded(self) -> bool:
        """Whether it lies there in INT8."""
        return self.initializer.endswith("/int8")


@dataclass(frozen=True)
class Weight:
    """One weight, from a file or from a source.

    Attributes:
        name: as its source calls it.
        shape: in the source.
        dtype: in the source.
        became: PyTorch's name.
        how: what was done to it (`models.source_tensors`).
        exact: whether `values` are the source's own numbers, bit for bit.
        values: in the source's shape, float32 or the source's own kind; None where there are none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    became: str
    how: str
    exact: bool
    values: Array | None


def as_text(places: list[Place]) -> str:
    """Return places as JSON, the same for the same places."""
    return json.dumps([asdict(place) for place in places], separators=(",", ":"))


def stored_values(place: Place, there: Mapping[str, Initializer]) -> Array:
    """Return a parameter as a file holds it, float32 in PyTorch's shape, before its factors."""
    stored = there[place.initializer].values
    if place.rounded:
        # Of each column of the product, as ONNX Runtime multiplies it.
        scales = there[place.initializer.removesuffix("int8") + "scales"].values
        stored = stored.astype(np.float32) * scales
    array: Array = stored.astype(np.float32, copy=False)
    return array.T if place.turned else array


def read_weights(path: Path) -> list[Weight]:
    """Return the weights of a model file as the TensorFlow checkpoint that it was made from had them.

    Tensors that were left out have no values, nor those that the file folds into others.

    Raises:
        ModelFileError: the file cannot be read, or was not made from a TensorFlow checkpoint.
    """
    file = read_model_file(path)
    card = file.card
    text = file.metadata.get(PLACES_KEY)
    if not card.tensors or text is None:
        raise ModelFileError(
            "{path} keeps no account of its weights: only files that are exported from a TensorFlow "
            "checkpoint do; type: {call}",
            path=path,
            call=Call("export", "SOURCE"),
        )
    try:
        places = {place.name: place for place in (read(Place, one) for one in parse(text))}
    except (WrongKindError, TypeError) as error:
        raise ModelFileError(
            "the account of weights in {path} is damaged ({why}); export the model again",
            path=path,
            why=error,
        ) from error
    return _weights(card, places, read_initializers(path))


def _weights(card: Card, places: Mapping[str, Place], there: Mapping[str, Initializer]) -> list[Weight]:
    return [_weight(one, places, there) for one in card.tensors]


_NOT_THERE = "not in this file, as the task has no use for it or it is part of other numbers"
_HELD = ("float32", "float16", "bfloat16")
"""Kinds of numbers that float32 holds exactly."""


def _weight(one: SourceTensor, places: Mapping[str, Place], there: Mapping[str, Initializer]) -> Weight:
    # An encoder alone has no name of its own before the names of its parts.
    place = places.get(one.became) or places.get(one.became.partition(".")[2])
    if not one.became or place is None or place.initializer not in there:
        how = f"{one.how}; {_NOT_THERE}" if one.became else one.how
        return Weight(one.name, one.shape, one.dtype, one.became, how, False, None)
    values = change(one.how).undo(_values(place, there), one.shape)
    kept = there[place.initializer].values.dtype == np.float32 and not place.mended
    exact = kept and one.dtype in _HELD
    return Weight(one.name, one.shape, one.dtype, one.became, one.how, exact, values)


def _values(place: Place, there: Mapping[str, Initializer]) -> Array:
    array = stored_values(place, there)
    if place.columns:
        array = array * _factors(place.columns)[None]
    return array * _factors(place.rows)[:, None] if place.rows else array


def _factors(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32)
