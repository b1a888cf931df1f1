"""Versions of ONNX Runtime: which are too old, and which are left out."""

from __future__ import annotations

import pytest

from bertonnx.models.onnxruntimes import OLDEST, SLOW, is_slow, version_of


@pytest.mark.parametrize(
    ("version", "slow"),
    [
        ("1.26.9", False),
        ("1.27.0", True),
        ("1.29.0", True),
        ("1.29.1rc1", True),
        ("1.30.0", False),
        ("1.32.0", False),
        ("2.0.0", False),
        ("", False),
    ],
)
def test_slow_versions(version: str, slow: bool) -> None:
    assert is_slow(version) is slow


def test_spans_are_in_order_and_none_is_too_old() -> None:
    assert version_of("1.24.4") == OLDEST
    assert all(OLDEST < first < end for first, end in SLOW)


def test_numbers_of_a_version() -> None:
    assert version_of("1.31.1") == (1, 31, 1)
    assert version_of("1.32.0.dev20261101") == (1, 32, 0)
    assert version_of("unknown") == ()
