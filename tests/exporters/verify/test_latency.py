"""What is timed, in which unit, and how the two sides take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.errors import QuantizationError
from bertonnx.exporters.verify import latency
from bertonnx.exporters.verify.latency import Latency, measure_latency
from bertonnx.runtime.rows import Array, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.fake_outputs import TOKENIZER, Fake, card_of, rows_of

CARD = card_of("text-classification")


@dataclass
class Clock:
    """A clock that only the sessions move on."""

    seconds: float = 0.0
    runs: list[str] = field(default_factory=list)

    def perf_counter(self) -> float:
        return self.seconds


@dataclass
class Timed(Fake):
    """A session whose runs take the given seconds, one after the other."""

    name: str = ""
    clock: Clock = field(default_factory=Clock)
    seconds: list[float] = field(default_factory=list)
    shapes: set[tuple[int, ...]] = field(default_factory=set)

    def run(
        self,
        outputs: Sequence[str],
        feeds: Mapping[str, npt.NDArray[np.int64]],
        *,
        alone: bool = False,
    ) -> list[Array]:
        assert set(feeds) == set(self.inputs)
        assert (feeds["attention_mask"] == 1).all()
        self.shapes.add(feeds["input_ids"].shape)
        self.clock.runs.append(self.name)
        self.clock.seconds += self.seconds.pop(0)
        return super().run(outputs, feeds, alone=alone)


def _timed(
    monkeypatch: pytest.MonkeyPatch, fp32: list[float], int8: list[float], rows: Sequence[Row]
) -> tuple[Latency, Clock, Timed]:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    sessions = [
        Timed(CARD.outputs, CARD.task, 3, name=name, clock=clock, seconds=list(seconds))
        for name, seconds in (("fp32", fp32), ("INT8", int8))
    ]
    found = measure_latency(sessions[0], sessions[1], rows, TextTokenizer(TOKENIZER, CARD))
    return found, clock, sessions[0]


def test_the_best_of_each_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    fp32, int8 = [0.9, 0.006, 0.004, 0.005, 0.007, 0.008], [0.9, 0.003, 0.002, 0.002, 0.005, 0.001]
    found, clock, session = _timed(monkeypatch, fp32, int8, rows_of(CARD.task))
    assert found.fp32_ms == pytest.approx(4.0)
    assert found.int8_ms == pytest.approx(1.0)
    assert found.ratio == pytest.approx(4.0)
    assert (found.batch, found.tokens) == (8, 32)
    assert session.shapes == {(8, 32)}
    assert clock.runs == 3 * ["INT8", "fp32", "fp32", "INT8"]


def test_a_slow_model_has_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found, clock, _ = _timed(monkeypatch, [9.0, 4.0, 3.0], [9.0, 2.0, 1.5], rows_of(CARD.task))
    assert (found.fp32_ms, found.int8_ms) == (3000.0, 1500.0)
    assert len(clock.runs) == 6


def test_of_short_texts_the_longest_is_timed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, session = _timed(monkeypatch, [1.0] * 6, [1.0] * 6, [Row("a"), Row("a b c"), Row("a b")])
    assert (found.batch, found.tokens) == (8, 5)
    assert session.shapes == {(8, 5)}


def test_a_text_is_needed() -> None:
    fake = Fake(CARD.outputs, CARD.task, 3)
    with pytest.raises(QuantizationError, match="none of the calibration texts"):
        measure_latency(fake, fake, [], TextTokenizer(TOKENIZER, CARD))
