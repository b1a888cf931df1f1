"""Weights that cannot saturate 16-bit sums, and how little that costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

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
