"""Embeddings in fewer bytes, as Sentence-Transformers makes them (`util/quantization.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import UsageError
from bertonnx.runtime.options import Encoding
from bertonnx.runtime.rows import Array
from bertonnx.wording import Option

__all__ = ["DTYPES", "decode", "encode", "encoded_width", "has_ranges", "is_packed"]

DTYPES: Mapping[Encoding, type[np.generic]] = {
    "float32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}
"""Encoding -> the dtype of its numbers; the last two hold eight dimensions in each."""

_BITS = ("binary", "ubinary")


def is_packed(encoding: Encoding) -> bool:
    """Whether an encoding puts eight dimensions into a byte."""
    return encoding in _BITS


def has_ranges(encoding: Encoding) -> bool:
    """Whether an encoding spreads the range of each dimension over its values."""
    return encoding not in ("float32", *_BITS)


def encoded_width(encoding: Encoding, width: int) -> int:
    """Return how many numbers an embedding of `width` has in an encoding.

    Raises:
        UsageError: eight dimensions share a byte, and the width is no multiple of 8.
    """
    if encoding not in _BITS:
        return width
    if width % 8:
        raise UsageError(
            "{asked} puts eight dimensions into a byte, and an embedding has {width}; give {dimensions}",
            asked=Option("encoding", encoding),
            width=width,
            dimensions=Option("dimensions", max(width - width % 8, 8)),
        )
    return width // 8


def encode(vectors: Array, encoding: Encoding, ranges: Array | None = None) -> npt.NDArray[Any]:
    """Return embeddings in an encoding.

    Args:
        vectors: float32 of shape (n, width).
        encoding: one of `runtime.options.ENCODINGS`.
        ranges: the least and the largest number of each dimension, of shape (2, width), that int8 and
            uint8 spread over their 256 values.

    Returns:
        An array of the encoding's dtype, of shape (n, width), or (n, width / 8) of "binary" and "ubinary".

    Raises:
        UsageError: the width is no multiple of 8 for a binary encoding.
    """
    if encoding == "float32":
        return vectors
    if encoding in _BITS:
        # The sign alone is kept, whatever the range.
        width = encoded_width(encoding, vectors.shape[1])
        packed = np.packbits(vectors > 0, axis=-1).reshape(len(vectors), width)
        return (packed.astype(np.int16) - 128).astype(np.int8) if encoding == "binary" else packed
    assert ranges is not None  # as `has_ranges` says
    start = ranges[0]
    step = (ranges[1] - ranges[0]) / 255
    # A dimension that never changed has no range to spread.
    step = np.where(step == 0, 1, step)
    values: npt.NDArray[np.float32] = np.clip(np.floor((vectors - start) / step), 0, 255)
    return values.astype(np.uint8) if encoding == "uint8" else (values - 128).astype(np.int8)


def decode(encoded: npt.NDArray[Any], encoding: Encoding, ranges: Array | None = None) -> Array:
    """Return encoded embeddings as numbers, float32 of shape (n, dimensions).

    Args:
        encoded: as `encode` gives them.
        encoding: the one that they are in.
        ranges: of int8 and uint8: those that they were made with; None gives the bytes as numbers.

    Returns:
        1 and -1 for bits; the middle of what each byte stands for, where there are ranges.
    """
    if encoding in _BITS:
        packed = encoded.view(np.uint8) ^ np.uint8(128 if encoding == "binary" else 0)
        return np.unpackbits(packed, axis=-1).astype(np.float32) * 2 - 1
    values = encoded.astype(np.float32)
    if encoding == "float32" or ranges is None:
        return values
    places = values + np.float32(0.5 if encoding == "uint8" else 128.5)
    step = (ranges[1] - ranges[0]) / np.float32(255)
    decoded: Array = (ranges[0] + places * step).astype(np.float32)
    return decoded
