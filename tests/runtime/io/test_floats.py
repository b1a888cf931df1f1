"""Float32 as text."""

from __future__ import annotations

import json

import numpy as np

from bertonnx.runtime.io.floats import floats_text, shortest
from bertonnx.runtime.io.text import json_line


def test_every_float32_survives_its_text_and_the_text_is_the_shortest() -> None:
    random = np.random.default_rng(3)
    some = random.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    unit = random.normal(size=200_000).astype(np.float32) / 20
    edges = np.array([0.1, 1e-45, 3.4028235e38, 1.17549435e-38, 9.999999e-5, 0.3, 2**-24, 1.5], np.float32)
    for array in (some[np.isfinite(some)], unit, edges, -edges):
        array = array[array != np.trunc(array)]
        texts = floats_text(array).split(", ")
        assert np.array(texts, np.float64).astype(np.float32).tobytes() == array.tobytes()
        assert list(map(float, texts[:50_000])) == [float(str(x)) for x in array[:50_000]]


def test_whole_numbers_keep_their_point_and_their_sign() -> None:
    array = np.array([1.0, -0.0, 0.0, 16777216.0, 1e30, 0.5], np.float32)
    assert floats_text(array) == "1.0, -0.0, 0.0, 16777216.0, 1e+30, 0.5"
    back = np.array(json.loads(f"[{floats_text(array)}]"), np.float32)
    assert back.tobytes() == array.tobytes()


def test_nan_and_infinity_are_null() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 0.25], np.float32)
    assert floats_text(array) == "null, null, null, 0.25"
    assert shortest(float("nan")) is None
    assert json_line(0, {"embedding": array, "score": float("inf")}) == (
        '{"row": 0, "embedding": [null, null, null, 0.25], "score": null}'
    )
    assert json_line(0, {"score": float("nan")}) == '{"row": 0, "score": null}'
