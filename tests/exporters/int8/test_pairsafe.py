"""Weights that cannot saturate 16-bit sums, and how little that costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.exporters.int8 import pairsafe
from bertonnx.exporters.int8.pairsafe import PAIR_LIMIT, quantize_weight, saturates

WEIGHTS: dict[str, Callable[[np.random.Generator], npt.NDArray[np.float64]]] = {
    "normal": lambda rng: rng.normal(size=(64, 48)),
    "heavy tails": lambda rng: rng.standard_t(2, size=(64, 48)),
    "odd width": lambda rng: rng.normal(size=(33, 20)),
    "one sign": lambda rng: np.abs(rng.normal(size=(64, 48))),
    "all equal": lambda rng: np.full((32, 16), rng.normal()),
    "with zeros": lambda rng: rng.normal(size=(32, 16)) * (np.arange(16) % 3 > 0),
}


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
    quantized, scales = quantize_weight(weight, pair_safe=True)
    assert not saturates(quantized)
    assert _largest_16_bit_sum(quantized) <= 255 * PAIR_LIMIT < 2**15
    assert quantized.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.all(scales > 0)


def test_ordinary_weights_do_saturate_so_the_check_can_fail() -> None:
    weight = np.abs(np.random.default_rng(0).normal(size=(64, 48))).astype(np.float32)
    quantized, _ = quantize_weight(weight, pair_safe=False)
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

    whole = error(*quantize_weight(weight, pair_safe=False))
    safe = error(*quantize_weight(weight, pair_safe=True))
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
    for sample in (None, inputs[:300]):
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


def test_no_scale_is_worse_than_the_one_that_clips_nothing() -> None:
    weight = np.random.default_rng(3).normal(size=(128, 16)).astype(np.float32)
    quantized, scales = quantize_weight(weight, pair_safe=False)
    plain = np.abs(weight).max(axis=0) / 127
    chosen = np.square(weight - quantized * scales).sum(axis=0)
    simple = np.square(weight - np.rint(weight / plain) * plain).sum(axis=0)
    assert np.all(chosen <= simple * (1 + 1e-5))


SHRINKS = (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8)


@pytest.mark.parametrize("pair_safe", [True, False])
def test_each_column_takes_the_scale_that_loses_least(pair_safe: bool) -> None:
    """Column i holds multiples of the i-th scale, so that every other one loses some; row 0 is not read."""
    rng = np.random.default_rng(5)
    weight = np.array([rng.integers(-60, 61, 40) * shrink for shrink in SHRINKS]).T
    weight[0], weight[1] = 127.0, 0.0  # makes the largest scale 1, whatever the shrink
    sample = np.ones((3, 40), np.float32)
    sample[:, 0] = 0.0
    quantized, scales = quantize_weight(weight.astype(np.float32), sample, pair_safe=pair_safe)
    np.testing.assert_array_equal(scales, np.array(SHRINKS, np.float32))
    np.testing.assert_allclose(quantized[2:] * scales, weight[2:], rtol=1e-6)
    assert np.all(quantized[0] == 127)


def test_what_a_clipped_weight_loses_counts_as_much_as_the_others() -> None:
    """Clipping 127 to 0.98 of it loses 2.54 squared; what is off by 0.02 * 20 in each of n rows, n * 0.16."""
    for rows, expected in ((38, 1.0), (42, 0.98)):
        weight = np.full((rows + 1, 1), 20 * 0.98, np.float32)
        weight[0] = 127.0
        _, scales = quantize_weight(weight, pair_safe=False)
        assert scales[0] == np.float32(expected)


def test_pairs_over_the_limit_lose_the_same_from_both() -> None:
    """At 0.8 of the scale 1, (96, 32) is (120, 40): 32 over, so (104, 24); and below zero the same."""
    weight = np.array([[96.0, -96.0, 96.0], [32.0, -32.0, -32.0]], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairsafe, "_SHRINKS", [0.8])
        quantized, scales = quantize_weight(weight, pair_safe=True)
    # Of opposite signs, (96, -32) is alone with its largest number: 96 / 127.
    np.testing.assert_array_equal(scales, np.array([0.8, 0.8, 0.8 * 96 / 127], np.float32))
    assert quantized.T.tolist() == [[104, 24], [-104, -24], [127, -53]]


def test_tiny_weights_have_scales_as_tiny() -> None:
    weight = np.array([[3e-5, 1e-4], [1e-5, -1e-4]], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairsafe, "_SHRINKS", [1.0])
        _, safe = quantize_weight(weight, pair_safe=True)
        _, plain = quantize_weight(weight, pair_safe=False)
    # 4e-5 / 128 is more than 3e-5 / 127; of opposite signs, only the largest number counts.
    np.testing.assert_allclose(safe, [4e-5 / 128, 1e-4 / 127], rtol=1e-6)
    np.testing.assert_allclose(plain, [3e-5 / 127, 1e-4 / 127], rtol=1e-6)


def test_a_column_of_zeros_is_zeros() -> None:
    quantized, scales = quantize_weight(np.zeros((4, 1), np.float32), pair_safe=True)
    assert not quantized.any()
    assert scales[0] > 0


@pytest.mark.parametrize(
    ("pair", "rounded"),
    [
        ((63.6, 64.7), (63, 65)),  # both away from zero, 129 together: the first went further
        ((63.7, 64.6), (64, 64)),
        ((63.75, 64.75), (63, 65)),  # as far, so the first
        ((-63.7, -64.6), (-64, -64)),
        ((-63.6, -64.7), (-63, -65)),
        ((63.6, 63.9), (64, 64)),  # 128 is allowed
        ((-63.6, -63.9), (-64, -64)),
        ((100.6, -100.7), (101, -101)),
        ((126.6, 0.6), (127, 1)),
    ],
)
def test_of_a_pair_that_rounds_past_the_limit_one_goes_back(
    pair: tuple[float, float], rounded: tuple[int, int]
) -> None:
    assert pairsafe._round_pairs(np.array([pair]).T).ravel().tolist() == list(rounded)


def test_columns_and_pairs_are_rounded_each_by_itself() -> None:
    values = np.array([[63.6, 1.2], [64.7, 2.7], [-9.5, 63.7], [3.2, 64.6], [126.7, -4.4]])
    expected = [[63, 1], [65, 3], [-10, 64], [3, 64], [127, -4]]
    assert pairsafe._round_pairs(values).tolist() == expected


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
