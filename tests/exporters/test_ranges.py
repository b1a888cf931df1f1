"""How much of bertonnx's own texts is embedded for ranges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import bertonnx
from bertonnx.exporters.int8.calibration import calibration_rows
from bertonnx.exporters.ranges import openings
from bertonnx.runtime.rows import Array, Row
from tests.tiny import save_tiny


def _of(*texts: str) -> list[str]:
    # One text in three is taken.
    return [row.text for row in openings([Row(text) for text in texts for _ in range(3)])]


def test_each_text_is_cut_at_the_end_of_a_word() -> None:
    assert _of(
        "The film is slow, but the last twenty minutes are worth every one.",
        "The film is slow, but the last 40 charac ters",
        "The film is slow, but the last 40 chars",
        "",
    ) == [
        "The film is slow, but the last twenty",
        "The film is slow, but the last 40 charac",
        "The film is slow, but the last 40 chars",
        "",
    ]
    # Where there are no blanks, or one early on, a word is cut.
    assert _of("北京是中国的首都" * 6) == ["北京是中国的首都" * 5]
    assert _of("a " + "b" * 60) == ["a " + "b" * 38]


def _own() -> Iterator[Row]:
    rows = calibration_rows(None, pairs=False, mask_token=None)
    yield from openings([*rows.tune, *rows.judge])


def test_ranges_are_of_the_openings_of_some_of_our_texts(tmp_path: Path) -> None:
    texts = [row.text for row in _own()]
    assert len(set(texts)) == len(texts) == 86
    assert max(map(len, texts)) == 40

    source = save_tiny(tmp_path / "checkpoint", "bert", "feature-extraction")
    found = bertonnx.export(source, tmp_path / "model.onnx").card.ranges[0]
    rows = calibration_rows(None, pairs=False, mask_token=None)
    with bertonnx.load(tmp_path / "model.onnx") as model:
        embedded, others = model.embed(texts), model.embed([row.text for row in rows.judge])
    assert found.texts == 86
    least, largest = np.array(found.least, np.float32), np.array(found.largest, np.float32)
    mean, reach = embedded.mean(axis=0), 4 * embedded.std(axis=0)
    np.testing.assert_allclose(least, np.minimum(embedded.min(axis=0), mean - reach), rtol=0, atol=1e-6)
    np.testing.assert_allclose(largest, np.maximum(embedded.max(axis=0), mean + reach), rtol=0, atol=1e-6)

    # Whole texts, most of which are none of those: one number in a hundred lies outside the plain ranges.
    def outside(low: Array, high: Array) -> float:
        return float(((others < low) | (others > high)).mean())

    assert outside(least, largest) < 0.2 * outside(embedded.min(axis=0), embedded.max(axis=0))
