"""INT8 weights whose products can never saturate, on any CPU.

Where there is no VNNI, x86's VPMADDUBSW adds two neighboring products of an unsigned activation
(up to 255) and a weight in 16 bits, and saturates above 32,767 (onnxruntime #6004, #14642). It
cannot if, in each column, the positive parts of rows 2j and 2j + 1 add up to at most 128, and the
negative parts too: 255 * 128 = 32,640. Scales and rounding by that rule keep almost the whole
eighth bit, where "reduced range" gives it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.int8.rounding import round_on_sample, spread_of
from bertonnx.runtime.rows import Array

__all__ = ["PAIR_LIMIT", "best_scales", "quantize_weight", "saturates"]

PAIR_LIMIT = 128
"""Largest sum of two neighboring weights of one sign."""

_LIMIT = 127
_SHRINKS = np.linspace(1.0, 0.8, 11)
"""Scales that are tried, as parts of the one at which nothing is clipped."""

_COLUMNS = 4096

Int8 = npt.NDArray[np.int8]
Matrix = npt.NDArray[np.float64]
Number = TypeVar("Number", bound=np.number[Any])


def quantize_weight(
    weight: Array, sample: Array, *, pair_safe: bool, spread: Array | None = None
) -> tuple[Int8, Array]:
    """Return INT8 weights and a scale for each column, `weight` being about `quantized * scales`.

    Weights are rounded so that their errors cancel on a sample (`exporters.int8.rounding`).

    Args:
        weight: float32 of shape (width, features).
        sample: inputs of the layer, float32 of shape (tokens, width).
        pair_safe: whether neighboring weights keep to `PAIR_LIMIT`.
        spread: of the sample (`exporters.int8.rounding.spread_of`), where it is known already.

    Returns:
        int8 of shape (width, features) between -127 and 127; float32 of shape (features,).
    """
    importance = np.square(sample).mean(axis=0, dtype=np.float64)
    scales = np.empty(weight.shape[1], dtype=np.float32)
    # A vocabulary has so many columns that what is computed of all would take several times their memory.
    for start in range(0, len(scales), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        scales[part] = best_scales(weight[:, part], importance, pair_safe=pair_safe)
    limit = float(PAIR_LIMIT) if pair_safe else None
    spread = spread_of(sample) if spread is None else spread
    return round_on_sample(weight, scales, spread, pair_limit=limit), scales


def best_scales(weight: Array, importance: Matrix, *, pair_safe: bool) -> Array:
    """Return for each column the scale, of several, at which rounding and clipping lose least.

    Rounding loses the twelfth part of a squared step of every weight, and clipping what is cut off.

    Args:
        weight: float32 of shape (width, features).
        importance: what a squared error of each row's weights counts, float64 of shape (width,).
        pair_safe: whether neighboring weights keep to `PAIR_LIMIT`.

    Returns:
        float32 of shape (features,).
    """
    first, second = _pairs(weight)
    if len(weight) % 2:  # the last is in no pair
        first, second = np.append(first, weight[-1:], axis=0), np.append(second, 0 * weight[-1:], axis=0)
        importance = np.append(importance, 0.0)
    total = np.abs(first + second) / PAIR_LIMIT if pair_safe else np.zeros_like(first)
    # What each pair needs; two of opposite signs never add up.
    needed = np.maximum(total, np.maximum(np.abs(first), np.abs(second)) / _LIMIT)
    # A column of zeros needs some scale, and a subnormal one would not survive the division.
    whole = np.maximum(needed.max(axis=0, initial=0.0), np.finfo(np.float32).tiny).astype(np.float64)
    # Few pairs are clipped at any of the scales: all others need not be looked at again.
    rows, columns = np.divmod(np.flatnonzero(needed > _SHRINKS[-1] * whole), weight.shape[1])
    clipped = _Clipped(first[rows, columns], second[rows, columns], *importance.reshape(-1, 2)[rows].T)
    lost = [
        (whole * shrink) ** 2 / 12 * importance.sum()
        + np.bincount(
            columns, clipped.lost((whole * shrink)[columns], pair_safe=pair_safe), minlength=len(whole)
        )
        for shrink in _SHRINKS
    ]
    scales: Array = (whole * _SHRINKS[np.argmin(lost, axis=0)]).astype(np.float32)
    return scales


@dataclass(frozen=True, eq=False)
class _Clipped:
    """Pairs of weights that some scale clips, (pairs,) each, and what their squared errors count."""

    first: Array
    second: Array
    first_counts: Matrix
    second_counts: Matrix

    def lost(self, scales: Matrix, *, pair_safe: bool) -> Matrix:
        """Return what each pair loses at its scale, (pairs,)."""
        most = _LIMIT * scales
        first, second = np.clip(self.first, -most, most), np.clip(self.second, -most, most)
        if pair_safe:
            total = first + second
            # Half of the excess from each: as neither exceeds 127, both keep their sign.
            half = np.sign(total) * np.maximum(np.abs(total) - PAIR_LIMIT * scales, 0.0) / 2
            first, second = first - half, second - half
        lost: Matrix = self.first_counts * (self.first - first) ** 2
        return lost + self.second_counts * (self.second - second) ** 2


def saturates(quantized: Int8) -> bool:
    """Say whether some pair of neighboring weights can exceed 16 bits; (width, features) int8."""
    first, second = _pairs(quantized.astype(np.int32))
    return bool(np.any(np.abs(first + second) > PAIR_LIMIT))


def _pairs(values: npt.NDArray[Number]) -> tuple[npt.NDArray[Number], npt.NDArray[Number]]:
    """Return rows 2j and rows 2j + 1, as views.

    The last of an odd number is in no pair: its neighbor is the kernel's padding of zeros, and alone it
    cannot exceed the limit. Nor can two of opposite signs, so that a pair's sum is all there is to look at.
    """
    even = values[: len(values) // 2 * 2]
    return even[0::2], even[1::2]
