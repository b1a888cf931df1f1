"""Rounding on a sample, against the paper's algorithm written out row by row, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.exporters.int8.rounding import round_on_sample, spread_of
from bertonnx.runtime.rows import Array

WIDTH, FEATURES = 150, 12  # more than a block of 128 rows


def _sample(scale: float = 1.0) -> Array:
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(400, 20)) @ rng.normal(size=(20, WIDTH)) + rng.normal(size=(400, WIDTH))
    return (scale * mixed).astype(np.float32)


def _weight() -> tuple[Array, Array]:
    weight = np.random.default_rng(4).standard_t(3, size=(WIDTH, FEATURES)).astype(np.float32)
    return weight, (np.abs(weight).max(axis=0) / 127).astype(np.float32)


def _plainly(weight: Array, scales: Array, sample: Array, pair_limit: float | None) -> npt.NDArray[np.int8]:
    """Round row by row; each row's loss goes to all rows after it by the inverse of the damped moments.

    Frantar et al. 2022, section 3: the loss over the inverse's diagonal, times the inverse's row, and that
    row and column eliminated from the inverse.
    """
    left = weight.astype(np.float64) / scales
    moments = sample.T.astype(np.float64) @ sample
    inverse = np.linalg.inv(moments + 0.1 * np.mean(np.diag(moments)) * np.eye(WIDTH))
    rounded = np.zeros_like(left)
    for row in range(WIDTH):
        low, high = np.full(FEATURES, -127.0), np.full(FEATURES, 127.0)
        if pair_limit is not None and row % 2:
            before = rounded[row - 1]
            low = np.where(before < 0, np.maximum(low, -pair_limit - before), low)
            high = np.where(before > 0, np.minimum(high, pair_limit - before), high)
        rounded[row] = np.clip(np.rint(left[row]), low, high)
        lost = (left[row] - rounded[row]) / inverse[row, row]
        left[row + 1 :] -= np.outer(inverse[row + 1 :, row], lost)
        inverse -= np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
    return rounded.astype(np.int8)


@pytest.mark.parametrize("pair_limit", [None, 128.0])
def test_every_number_is_the_one_that_the_paper_rounds_to(pair_limit: float | None) -> None:
    weight, scales = _weight()
    found = round_on_sample(weight, scales, spread_of(_sample()), pair_limit=pair_limit)
    expected = _plainly(weight, scales, _sample(), pair_limit)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, expected)
    # Else the test would be one of rounding to the nearest.
    assert (found != np.rint(weight / scales)).mean() > 0.1


def test_a_pair_of_one_sign_keeps_to_the_limit_and_of_two_signs_need_not() -> None:
    weight = np.array([[100.0, -100.0, 100.0], [100.0, -100.0, -100.0]], np.float32)
    ones = np.ones(3, np.float32)
    apart = np.eye(2, dtype=np.float32)  # inputs that have nothing to do with each other
    assert round_on_sample(weight, ones, spread_of(apart), pair_limit=128.0).T.tolist() == [
        [100, 28],
        [-100, -28],
        [100, -100],
    ]
    assert round_on_sample(weight, ones, spread_of(apart), pair_limit=None).T.tolist() == [
        [100, 100],
        [-100, -100],
        [100, -100],
    ]


def test_the_unit_of_the_inputs_does_not_matter() -> None:
    weight, scales = _weight()
    expected = round_on_sample(weight, scales, spread_of(_sample()), pair_limit=None)
    for unit in (2.0**-10, 2.0**10):
        found = round_on_sample(weight, scales, spread_of(_sample(unit)), pair_limit=None)
        np.testing.assert_array_equal(found, expected)


def test_inputs_of_zeros_round_to_the_nearest() -> None:
    weight, scales = _weight()
    found = round_on_sample(weight, scales, spread_of(np.zeros((3, WIDTH), np.float32)), pair_limit=None)
    np.testing.assert_array_equal(found, np.rint(weight / scales))


@pytest.mark.parametrize("vectors", [1, 2, 900])
def test_inputs_that_are_all_alike_are_no_worse_in_float32(vectors: int) -> None:
    rng = np.random.default_rng(6)
    sample = (rng.normal(size=(900, vectors)) @ rng.normal(size=(vectors, 768))).astype(np.float32)
    moments = sample.T.astype(np.float64) @ sample
    moments += 0.1 * np.mean(np.diag(moments)) * np.eye(768)
    factor = np.linalg.cholesky(moments[::-1, ::-1])[::-1, ::-1]
    expected = factor / np.diag(factor)
    np.testing.assert_allclose(spread_of(sample), expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("pair_limit", [None, 128.0])
def test_what_is_past_the_last_number_is_cut(pair_limit: float | None) -> None:
    weight = np.array([[150.0, -150.0], [-0.4, 150.0]], np.float32)
    found = round_on_sample(
        weight, np.ones(2, np.float32), np.eye(2, dtype=np.float32), pair_limit=pair_limit
    )
    assert found.tolist() == [[127, -127], [0, 127]]
