"""How near embeddings are to each other, as Sentence-Transformers computes it (`util/similarity.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from bertonnx.errors import UsageError
from bertonnx.runtime.rows import Array
from bertonnx.wording import Option

__all__ = ["SIMILARITIES", "similarity", "texts_or_vectors", "unit", "vectors_of"]

_LEAST_LENGTH = 1e-12
"""The least divisor of torch.nn.functional.normalize."""

_AT_ONCE = 1 << 22
"""Differences of two numbers that the Manhattan distance holds at once: 32 MiB."""


def unit(vectors: Array) -> Array:
    """Return vectors of length 1, float32 of the same shape (n, width); zeros stay zeros."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    scaled: Array = vectors / np.maximum(lengths, np.float32(_LEAST_LENGTH))
    return scaled


# In float64: products of float32 depend on the place of a row in its block, and equal vectors would not be
# equally near.
def _cosine(a: Array, b: Array) -> Array:
    lengths = [np.linalg.norm(part.astype(np.float64), axis=1) for part in (a, b)]
    left, right = (np.maximum(length, _LEAST_LENGTH) for length in lengths)
    product: Array = (_products(a, b) / left[:, None] / right).astype(np.float32)
    return product


def _dot(a: Array, b: Array) -> Array:
    return _products(a, b).astype(np.float32)


def _products(a: Array, b: Array) -> npt.NDArray[np.float64]:
    product: npt.NDArray[np.float64] = a.astype(np.float64) @ b.astype(np.float64).T
    return product


def _euclidean(a: Array, b: Array) -> Array:
    # In float64: of near vectors the sum is a small difference of large numbers.
    left, right = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(left).sum(axis=1)[:, None] - 2 * (left @ right.T) + np.square(right).sum(axis=1)
    distances: Array = np.sqrt(np.maximum(squares, 0)).astype(np.float32)
    return -distances


def _manhattan(a: Array, b: Array) -> Array:
    # No product computes it, and all differences at once would be width times larger than the result.
    # In float64, so that the order of the sum, which is another in R, leaves no trace in float32.
    result = np.empty((len(a), len(b)), dtype=np.float32)
    rows, right = max(1, _AT_ONCE // max(1, b.size)), b.astype(np.float64)
    for start in range(0, len(a), rows):
        part = a[start : start + rows].astype(np.float64)
        result[start : start + rows] = -np.abs(part[:, None, :] - right[None, :, :]).sum(axis=2)
    return result


SIMILARITIES: Mapping[str, Callable[[Array, Array], Array]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
"""Sentence-Transformers' `similarity_fn_name` -> what computes it; distances are negative: more is nearer."""


def similarity(a: Array, b: Array, name: str = "cosine") -> Array:
    """Return how near each row of `a` is to each of `b`, float32 of shape (len(a), len(b)).

    Args:
        a: float32 of shape (n, width).
        b: float32 of shape (m, width).
        name: one of `SIMILARITIES`.

    Raises:
        UsageError: there is no such similarity, or the widths differ.
    """
    if name not in SIMILARITIES:
        raise UsageError(
            "{given} is unknown; it can be {choices}",
            given=Option("similarity", name),
            choices=", ".join(SIMILARITIES),
        )
    if a.shape[1] != b.shape[1]:
        raise UsageError(
            "vectors of {left} numbers cannot be compared with vectors of {right}; give two of one model",
            left=a.shape[1],
            right=b.shape[1],
        )
    return SIMILARITIES[name](a, b).astype(np.float32, copy=False)


def texts_or_vectors(given: Sequence[str] | npt.ArrayLike, what: str) -> Sequence[str] | Array:
    """Return what a user gave to be compared: texts, one by mistake too, or vectors as `vectors_of`.

    Args:
        given: texts, or numbers of shape (n, width); what can be read only once is well.
        what: the argument's name, for the error.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(given, str):
        return given
    if hasattr(given, "__array__") and np.asarray(given).dtype.kind not in "OUST":
        return vectors_of(given, what)
    values = [*given] if isinstance(given, Iterable) and not isinstance(given, bytes) else given
    if isinstance(values, list) and all(isinstance(text, str) for text in values):
        return values
    return vectors_of(cast("npt.ArrayLike", values), what)


def vectors_of(values: npt.ArrayLike, what: str) -> Array:
    """Return what a user gave as vectors, float32 of shape (n, width).

    Args:
        values: numbers of shape (n, width).
        what: the argument's name, for the error.

    Raises:
        UsageError: it is no table of finite numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "{option} must be vectors, numbers of shape (n, width) ({why})", option=Option(what), why=error
        ) from error
    if array.ndim != 2:
        raise UsageError(
            "{option} must be vectors of shape (n, width), and the shape is {shape}",
            option=Option(what),
            shape=array.shape,
        )
    if not np.isfinite(array).all():
        raise UsageError("{option} holds NaN or infinity, which is near to nothing", option=Option(what))
    return array
