"""The nearest of many stored vectors: exact, and in blocks, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bertonnx.errors import UsageError
from bertonnx.runtime.options import require_at_least
from bertonnx.runtime.rows import Array
from bertonnx.runtime.vectors.similarity import similarity, vectors_of
from bertonnx.wording import Option

__all__ = ["Hit", "blocks_of", "nearest", "search"]

Hit = dict[str, float | int]
"""`index`: the row of the stored vector, from 0; `score`: how near it is."""

_BLOCK = 1 << 22
"""Numbers of stored vectors that are compared at once: 16 MiB in float32."""


def search(
    vectors: npt.ArrayLike, queries: npt.ArrayLike, *, top_k: int = 10, similarity: str = "cosine"
) -> list[list[Hit]]:
    """Return for each query the `top_k` nearest vectors, the best first, equally near ones by their index.

    Every vector is compared, so that the result is exact. Past some millions of vectors an index of FAISS,
    pgvector or DuckDB is faster, and nearly as good.

    Args:
        vectors: numbers of shape (n, width); an array that lies in a file (`numpy.load(mmap_mode="r")`) is
            read in blocks.
        queries: numbers of shape (m, width).
        top_k: how many are listed; fewer where there are fewer.
        similarity: "cosine", "dot", "euclidean" or "manhattan".

    Returns:
        A list for each query, of dicts with `index` (int) and `score` (float, exact in float32).

    Raises:
        UsageError: `top_k` is less than 1, there is no such similarity, or the widths differ.
    """
    require_at_least("top_k", top_k)
    stored = vectors if isinstance(vectors, np.ndarray) else vectors_of(vectors, "vectors")
    asked = vectors_of(queries, "queries")
    return nearest(blocks_of(stored), asked, top_k=top_k, name=similarity)


def blocks_of(vectors: npt.NDArray[np.generic]) -> Iterator[Array]:
    """Yield stored vectors in blocks, each float32 of shape (rows, width)."""
    if vectors.ndim != 2:
        raise UsageError(
            "{option} must be vectors of shape (n, width), and the shape is {shape}",
            option=Option("vectors"),
            shape=vectors.shape,
        )
    rows = max(1, _BLOCK // max(1, vectors.shape[1]))
    # One block at least: no vectors are still of some width, which the queries must have.
    for start in range(0, max(1, len(vectors)), rows):
        yield vectors_of(vectors[start : start + rows], "vectors")


def nearest(blocks: Iterator[Array], queries: Array, *, top_k: int, name: str) -> list[list[Hit]]:
    """Return for each query the nearest rows of all blocks, which are counted through."""
    scores = np.empty((len(queries), 0), dtype=np.float32)
    indices = np.empty((len(queries), 0), dtype=np.int64)
    seen = 0
    for block in blocks:
        near = similarity(queries, block, name)
        places = np.broadcast_to(np.arange(seen, seen + len(block)), near.shape)
        seen += len(block)
        # What was best so far stands before the block, and so wins against equals of a higher index.
        scores, indices = _best(
            np.concatenate([scores, near], axis=1), np.concatenate([indices, places], axis=1), top_k
        )
    return [
        [{"index": int(index), "score": float(score)} for index, score in zip(row, of, strict=True)]
        for row, of in zip(indices, scores, strict=True)
    ]


def _best(scores: Array, indices: npt.NDArray[np.int64], top_k: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the `top_k` largest of each row, in falling order; of equal ones those that come first."""
    # Stable on the negative: rows are in the order of their index, and so equal scores stay in it.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)
