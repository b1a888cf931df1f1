"""Round weights so that their errors cancel on real inputs (GPTQ).

Rows are rounded in turn; what a row lost is made up for by the rows still to come, as far as the
inputs of the sample say that they can. Source: Frantar et al. 2022, https://arxiv.org/abs/2210.17323.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.rows import Array

__all__ = ["round_on_sample", "spread_of"]

_DAMPING = 0.1
"""Part of the mean square that is added to each input's, so that a small sample is not overfitted."""

_BLOCK = 32
"""Rows whose losses go to the rest at once. Within a block they go row by row, which takes as long for each
row as the block has rows."""

_PLAIN = 64
"""Width at which a triangle is inverted as any matrix is."""

_LIMIT = 127.0


def round_on_sample(
    weight: Array, scales: Array, spread: Array, *, pair_limit: float | None
) -> npt.NDArray[np.int8]:
    """Return INT8 weights for given scales.

    Args:
        weight: float32 of shape (width, features).
        scales: of each column, float32 of shape (features,).
        spread: of the inputs of the layer (`spread_of`), float32 of shape (width, width).
        pair_limit: largest sum of the numbers of one sign in rows 2j and 2j + 1; None for no limit.
    """
    left: Array = (weight / scales).astype(np.float32)
    rounded = np.zeros_like(left)
    for start in range(0, len(left), _BLOCK):
        end = min(start + _BLOCK, len(left))
        lost = np.empty_like(left[start:end])
        for row in range(start, end):
            low, high = _bounds(rounded, row, pair_limit)
            rounded[row] = np.clip(np.rint(left[row]), low, high)
            lost[row - start] = (left[row] - rounded[row]) / spread[row, row]
            left[row + 1 : end] -= np.outer(spread[row, row + 1 : end], lost[row - start])
        # Rows of later blocks wait: one large product is faster than one for each row.
        left[end:] -= spread[start:end, end:].T @ lost
    return rounded.astype(np.int8)


def spread_of(sample: Array) -> Array:
    """Return the upper Cholesky factor of the inverse of the inputs' second moments, float32 (width, width).

    All layers that read one input share it.

    Args:
        sample: inputs, float32 of shape (tokens, width).
    """
    # In float64 from here on: the factor of a nearly singular matrix is what is asked for.
    moments = (sample.T @ sample).astype(np.float64)
    diagonal = np.diag_indices(len(moments))
    # Not from zero alone: a sample of nothing but zeros still needs an inverse.
    moments[diagonal] += _DAMPING * max(float(np.mean(moments[diagonal])), 1e-12)
    # With rows and columns in reverse, the inverse of the factor is the factor of the inverse: a quarter of
    # the work of inverting the whole.
    lower = np.linalg.cholesky(moments[::-1, ::-1]).astype(np.float64, copy=False)
    upper: Array = _inverted(lower)[::-1, ::-1].astype(np.float32)
    return upper


def _inverted(lower: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the inverse of a lower triangle."""
    if len(lower) <= _PLAIN:
        return np.linalg.inv(lower).astype(np.float64, copy=False)
    half = len(lower) // 2
    inverse = np.zeros_like(lower)
    inverse[:half, :half] = _inverted(lower[:half, :half])
    inverse[half:, half:] = _inverted(lower[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ (lower[half:, :half] @ inverse[:half, :half])
    return inverse


def _bounds(rounded: Array, row: int, pair_limit: float | None) -> tuple[Array | float, Array | float]:
    if pair_limit is None or row % 2 == 0:
        return -_LIMIT, _LIMIT
    # The first of a pair is free; the second has to keep to what the first left.
    before = rounded[row - 1]
    low = np.maximum(-_LIMIT, -pair_limit - np.minimum(before, 0))
    high = np.minimum(_LIMIT, pair_limit - np.maximum(before, 0))
    return low, high
