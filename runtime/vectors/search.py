"""The nearest of many stored vectors: exact, and in blocks, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.rows import Array
from bertonnx.runtime.vectors.similarity import similarity

__all__ = ["BLOCK", "Hit", "nearest"]

Hit = dict[str, float | int]
"""`index`: the row of the stored vector, from 0; `score`: how near it is."""

BLOCK = 1 << 21
"""Numbers of stored vectors that are compared at once, and scores that they get: 16 MiB in float64."""


def nearest(blocks: Iterable[Array], queries: Array, *, top_k: int, name: str = "cosine") -> list[list[Hit]]:
    """Return for each query the nearest rows of all blocks, which are counted through.

    Equally near rows come by their number. A row with NaN is near to nothing: it counts, and is not listed.

    Args:
        blocks: float32 of shape (rows, width) each.
        queries: float32 of shape (queries, width).
        top_k: how many are listed, at most.
        name: of the similarity.

    Raises:
        UsageError: there is no such similarity, or the widths differ.
    """
    scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
    indices = np.full((len(queries), top_k), -1, dtype=np.int64)
    seen = 0
    for block in blocks:
        at_once = max(1, BLOCK // max(1, len(block)))
        # Once at least: the widths must be the same, whether there are rows or not.
        for start in range(0, max(1, len(queries)), at_once):
            part = slice(start, start + at_once)
            near = similarity(queries[part], block, name)
            near[~np.isfinite(near)] = -np.inf
            _take(scores[part], indices[part], near, seen)
        seen += len(block)
    return [
        [
            {"index": int(index), "score": float(score)}
            for index, score in zip(row, of, strict=True)
            if index >= 0
        ]
        for row, of in zip(indices, scores, strict=True)
    ]


def _take(scores: Array, indices: npt.NDArray[np.int64], near: Array, first: int) -> None:
    """Put those rows of a block among the best so far, in place, that are nearer than the last of them.

    Args:
        scores: of the best so far, falling, (queries, top_k).
        indices: theirs, (queries, top_k).
        near: how near the rows of the block are, (queries, rows).
        first: the number of the first row.
    """
    # Equally near ones of this block have higher numbers than all that are there.
    better = near > scores[:, -1:]
    for query in np.flatnonzero(better.any(axis=1)):
        (places,) = np.nonzero(better[query])
        places = _largest(near[query], places, scores.shape[1])
        both = np.concatenate([scores[query], near[query][places]])
        # Stable on the negative: what was there stands first, and rows are in their order.
        order = np.argsort(-both, kind="stable")[: scores.shape[1]]
        scores[query] = both[order]
        indices[query] = np.concatenate([indices[query], places + first])[order]


def _largest(values: Array, places: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """Return the places of the `most` largest values, and of those that equal the last of them, in order."""
    if len(places) <= most:
        return places
    found = values[places]
    least = np.partition(found, len(found) - most)[len(found) - most]
    kept: npt.NDArray[Any] = places[found >= least]
    return kept
