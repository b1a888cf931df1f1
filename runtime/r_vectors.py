"""Matrices of R: how near their rows are to each other, and which are the nearest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.models.card import Card
from bertonnx.runtime.options import DecodeOptions, Encoding
from bertonnx.runtime.search import search
from bertonnx.runtime.vectors.encodings import DTYPES, has_ranges
from bertonnx.runtime.vectors.form import form_of
from bertonnx.runtime.vectors.similarity import similarity

__all__ = ["compared", "searched"]

Answer = dict[str, Any]
Matrix = Mapping[str, Any]
"""`bytes` in R's order, by columns: float32, or int8 or uint8 where there is an `encoding`; and `rows`."""


def compared(a: Matrix, b: Matrix, name: str) -> Answer:
    """Return `values`, float32 in R's order: how near each row of one is to each of the other.

    Raises:
        UsageError: there is no such similarity, or the widths differ.
    """
    found = similarity(_array(a), _array(b), name)
    return {"values": bytearray(found.astype("<f4").tobytes(order="F"))}


def searched(
    vectors: str | Matrix,
    queries: Matrix,
    *,
    top_k: int,
    name: str,
    encoding: Encoding | None,
    column: str | None,
    card: Card | None,
) -> Answer:
    """Return the nearest as columns: `lengths` of each query, `places` from 1, and `scores`.

    Args:
        vectors: what is stored: a file, or a matrix.
        queries: float32, or in the encoding of what is stored.
        top_k: how many of each query.
        name: of the similarity.
        encoding: of what is stored.
        column: of a file.
        card: of the model that made them, which knows the ranges of its dimensions.

    Raises:
        BertonnxError: as `bertonnx.search`.
    """
    ranges = None
    if card is not None and encoding is not None and has_ranges(encoding):
        ranges = form_of(card, DecodeOptions(encoding=encoding)).ranges
    hits = search(
        vectors if isinstance(vectors, str) else _array(vectors),
        _array(queries),
        top_k=top_k,
        similarity=name,
        encoding=encoding,
        ranges=ranges,
        column=column,
    )
    every = [hit for each in hits for hit in each]
    return {
        "lengths": [float(len(each)) for each in hits],
        "places": bytearray(np.array([hit["index"] + 1 for hit in every], "<i4").tobytes()),
        "scores": bytearray(np.array([hit["score"] for hit in every], "<f4").tobytes()),
    }


def _array(matrix: Matrix) -> npt.NDArray[Any]:
    encoding: Encoding = matrix.get("encoding") or "float32"
    dtype = np.dtype(DTYPES[encoding]).newbyteorder("<")
    rows = int(matrix["rows"])
    numbers = np.frombuffer(bytes(matrix["bytes"]), dtype=dtype)
    return np.ascontiguousarray(numbers.reshape((rows, int(matrix["columns"])), order="F"))
