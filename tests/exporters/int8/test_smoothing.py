"""Smoothing: the same function, with outliers moved from activations into weights."""

from __future__ import annotations

import numpy as np
import pytest

from bertonnx.exporters.int8.calibration import Statistics
from bertonnx.exporters.int8.smoothing import ALPHA, smoothing_factors
from bertonnx.runtime.rows import Array


def _statistics(sample: Array) -> Statistics:
    return Statistics(np.abs(sample).max(axis=0), sample.mean(axis=0), np.square(sample).mean(axis=0), sample)


def _with_outliers(rng: np.random.Generator) -> Array:
    sample = rng.normal(size=(200, 32)).astype(np.float32)
    sample[:, [3, 17]] *= 30
    return sample


def test_the_formula() -> None:
    factors = smoothing_factors(np.array([4.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32), 0.5)
    assert factors == pytest.approx([2**0.5, 2**-0.5])
    assert factors.dtype == np.float32


def test_alpha_0_looks_at_weights_alone_and_alpha_1_at_activations() -> None:
    largest, weights = np.array([8.0, 2.0], np.float32), np.array([1.0, 4.0], np.float32)
    assert smoothing_factors(largest, weights, 1.0) == pytest.approx([2.0, 0.5])
    assert smoothing_factors(largest, weights, 0.0) == pytest.approx([2.0, 0.5])
    assert smoothing_factors(largest, np.ones(2, np.float32), 0.0) == pytest.approx([1.0, 1.0])


def test_a_channel_that_is_never_used_stays_finite() -> None:
    factors = smoothing_factors(np.array([0.0, 1.0], np.float32), np.array([0.0, 1.0], np.float32), 0.5)
    assert np.all(np.isfinite(factors))
    assert np.all(factors > 0)


def _factors(sample: Array, weight: Array) -> Array:
    return smoothing_factors(np.abs(sample).max(axis=0), np.abs(weight).max(axis=1), ALPHA)


def test_outliers_are_divided() -> None:
    sample = _with_outliers(np.random.default_rng(0))
    weight = np.random.default_rng(1).normal(size=(32, 24)).astype(np.float32)
    factors = _factors(sample, weight)
    assert factors[[3, 17]].min() > 2 * np.delete(factors, [3, 17]).max()


def test_the_quantised_product_gets_better() -> None:
    rng = np.random.default_rng(2)
    sample, weight = _with_outliers(rng), rng.normal(size=(32, 24)).astype(np.float32)
    exact = sample.astype(np.float64) @ weight

    def error(factors: Array) -> float:
        rows, columns = sample / factors, weight * factors[:, None]
        row_step = np.abs(rows).max(axis=1, keepdims=True) / 127
        column_step = np.abs(columns).max(axis=0) / 127
        product = (np.rint(rows / row_step) * row_step) @ (np.rint(columns / column_step) * column_step)
        return float(np.square(product - exact).mean())

    assert error(_factors(sample, weight)) < 0.5 * error(np.ones(32, np.float32))


def test_divided_statistics_are_those_of_the_divided_sample() -> None:
    sample = _with_outliers(np.random.default_rng(3))
    factors = np.linspace(0.5, 2, 32).astype(np.float32)
    divided, direct = _statistics(sample).divided(factors), _statistics(sample / factors)
    for name in ("largest", "mean", "square", "sample"):
        np.testing.assert_allclose(getattr(divided, name), getattr(direct, name), rtol=1e-4, atol=1e-6)
