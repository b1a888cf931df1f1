"""INT8 weights whose products can never saturate, on any CPU.

Where there is no VNNI, x86's VPMADDUBSW adds two neighboring products of an unsigned activation
(up to 255) and a weight in 16 bits, and saturates above 32,767 (onnxruntime #6004, #14642). It
cannot if, in each column, the positive parts of rows 2j and 2j + 1 add up to at most 128, and the
negative parts too: 255 * 128 = 32,640. Scales and rounding by that rule keep almost the whole
eighth bit, where "reduced range" gives it away.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.int8.rounding import round_on_sample, spread_of
from bertonnx.runtime.rows import Array

__all__ = ["PAIR_LIMIT", "quantize_weight", "saturates"]

PAIR_LIMIT = 128
"""Largest sum of two neighboring weights of one sign."""

_LIMIT = 127
_SHRINKS = np.linspace(1.0, 0.8, 11)
"""Scales that are tried, as parts of the one at which nothing is clipped."""

_COLUMNS = 64

Int8 = npt.NDArray[np.int8]
Matrix = npt.NDArray[np.float64]
Number = TypeVar("Number", bound=np.number[Any])


def quantize_weight(
    weight: Array, sample: Array | None = None, *, pair_safe: bool, spread: Array | None = None
) -> tuple[Int8, Array]:
    """Return INT8 weights and a scale for each column, `weight` being about `quantized * scales`.

    Of several scales, each column takes the one with the least squared error of its output.

    Args:
        weight: float32 of shape (width, features).
        sample: inputs of the layer, float32 of shape (tokens, width): weights are then rounded so that
            their errors cancel on it (`exporters.int8.rounding`). Default: each weight to the nearest.
        pair_safe: whether neighboring weights keep to `PAIR_LIMIT`.
        spread: of the sample (`exporters.int8.rounding.spread_of`), where it is known already.

    Returns:
        int8 of shape (width, features) between -127 and 127; float32 of shape (features,).
    """
    importance = np.ones(len(weight)) if sample is None else np.square(sample, dtype=np.float64).mean(axis=0)
    scales = np.empty(weight.shape[1], dtype=np.float32)
    # Some columns at a time, which the processor keeps at hand for all the scales that are tried.
    for start in range(0, weight.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        scales[part] = _best_scales(weight[:, part], importance, pair_safe=pair_safe)
    if sample is None:
        return _round(weight / scales, pair_safe=pair_safe).astype(np.int8), scales
    # For the chosen scales alone: for each that was tried it would take eleven times as long.
    limit = float(PAIR_LIMIT) if pair_safe else None
    spread = spread_of(sample) if spread is None else spread
    return round_on_sample(weight, scales, spread, pair_limit=limit), scales


def _best_scales(weight: Array, importance: Matrix, *, pair_safe: bool) -> Array:
    """Return for each column the scale with the least error where each weight is rounded to the nearest."""
    weight = np.ascontiguousarray(weight)
    whole = _whole_scale(weight, pair_safe=pair_safe)
    best = np.full(weight.shape[1], np.inf)
    scales = whole.astype(np.float32)
    for shrink in _SHRINKS:
        candidate = (whole * shrink).astype(np.float32)
        error = _round(weight / candidate, pair_safe=pair_safe)
        error *= candidate
        np.subtract(weight, error, out=error)
        squares = importance @ np.square(error, out=error)
        better = squares < best
        best[better] = squares[better]
        scales[better] = candidate[better]
    return scales


def saturates(quantized: Int8) -> bool:
    """Say whether some pair of neighboring weights can exceed 16 bits; (width, features) int8."""
    first, second = _pairs(quantized.astype(np.int32))
    return bool(np.any(np.abs(first + second) > PAIR_LIMIT))


def _whole_scale(weight: Array, *, pair_safe: bool) -> Matrix:
    """Return for each column the least scale at which nothing is clipped."""
    largest = np.abs(weight).max(axis=0, initial=0.0).astype(np.float64) / _LIMIT
    if pair_safe:
        first, second = _pairs(weight.astype(np.float64))
        largest = np.maximum(largest, np.abs(first + second).max(axis=0, initial=0.0) / PAIR_LIMIT)
    # A column of zeros needs some scale, and a subnormal one would not survive the division.
    scales: Matrix = np.maximum(largest, float(np.finfo(np.float32).tiny))
    return scales


def _round(scaled: Array, *, pair_safe: bool) -> Array:
    """Round what is at hand, which is gone afterwards; returns whole numbers within the limits."""
    np.clip(scaled, -_LIMIT, _LIMIT, out=scaled)
    if not pair_safe:
        return np.rint(scaled, out=scaled)
    _limit_pairs(scaled)
    return _round_pairs(scaled)


def _limit_pairs(values: Array) -> None:
    """Move pairs whose sum exceeds the limit to the nearest point within it, in place."""
    first, second = _pairs(values)
    total = first + second
    # Few pairs do: all others need not be gone through again.
    over = _over(total)
    beyond = total[over]
    # Half of the excess from each: as neither exceeds 127, both keep their sign.
    half = np.sign(beyond) * (np.abs(beyond) - PAIR_LIMIT) / 2
    first[over] -= half
    second[over] -= half


def _round_pairs(values: Array) -> Array:
    """Round; where both of a pair went away from zero past the limit, the one that went further goes back."""
    rounded: Array = np.rint(values)
    # Within the limit, rounding to even keeps to it. Sums that float32 left a last bit above it need not.
    first, second = _pairs(rounded)
    over = _over(first + second)
    one, other = first[over], second[over]
    gain_one, gain_other = (
        np.abs(found[over]) - np.abs(exact[over])
        for found, exact in zip((first, second), _pairs(values), strict=True)
    )
    back = gain_one >= gain_other
    first[over] -= np.sign(one) * back
    second[over] -= np.sign(other) * ~back
    return rounded


def _over(total: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the sums past the limit."""
    # Of two dimensions NumPy takes several times as long to tell them.
    rows, columns = np.divmod(np.flatnonzero(np.abs(total) > PAIR_LIMIT), max(1, total.shape[1]))
    return rows, columns


def _pairs(values: npt.NDArray[Number]) -> tuple[npt.NDArray[Number], npt.NDArray[Number]]:
    """Return rows 2j and rows 2j + 1, as views.

    The last of an odd number is in no pair: its neighbor is the kernel's padding of zeros, and alone it
    cannot exceed the limit. Nor can two of opposite signs, so that a pair's sum is all there is to look at.
    """
    even = values[: len(values) // 2 * 2]
    return even[0::2], even[1::2]
