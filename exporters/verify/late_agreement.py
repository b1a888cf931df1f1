"""How close two models' sparse embeddings, and vectors of tokens, are (as `exporters.verify.agreement`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.verify.agreement import Closeness, Comparison, Pairs
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.rows import Item

__all__ = ["compare_sparse", "compare_vectors", "sparse_closeness", "vectors_closeness"]

_Matrix = npt.NDArray[np.float64]

_TEXTS = 400
"""Texts that are ranked against each other: products of all pairs."""


def compare_sparse(context: DecoderContext) -> Comparison:
    """Compare sparse embeddings by the order in which they put texts."""
    return Comparison(decoder_for(context), sparse_closeness)


def compare_vectors(context: DecoderContext) -> Comparison:
    """Compare the vectors of tokens by their cosine."""
    return Comparison(decoder_for(context), vectors_closeness)


def vectors_closeness(pairs: Pairs) -> Closeness:
    """Return the mean cosine of all vectors of all texts; worst is the least mean of a text."""
    means, total, count = [1.0], 0.0, 0
    for both in pairs:
        first, second = (item["vectors"].astype(np.float64) for item in both)
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = (first * second).sum(axis=1) / np.maximum(lengths, 1e-30)
        # A text of which nothing counts has nothing to lose.
        if len(cosines):
            means.append(float(cosines.mean()))
        total, count = total + float(cosines.sum()), count + len(cosines)
    return Closeness("cosine", total / count if count else 1.0, min(means))


def sparse_closeness(pairs: Pairs) -> Closeness:
    """Return the rank correlation of all texts, each as a query; worst is the least overlap of weights.

    What sparse embeddings are for is the order of documents by their products with a query. The overlap of a
    text is the sum of the smaller weights of each word by the sum of the larger ones.
    """
    pairs = pairs[:_TEXTS]
    columns: dict[int, int] = {}
    for both in pairs:
        for item in both:
            for word in item["sparse"].ids.tolist():
                columns.setdefault(word, len(columns))
    first, second = (_matrix([pair[side] for pair in pairs], columns) for side in (0, 1))
    smaller, larger = np.minimum(first, second).sum(axis=1), np.maximum(first, second).sum(axis=1)
    overlap = np.where(larger > 0, smaller / np.maximum(larger, 1e-30), 1.0)
    return Closeness(
        "rank correlation", _rank_correlation(first @ first.T, second @ second.T), float(overlap.min())
    )


def _matrix(items: Sequence[Item], columns: dict[int, int]) -> _Matrix:
    made = np.zeros((len(items), max(len(columns), 1)))
    for row, item in enumerate(items):
        words = item["sparse"]
        made[row, [columns[word] for word in words.ids.tolist()]] = words.weights
    return made


def _rank_correlation(first: _Matrix, second: _Matrix) -> float:
    """Return the mean of Spearman's coefficient over rows; a row of equal numbers has no order to lose."""
    ranks = [np.apply_along_axis(_ranks, 1, side) for side in (first, second)]
    centered = [side - side.mean(axis=1, keepdims=True) for side in ranks]
    spread = [np.sqrt((side**2).sum(axis=1)) for side in centered]
    products = (centered[0] * centered[1]).sum(axis=1)
    flat = spread[0] == 0
    found = np.where(flat, 1.0, products / np.maximum(spread[0] * spread[1], 1e-30))
    return float(found.mean())


def _ranks(values: _Matrix) -> _Matrix:
    """Return places in order, equal numbers sharing theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]
