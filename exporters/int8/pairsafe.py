"""INT8 weights whose products can never saturate, on any CPU.

Where there is no VNNI, x86's VPMADDUBSW adds two neighbouring products of an unsigned activation
(up to 255) and a weight in 16 bits, and saturates above 32,767 (onnxruntime #6004, #14642). It
cannot if, in each column, the positive parts of rows 2j and 2j + 1 add up to at most 128, and the
negative parts too: 255 * 128 = 32,640. Scales and rounding by that rule keep almost the whole
eighth bit, where "reduced range" gives it away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.int8.rounding import round_on_sample
from bertonnx.runtime.rows import Array

__all__ = ["PAIR_LIMIT", "quantize_weight", "saturates"]

PAIR_LIMIT = 128
"""Largest sum of two neighbouring weights of one sign."""

_LIMIT = 127
_SHRINKS = np.linspace(1.0, 0.8, 11)
"""Scales that are tried, as parts of the one at which nothing is clipped."""

Int8 = npt.NDArray[np.int8]


def quantize_weight(weight: Array, sample: Array | None = None, *, pair_safe: bool) -> tuple[Int8, Array]:
    """Return INT8 weights and a scale for each column, `weight` being about `quantized * scales`.

    Of several scales, each column takes the one with the least squared error of its output.

    Args:
        weight: float32 of shape (width, features).
        sample: inputs of the layer, float32 of shape (tokens, width): weights are then rounded so that
            their errors cancel on it (`exporters.int8.rounding`). Default: each weight to the nearest.
        pair_safe: whether neighbouring weights keep to `PAIR_LIMIT`.

    Returns:
        int8 of shape (width, features) between -127 and 127; float32 of shape (features,).
    """
    importance = np.ones(len(weight)) if sample is None else np.square(sample, dtype=np.float64).mean(axis=0)
    whole = _whole_scale(weight, pair_safe=pair_safe)
    best = np.full(weight.shape[1], np.inf)
    quantized = np.zeros(weight.shape, dtype=np.int8)
    scales = whole.astype(np.float32)
    for shrink in _SHRINKS:
        candidate = (whole * shrink).astype(np.float32)
        rounded = _round(weight / candidate, pair_safe=pair_safe)
        error = importance @ np.square(weight - rounded * candidate.astype(np.float64))
        better = error < best
        best[better] = error[better]
        quantized[:, better] = rounded[:, better].astype(np.int8)
        scales[better] = candidate[better]
    if sample is not None:
        limit = float(PAIR_LIMIT) if pair_safe else None
        quantized = round_on_sample(weight, scales, sample, pair_limit=limit)
    return quantized, scales


def saturates(quantized: Int8) -> bool:
    """Say whether some pair of neighbouring weights can exceed 16 bits; (width, features) int8."""
    first, second = _pairs(quantized.astype(np.int32))
    high = np.maximum(first, 0) + np.maximum(second, 0)
    low = np.minimum(first, 0) + np.minimum(second, 0)
    return bool(high.max(initial=0) > PAIR_LIMIT or low.min(initial=0) < -PAIR_LIMIT)


def _whole_scale(weight: Array, *, pair_safe: bool) -> npt.NDArray[np.float64]:
    """Return for each column the least scale at which nothing is clipped."""
    largest = np.abs(weight).max(axis=0, initial=0.0).astype(np.float64) / _LIMIT
    if pair_safe:
        first, second = _pairs(weight.astype(np.float64))
        for sign in (1, -1):
            total = np.maximum(sign * first, 0) + np.maximum(sign * second, 0)
            largest = np.maximum(largest, total.max(axis=0, initial=0.0) / PAIR_LIMIT)
    # A column of zeros needs some scale, and a subnormal one would not survive the division.
    scales: npt.NDArray[np.float64] = np.maximum(largest, float(np.finfo(np.float32).tiny))
    return scales


def _round(scaled: npt.NDArray[np.floating], *, pair_safe: bool) -> npt.NDArray[np.float64]:
    limited = np.clip(scaled.astype(np.float64), -_LIMIT, _LIMIT)
    if not pair_safe:
        return np.rint(limited)
    padded = np.concatenate([limited, np.zeros((len(limited) % 2, limited.shape[1]))])
    for sign in (1.0, -1.0):
        padded = _limit_pairs(padded * sign) * sign
    return _round_pairs(padded)[: len(limited)]


def _limit_pairs(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Move pairs whose positive parts exceed the limit to the nearest point within it."""
    first, second = values[0::2], values[1::2]
    # Neither exceeds 127, so taking half of the excess from each leaves both positive.
    half = np.where((first > 0) & (second > 0), np.maximum(first + second - PAIR_LIMIT, 0) / 2, 0)
    return _interleaved(first - half, second - half)


def _round_pairs(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round; where both of a pair went away from zero past the limit, the one that went further goes back."""
    rounded = np.rint(values)
    gain = np.abs(rounded) - np.abs(values)
    first, second = rounded[0::2], rounded[1::2]
    over = (first * second > 0) & (np.abs(first + second) > PAIR_LIMIT)
    back_first = over & (gain[0::2] >= gain[1::2])
    back_second = over & ~back_first
    return _interleaved(first - np.sign(first) * back_first, second - np.sign(second) * back_second)


def _interleaved(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack([first, second], axis=1).reshape(-1, first.shape[1])


def _pairs(values: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    even = values[: len(values) // 2 * 2]
    first, second = even[0::2], even[1::2]
    if len(values) % 2:  # the last row is alone, and its neighbour is the kernel's padding of zeros
        first = np.concatenate([first, values[-1:]])
        second = np.concatenate([second, np.zeros_like(values[-1:])])
    return first, second
