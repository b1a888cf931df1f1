"""The weights of a model file by the names that they had in PyTorch, with what was done to them undone."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import ModelFileError
from bertonnx.models.card import MOVED_KEY, PLACES_KEY
from bertonnx.models.reading import WrongKindError, parse, read
from bertonnx.models.source_tensors import SourceTensor, change
from bertonnx.runtime.modelfile.initializers import Initializer, read_initializers, read_products
from bertonnx.runtime.modelfile.modelfile import ModelFile, read_model_file
from bertonnx.wording import Call

__all__ = ["Place", "Weight", "as_text", "moved_text", "named_alike", "read_weights", "stored_values"]

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

    @property
    def source_tensor(self) -> SourceTensor:
        """Its account, without a digest."""
        return SourceTensor(self.name, self.shape, self.dtype, "", self.became, self.how)


def as_text(places: list[Place]) -> str:
    """Return places as JSON, the same for the same places."""
    return json.dumps([asdict(place) for place in places], separators=(",", ":"))


def moved_text(moved: Mapping[str, Array]) -> str:
    """Return vectors as JSON: name -> base64 of little-endian float32."""
    numbers = {name: base64.b64encode(moved[name].astype("<f4").tobytes()).decode() for name in sorted(moved)}
    return json.dumps(numbers, separators=(",", ":"))


def _moved(path: Path, file: ModelFile) -> dict[str, Initializer]:
    """Return the biases that are part of other numbers in a file, as they were.

    Raises:
        ModelFileError: they cannot be read.
    """
    try:
        texts = parse(file.metadata.get(MOVED_KEY, "{}"))
        if not isinstance(texts, dict):
            raise WrongKindError("not an object")
        numbers = {
            name: np.frombuffer(base64.b64decode(text, validate=True), "<f4") for name, text in texts.items()
        }
    except (WrongKindError, TypeError, ValueError) as error:
        raise ModelFileError(
            "the account of biases in {path} is damaged ({why}); export the model again", path=path, why=error
        ) from error
    return {name: Initializer(name, array.shape, array) for name, array in numbers.items()}


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
    there = read_initializers(path)
    return [_weight(one, places, there) for one in card.tensors]


def named_alike(path: Path, tensors: Sequence[SourceTensor]) -> list[Weight]:
    """Return the weights of a file that keeps no account of them, by PyTorch's names in its graph.

    Args:
        path: the file.
        tensors: of the checkpoint that it is compared with.

    Raises:
        ModelFileError: it cannot be read, is in INT8, or its weights have other names.
    """
    file = read_model_file(path)
    card = file.card
    there = _moved(path, file) | read_initializers(path)
    places = {} if card.precision == "int8" else _by_names(there, read_products(path))
    for one in tensors:
        place, shape = _place_of(one, places), change(one.how).shape(one.shape)
        if place is not None and place.shape != shape:
            raise ModelFileError(
                "{path} is of another size than the checkpoint: {name} has the shape {shape} there, and "
                "{other} in the file",
                path=path,
                name=one.became,
                shape=shape,
                other=place.shape,
            )
    found = [_weight(one, places, there) for one in tensors]
    if all(one.values is None for one in found):
        raise ModelFileError(
            "{path} keeps no account of its weights, and {why}; compare a file in fp32, or type: {call}",
            path=path,
            why="INT8 has joined and smoothed them" if card.precision == "int8" else "they have other names",
            call=Call("export", "SOURCE"),
        )
    return found


def _by_names(there: Mapping[str, Initializer], products: Mapping[str, str]) -> dict[str, Place]:
    """Return the places of parameters that a graph names, itself or by the product that they are part of."""
    places = {}
    for own, one in there.items():
        name = own.removesuffix("/float16")
        places[name] = Place(name, one.shape, own)
    for product, own in products.items():
        # "/bert/pooler/dense/MatMul" multiplies with what PyTorch calls "bert.pooler.dense.weight"; where
        # only the first token is wanted, it is "/bert/pooler/dense/MatMul_output_0/first/MatMul".
        layer = re.sub(r"(/MatMul_output_0/\w+)?/MatMul$", "", product)
        name = layer.strip("/").replace("/", ".") + ".weight"
        if own in there and name not in places:
            places[name] = Place(name, tuple(reversed(there[own].shape)), own, turned=True)
    return places


_NOT_THERE = "not in this file, as the task has no use for it or it is part of other numbers"
_HELD = ("float32", "float16", "bfloat16")
"""Kinds of numbers that float32 holds exactly."""


def _place_of(one: SourceTensor, places: Mapping[str, Place]) -> Place | None:
    # An encoder alone has no name of its own before the names of its parts.
    return places.get(one.became) or places.get(one.became.partition(".")[2])


def _weight(one: SourceTensor, places: Mapping[str, Place], there: Mapping[str, Initializer]) -> Weight:
    place = _place_of(one, places)
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
