"""Vectors as they are stored, in any encoding, and as numbers that can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import UsageError
from bertonnx.runtime.options import ENCODINGS, Encoding, chosen
from bertonnx.runtime.rows import Array
from bertonnx.runtime.vectors.encodings import DTYPES, decode, is_packed
from bertonnx.wording import Option

__all__ = ["Kind", "Reading", "encoding_of", "kind_of", "reading_of", "require_stored_as"]


@dataclass(frozen=True)
class Kind:
    """What vectors look like.

    Attributes:
        width: how many numbers each has.
        dtype: their type.
    """

    width: int
    dtype: np.dtype[Any]

    @property
    def whole(self) -> bool:
        """Whether the numbers are bytes, and so an encoding."""
        return self.dtype in (np.int8, np.uint8)


def kind_of(array: npt.NDArray[Any], what: str) -> Kind:
    """Return what the vectors of an array look like.

    Raises:
        UsageError: they are no table of numbers.
    """
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise UsageError(
            "{what} must be vectors, numbers of shape (n, width), and is {dtype} of shape {shape}",
            what=what,
            dtype=str(array.dtype),
            shape=array.shape,
        )
    return Kind(array.shape[1], array.dtype)


@dataclass(frozen=True, eq=False)
class Reading:
    """How vectors become numbers that can be compared.

    Attributes:
        encoding: what they are in.
        ranges: float32 of shape (2, width), with which bytes become the numbers that they were made of; None
            to compare them as they are.
    """

    encoding: Encoding
    ranges: Array | None = None

    def of(self, array: npt.NDArray[Any]) -> Array:
        """Return vectors as float32 of shape (n, dimensions); those that are near to nothing as NaN."""
        if self.encoding == "float32":
            finite = np.isfinite(array).all(axis=1)
            if finite.all():
                return array.astype(np.float32, copy=False)
            return np.where(finite[:, None], array, np.nan).astype(np.float32)
        numbers = decode(array, self.encoding, self.ranges)
        # What `run` writes where a text failed, since integers have no NaN.
        numbers[~array.any(axis=1)] = np.nan
        return numbers


def reading_of(
    stored: Kind, queries: Kind, *, encoding: Encoding | None, ranges: Array | None
) -> tuple[Reading, Reading]:
    """Return how stored vectors and queries are read.

    Queries are in the encoding of what is stored, or float32.

    Args:
        stored: what is stored.
        queries: what is looked for.
        encoding: of what is stored; None for what follows from types and widths.
        ranges: of the dimensions, for int8 and uint8.

    Raises:
        UsageError: the two do not belong together, or what they are does not follow.
    """
    if encoding is None:
        encoding = encoding_of(stored, queries)
    chosen("encoding", encoding, ENCODINGS)
    require_stored_as(encoding, stored)
    width = stored.width * 8 if is_packed(encoding) else stored.width
    same = stored.whole and queries.dtype == stored.dtype and queries.width == stored.width
    if not same and queries.width != width:
        raise UsageError(
            "the queries have {queries} numbers each, and the stored vectors are of {width} dimensions; make "
            "both with one model and the same options",
            queries=queries.width,
            width=width,
        )
    reading = Reading(encoding, _fitting(ranges, width))
    if same or is_packed(encoding) or not stored.whole:
        return reading, reading if same else Reading("float32")
    if ranges is None:
        raise UsageError(
            "the stored vectors are {encoding} and the queries are {dtype}; to compare them, give the ranges "
            "that they were made with as {ranges}, or queries in {encoding}",
            encoding=encoding,
            dtype=str(queries.dtype),
            ranges=Option("ranges"),
        )
    return reading, Reading("float32")


def require_stored_as(encoding: Encoding, stored: Kind) -> None:
    """Refuse an encoding whose numbers are of another type than what is stored.

    Raises:
        UsageError: they are.
    """
    if stored.whole != (encoding != "float32") or (stored.whole and stored.dtype != DTYPES[encoding]):
        raise UsageError(
            "{asked}, and the stored vectors are {dtype}; give the one that they were made with",
            asked=Option("encoding", encoding),
            dtype=str(stored.dtype),
        )


def encoding_of(stored: Kind, queries: Kind) -> Encoding:
    """Return the encoding that follows from types and widths.

    Raises:
        UsageError: several are possible.
    """
    if not stored.whole:
        return "float32"
    signed = stored.dtype.kind == "i"
    if not queries.whole and queries.width != stored.width:
        return "binary" if signed else "ubinary"
    if not queries.whole:
        return "int8" if signed else "uint8"
    # A byte can be a dimension or eight of them, and to take one for the other gives nonsense in silence.
    byte, bits = ("int8", "binary") if signed else ("uint8", "ubinary")
    raise UsageError(
        "vectors of {dtype} can be a byte or eight bits for each number; say which with {byte} or {bits}",
        dtype=str(stored.dtype),
        byte=Option("encoding", byte),
        bits=Option("encoding", bits),
    )


def _fitting(ranges: Array | None, width: int) -> Array | None:
    if ranges is not None and ranges.shape != (2, width):
        raise UsageError(
            "{option} must be of shape (2, {width}), the least and the largest number of each dimension, and "
            "the shape is {shape}",
            option=Option("ranges"),
            width=width,
            shape=ranges.shape,
        )
    return ranges
