"""Weights that cannot saturate 16-bit sums, and how little that costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.exporters.int8.pairsafe import PAIR_LIMIT, best_scales, quantize_weight, saturates
from bertonnx.runtime.rows import Array

WEIGHTS: dict[str, Callable[[np.random.Generator], npt.NDArray[np.float64]]] = {
    "normal": lambda rng: rng.normal(size=(64, 48)),
    "heavy tails": lambda rng: rng.standard_t(2, size=(64, 48)),
    "odd width": lambda rng: rng.normal(size=(33, 20)),
    "one sign": lambda rng: np.abs(rng.normal(size=(64, 48))),
    "all equal": lambda rng: np.full((32, 16), rng.normal()),
    "with zeros": lambda rng: rng.normal(size=(32, 16)) * (np.arange(16) % 3 > 0),
}


def _to_nearest(weight: Array, *, pair_safe: bool) -> tuple[npt.NDArray[np.int8], Array]:
    """Quantize for inputs that have nothing to do with each other, so that no error can cancel another."""
    return quantize_weight(weight, np.eye(len(weight), dtype=np.float32), pair_safe=pair_safe)


def _largest_16_bit_sum(quantized: npt.NDArray[np.int8]) -> int:
    """Add what VPMADDUBSW adds, with the activations (0 or 255) that make it largest."""
    wide = np.concatenate([quantized, np.zeros((len(quantized) % 2, quantized.shape[1]), np.int8)]).astype(
        int
    )
    first, second = 255 * wide[0::2], 255 * wide[1::2]
    high = np.maximum(first, 0) + np.maximum(second, 0)
    low = np.minimum(first, 0) + np.minimum(second, 0)
    return int(max(high.max(), -low.min()))


@pytest.mark.parametrize("name", WEIGHTS)
def test_pair_safe_weights_never_saturate(name: str) -> None:
    weight = WEIGHTS[name](np.random.default_rng(0)).astype(np.float32)
    quantized, scales = _to_nearest(weight, pair_safe=True)
    assert not saturates(quantized)
    assert _largest_16_bit_sum(quantized) <= 255 * PAIR_LIMIT < 2**15
    assert quantized.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.all(scales > 0)


def test_ordinary_weights_do_saturate_so_the_check_can_fail() -> None:
    weight = np.abs(np.random.default_rng(0).normal(size=(64, 48))).astype(np.float32)
    quantized, _ = _to_nearest(weight, pair_safe=False)
    assert saturates(quantized)
    assert _largest_16_bit_sum(quantized) >= 2**15


def test_opposite_signs_may_both_be_large() -> None:
    assert not saturates(np.array([[127], [-127]], dtype=np.int8))
    assert saturates(np.array([[127], [2]], dtype=np.int8))
    assert saturates(np.array([[-100], [-29]], dtype=np.int8))
    assert not saturates(np.array([[2], [127], [-2], [-126]], dtype=np.int8)[[0, 2, 1, 3]])


def test_a_pair_starts_at_an_even_row() -> None:
    assert not saturates(np.array([[0], [127], [127], [0]], dtype=np.int8))


def test_pair_safety_costs_less_than_giving_a_bit_away() -> None:
    weight = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)

    def error(quantized: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> float:
        return float(np.square(weight - quantized * scales).mean())

    whole = error(*_to_nearest(weight, pair_safe=False))
    safe = error(*_to_nearest(weight, pair_safe=True))
    step = np.abs(weight).max(axis=0) / 63
    reduced = error(np.rint(weight / step).astype(np.int8), step)
    assert whole <= safe < 0.65 * reduced


def _correlated(tokens: int, width: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(7)
    return (
        rng.normal(size=(tokens, 8)) @ rng.normal(size=(8, width)) + 0.1 * rng.normal(size=(tokens, width))
    ).astype(np.float32)


@pytest.mark.parametrize("pair_safe", [True, False])
def test_rounding_on_a_sample_makes_new_inputs_better_too(pair_safe: bool) -> None:
    weight = np.random.default_rng(2).normal(size=(65, 32)).astype(np.float32)
    inputs = _correlated(600, 65)
    errors = []
    for sample in (np.eye(65, dtype=np.float32), inputs[:300]):
        quantized, scales = quantize_weight(weight, sample, pair_safe=pair_safe)
        assert saturates(quantized) is not pair_safe
        assert np.abs(quantized.astype(int)).max() <= 127
        errors.append(float(np.square(inputs[300:] @ (weight - quantized * scales)).mean()))
    assert errors[1] < 0.5 * errors[0]


def test_a_sample_of_zeros_or_of_one_token_still_rounds() -> None:
    weight = np.random.default_rng(2).normal(size=(16, 16)).astype(np.float32)
    for sample in (np.zeros((4, 16), np.float32), np.ones((1, 16), np.float32)):
        quantized, scales = quantize_weight(weight, sample, pair_safe=True)
        assert not saturates(quantized)
        assert np.abs(weight - quantized * scales).max() < 0.2


SHRINKS = (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8)


def _lost(column: Array, scale: float, importance: npt.NDArray[np.float64], *, pair_safe: bool) -> float:
    """Return what a column loses at a scale: rounding a twelfth of a squared step, clipping all of it."""
    cut = [float(np.clip(weight, -127 * scale, 127 * scale)) for weight in column]
    for i in range(0, len(cut) - 1, 2):
        over = abs(cut[i] + cut[i + 1]) - 128 * scale
        if pair_safe and over > 0:
            sign = 1 if cut[i] + cut[i + 1] > 0 else -1
            cut[i], cut[i + 1] = cut[i] - sign * over / 2, cut[i + 1] - sign * over / 2
    clipped = sum(
        count * (weight - left) ** 2 for count, weight, left in zip(importance, column, cut, strict=True)
    )
    return float(clipped + importance.sum() * scale**2 / 12)


@pytest.mark.parametrize("pair_safe", [True, False])
@pytest.mark.parametrize("name", [*WEIGHTS, "few outliers"])
def test_each_column_takes_the_scale_that_loses_least(name: str, pair_safe: bool) -> None:
    rng = np.random.default_rng(5)
    if name in WEIGHTS:
        weight = WEIGHTS[name](rng).astype(np.float32)
    else:
        weight = rng.normal(size=(301, 40)).astype(np.float32)
        weight[:2] *= np.linspace(1, 4, 40, dtype=np.float32)
    importance = rng.gamma(2.0, size=len(weight))
    if name == "few outliers":
        importance[:2] /= 100
    found = best_scales(weight, importance, pair_safe=pair_safe)
    chosen = set()
    for column, scale in zip(weight.T.astype(np.float64), found, strict=True):
        # The last of an odd number is in no pair.
        pairs = column[: len(column) // 2 * 2].reshape(-1, 2).sum(axis=1) if pair_safe else np.zeros(1)
        whole = max(np.abs(column).max() / 127, np.abs(pairs).max() / 128, float(np.finfo(np.float32).tiny))
        losses = [_lost(column, whole * shrink, importance, pair_safe=pair_safe) for shrink in SHRINKS]
        # As good as the best: two may be the same up to the last digits.
        assert _lost(column, float(scale), importance, pair_safe=pair_safe) <= min(losses) * (1 + 1e-5)
        chosen.add(round(float(scale) / whole, 2))
    assert chosen <= set(SHRINKS)
    assert name != "few outliers" or len(chosen) > 2  # else any one scale would do


def test_what_a_clipped_weight_loses_counts_as_much_as_the_others() -> None:
    """Clipping 127 to 0.98 of it loses 2.54 squared; a step of 0.98 gains 0.0033 in each row."""
    for rows, expected in ((1940, 1.0), (1970, 0.98)):
        weight = np.zeros((rows, 1), np.float32)
        weight[0] = 127.0
        assert best_scales(weight, np.ones(rows), pair_safe=False)[0] == np.float32(expected)


def test_pairs_need_a_larger_scale_than_each_of_their_weights() -> None:
    weight = np.array([[96.0, -96.0, 96.0], [32.0, -32.0, -32.0]], np.float32)
    scales = best_scales(weight, np.ones(2), pair_safe=True)
    # Of opposite signs, (96, -32) is alone with its largest number: 96 / 127.
    np.testing.assert_array_equal(scales, np.array([1, 1, 96 / 127], np.float32))
    np.testing.assert_array_equal(
        best_scales(weight, np.ones(2), pair_safe=False), np.full(3, 96 / 127, np.float32)
    )


def test_tiny_weights_have_scales_as_tiny() -> None:
    weight = np.array([[3e-5, 1e-4], [1e-5, -1e-4]], np.float32)
    safe = best_scales(weight, np.ones(2), pair_safe=True)
    plain = best_scales(weight, np.ones(2), pair_safe=False)
    # 4e-5 / 128 is more than 3e-5 / 127; of opposite signs, only the largest number counts.
    np.testing.assert_allclose(safe, [4e-5 / 128, 1e-4 / 127], rtol=1e-6)
    np.testing.assert_allclose(plain, [3e-5 / 127, 1e-4 / 127], rtol=1e-6)


def test_a_column_of_zeros_is_zeros() -> None:
    quantized, scales = _to_nearest(np.zeros((4, 1), np.float32), pair_safe=True)
    assert not quantized.any()
    assert scales[0] > 0


@pytest.mark.parametrize(
    ("pair", "over"),
    [
        ((127, 1), False),
        ((127, 2), True),
        ((64, 64), False),
        ((64, 65), True),
        ((-128, 0), False),
        ((-128, -1), True),
        ((-127, -1), False),
        ((127, -128), False),
    ],
)
def test_the_limit_is_128_for_two_of_one_sign(pair: tuple[int, int], over: bool) -> None:
    assert saturates(np.array([pair], dtype=np.int8).T) is over
    assert (_largest_16_bit_sum(np.array([pair], dtype=np.int8).T) > 255 * PAIR_LIMIT) is over
    # The last of an odd number has no neighbor.
    assert saturates(np.array([[0], [0], [127]], dtype=np.int8)) is False
