"""Round weights so that their errors cancel on real inputs (GPTQ).

Rows are rounded in turn; what a row lost is made up for by the rows still to come, as far as the
inputs of the sample say that they can. Source: Frantar et al. 2022, https://arxiv.org/abs/2210.17323.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.rows import Array

__all__ = ["round_on_sample"]

_DAMPING = 0.1
"""Part of the mean square that is added to each input's, so that a small sample is not overfitted."""

_BLOCK = 128
_LIMIT = 127.0


def round_on_sample(
    weight: Array, scales: Array, sample: Array, *, pair_limit: float | None
) -> npt.NDArray[np.int8]:
    """Return INT8 weights for given scales.

    Args:
        weight: float32 of shape (width, features).
        scales: of each column, float32 of shape (features,).
        sample: inputs of the layer, float32 of shape (tokens, width).
        pair_limit: largest sum of the numbers of one sign in rows 2j and 2j + 1; None for no limit.
    """
    spread = _spread(sample)
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


def _spread(sample: Array) -> Array:
    """Return the upper Cholesky factor of the inverse of the inputs' second moments, (width, width)."""
    # Sums in float64: the factor of a nearly singular matrix is what is asked for.
    moments = sample.T.astype(np.float64) @ sample
    diagonal = np.diag_indices(len(moments))
    # Not from zero alone: a sample of nothing but zeros still needs an inverse.
    moments[diagonal] += _DAMPING * max(float(np.mean(moments[diagonal])), 1e-12)
    upper: Array = np.linalg.cholesky(np.linalg.inv(moments)).T.astype(np.float32)
    return upper


def _bounds(rounded: Array, row: int, pair_limit: float | None) -> tuple[Array | float, Array | float]:
    if pair_limit is None or row % 2 == 0:
        return -_LIMIT, _LIMIT
    # The first of a pair is free; the second has to keep to what the first left.
    before = rounded[row - 1]
    low = np.maximum(-_LIMIT, -pair_limit - np.minimum(before, 0))
    high = np.minimum(_LIMIT, pair_limit - np.maximum(before, 0))
    return low, high
