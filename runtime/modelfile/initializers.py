"""The weights of a model file as arrays, read without ONNX, and mapped until they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.wire import Readable, Span, fields, number_at

__all__ = ["Initializer", "read_initializers", "read_products", "read_tables"]

_DIMS = 1
_INPUT, _NAME, _KIND = 1, 3, 4  # NodeProto
_KINDS: Mapping[int, str] = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
"""Numbers of onnx.TensorProto.DataType."""

_LARGE = 1 << 12
"""Bytes from which a table is worth sharing."""


@dataclass(frozen=True)
class Initializer:
    """One weight of a file.

    Attributes:
        name: the graph's.
        shape: as stored.
        values: its numbers; mapped, not read.
    """

    name: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any]


def read_initializers(path: Path) -> dict[str, Initializer]:
    """Return name -> weight of a file that `modelfile.read_model_file` has checked.

    Weights whose numbers lie in the fields of the message, as a few small ones may, are left out.
    """
    data = np.memmap(path, np.uint8, "r")
    raw: Any = data.data
    found = {}
    for span in _spans(raw, (0, len(data))):
        one = _initializer(raw, span, data, path)
        if one is not None:
            found[one.name] = one
    return found


def read_products(path: Path) -> dict[str, str]:
    """Return node -> what it multiplies with, of the matrix products of a file."""
    data = np.memmap(path, np.uint8, "r")
    raw: Any = data.data
    found = {}
    for span in _spans(raw, (0, len(data)), wire.NODE):
        if _texts(raw, span, _KIND) == ["MatMul"]:
            inputs, name = _texts(raw, span, _INPUT), "".join(_texts(raw, span, _NAME)[-1:])
            if len(inputs) > 1 and name:
                found[name] = inputs[1]
    return found


def read_tables(data: Readable) -> dict[str, npt.NDArray[Any]]:
    """Return name -> copy of each large table from which a model takes rows (`Gather`), words above all.

    Tables in other files, and those that a caller of the graph may replace, are left out.

    Args:
        data: a file that `modelfile.read_model_file` has checked.
    """
    whole = (0, len(data))
    given = {_texts(data, span, 1)[0] for span in _spans(data, whole, wire.INPUT)}
    gathered = {
        inputs[0]
        for span in _spans(data, whole, wire.NODE)
        if _texts(data, span, _KIND) == ["Gather"] and (inputs := _texts(data, span, _INPUT))
    }
    numbers = np.frombuffer(data, np.uint8)
    found = [
        _initializer(data, span, numbers)
        for span in _spans(data, whole)
        if span[1] - span[0] >= _LARGE and not (gathered - given).isdisjoint(_texts(data, span, wire.NAME))
    ]
    return {one.name: np.array(one.values) for one in found if one is not None}


def _texts(data: Readable, span: Span, wanted: int) -> list[str]:
    return [bytes(data[slice(*part)]).decode() for number, part in fields(data, span) if number == wanted]


def _spans(raw: Readable, whole: Span, wanted: int = wire.INITIALIZER) -> Iterator[Span]:
    for number, graph in fields(raw, whole):
        if number == wire.GRAPH:
            yield from (span for kind, span in fields(raw, graph) if kind == wanted)


def _initializer(
    raw: Readable, span: Span, data: npt.NDArray[np.uint8], path: Path | None = None
) -> Initializer | None:
    sizes, name, kind, place = [], "", 0, None
    entries: dict[str, str] = {}
    for number, part in fields(raw, span):
        if number == _DIMS:
            sizes += _numbers(raw, part)
        elif number == wire.NAME:
            name = bytes(raw[slice(*part)]).decode()
        elif number == wire.DATA_TYPE:
            kind = number_at(raw, part)
        elif number == wire.RAW:
            place = data[slice(*part)]
        elif number == wire.EXTERNAL:
            entry = {key: bytes(raw[slice(*piece)]).decode() for key, piece in fields(raw, part)}
            entries[entry.get(1, "")] = entry.get(2, "")
    if entries:
        place = _beside(path, entries) if path is not None else None
    if place is None or kind not in _KINDS:
        return None
    return Initializer(name, tuple(sizes), place.view(_KINDS[kind]).reshape(sizes))


def _beside(path: Path, entries: Mapping[str, str]) -> npt.NDArray[np.uint8]:
    # `read_model_file` made sure that it lies in the model's own folder, and is no link.
    file = np.memmap(path.parent / entries["location"], np.uint8, "r")
    start = int(entries.get("offset") or 0)
    return file[start : start + int(entries.get("length") or len(file) - start)]


def _numbers(raw: Readable, part: Span) -> list[int]:
    """Return the sizes of a field, one, or several packed."""
    numbers, place = [], part[0]
    while place < part[1]:
        end = place
        while raw[end] & 0x80:
            end += 1
        numbers.append(number_at(raw, (place, end + 1)))
        place = end + 1
    return numbers
