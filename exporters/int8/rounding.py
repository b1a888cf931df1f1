"""Round weights so that their errors cancel on real inputs (GPTQ).

Rows are rounded in turn; what a row lost is made up for by the rows still to come, as far as the
inputs of the sample say that they can. Source: Frantar et al. 2022, https://arxiv.org/abs/2210.17323; as
rounding to the nearest plane of a lattice: Chen et al. 2025, https://arxiv.org/abs/2507.18553.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.rows import Array

if TYPE_CHECKING:
    import torch

__all__ = ["round_on_sample", "spread_of"]

_DAMPING = 0.1
"""Part of the mean square that is added to each input's, so that a small sample is not overfitted."""

_BLOCK = 32
"""Rows whose losses go to the rest at once. Within a block they go row by row, which takes as long for each
row as the block has rows."""

_COLUMNS = 512
"""Columns of moments in one product: with fewer, less is computed above the diagonal, in smaller products."""

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
    import torch

    exact: Array = (weight / scales).astype(np.float32)
    wanted = exact.copy()
    rounded = np.zeros_like(exact)
    for start in range(0, len(exact), _BLOCK):
        end = min(start + _BLOCK, len(exact))
        for row in range(start, end):
            low, high = _bounds(rounded, row, pair_limit)
            rounded[row] = np.clip(np.rint(wanted[row]), low, high)
            lost = exact[row] - rounded[row]
            wanted[row + 1 : end] += np.outer(spread[row, row + 1 : end], lost)
        # Rows of later blocks wait: one large product is faster than one for each row. By PyTorch, as it adds
        # in place, and on as many threads as it was told: NumPy's would wait for each other.
        torch.from_numpy(wanted[end:]).addmm_(
            torch.from_numpy(spread[start:end, end:]).T,
            torch.from_numpy(exact[start:end] - rounded[start:end]),
        )
    return rounded.astype(np.int8)


def spread_of(sample: Array) -> Array:
    """Return what each row takes over of what the rows before it lost, float32 (width, width).

    With moments = factor @ factor.T, the factor an upper triangle, that is each of its columns by the number
    on the diagonal. The paper takes a factor of the inverse, which says the same of what was wanted of a row
    instead of what the weight was; to invert takes as long as all else here. All layers that read one input
    share it.

    Args:
        sample: inputs, float32 of shape (tokens, width).
    """
    import torch

    # With rows and columns in reverse, the lower triangle is the upper one.
    moments = _lower_moments(torch.from_numpy(sample[:, ::-1].copy()))
    diagonal = moments.diagonal()
    # Not from zero alone: a sample of nothing but zeros still needs a factor. With the damping, float32 is
    # enough even where all inputs are the same: the largest eigenvalue is then width / damping of the least.
    diagonal += _DAMPING * max(float(diagonal.mean()), 1e-12)
    factor = torch.linalg.cholesky(moments)
    factor /= factor.diagonal().clone()
    spread: Array = factor.flip(0, 1).numpy()
    return spread


def _lower_moments(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors.T @ vectors, whose blocks above the diagonal stay zero: nobody reads them."""
    import torch

    width = vectors.shape[1]
    moments = torch.zeros(width, width)
    for start in range(0, width, _COLUMNS):
        end = min(start + _COLUMNS, width)
        torch.mm(vectors[:, start:].T, vectors[:, start:end], out=moments[start:, start:end])
    return moments


def _bounds(rounded: Array, row: int, pair_limit: float | None) -> tuple[Array | float, Array | float]:
    if pair_limit is None or row % 2 == 0:
        return -_LIMIT, _LIMIT
    # The first of a pair is free; the second has to keep to what the first left.
    before = rounded[row - 1]
    low = np.maximum(-_LIMIT, -pair_limit - np.minimum(before, 0))
    high = np.minimum(_LIMIT, pair_limit - np.maximum(before, 0))
    return low, high
