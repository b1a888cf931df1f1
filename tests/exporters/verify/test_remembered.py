"""A text that came alone is run once; batches, and what is too large to keep, as often as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.exporters.verify import remembered
from bertonnx.exporters.verify.remembered import Remembered
from bertonnx.runtime.session.session import Feeds


@dataclass
class Doubling:
    """Answers with twice the ids, and counts its runs."""

    provider: str = "cpu"
    inputs: tuple[str, ...] = ("input_ids",)
    outputs: tuple[str, ...] = ("logits", "scores")
    runs: list[tuple[str, ...]] = field(default_factory=list)

    def run(
        self,
        outputs: Sequence[str],
        feeds: Feeds,
        *,
        alone: bool = False,  # noqa: ARG002
    ) -> list[npt.NDArray[np.float32]]:
        self.runs.append(tuple(outputs))
        return [2.0 * feeds["input_ids"].astype(np.float32) for _ in outputs]


def _ids(*rows: list[int], padded: bool = False) -> Feeds:
    ids = np.array(rows, dtype=np.int64)
    mask = np.ones_like(ids)
    mask[0, -1] = not padded
    return {"input_ids": ids, "attention_mask": mask}


def test_a_text_runs_once_for_an_output() -> None:
    inner = Doubling()
    session = Remembered(inner)
    assert (session.provider, session.inputs, session.outputs) == ("cpu", inner.inputs, inner.outputs)
    first, _ = session.run(["logits", "scores"], _ids([1, 2]))
    first[:] = 0
    assert session.run(["logits"], _ids([1, 2]))[0].tolist() == [[2.0, 4.0]]
    assert inner.runs == [("logits", "scores")]
    # Other ids, and the same bytes in another shape, are other texts.
    session.run(["logits"], _ids([2, 1]))
    session.run(["logits"], _ids([1]))
    assert len(inner.runs) == 3


def test_a_batch_is_known_where_all_its_texts_are() -> None:
    inner = Doubling()
    session = Remembered(inner)
    assert session.run(["logits"], _ids([1, 1], [2, 2]))[0].tolist() == [[2.0, 2.0], [4.0, 4.0]]
    assert session.run(["logits"], _ids([2, 2]))[0].tolist() == [[4.0, 4.0]]
    assert session.run(["logits"], _ids([2, 2], [1, 1]))[0].tolist() == [[4.0, 4.0], [2.0, 2.0]]
    assert len(inner.runs) == 1
    assert session.run(["logits"], _ids([2, 2], [3, 3]))[0].tolist() == [[4.0, 4.0], [6.0, 6.0]]
    assert session.run(["scores"], _ids([2, 2]))[0].tolist() == [[4.0, 4.0]]
    assert len(inner.runs) == 3


def test_padded_batches_run_as_often_as_they_come() -> None:
    inner = Doubling()
    session = Remembered(inner)
    for _ in range(2):
        session.run(["logits"], _ids([1, 0], [2, 2], padded=True))
    session.run(["logits"], _ids([2, 2]))
    assert len(inner.runs) == 3
    # A text alone, of which not all tokens are attended to, is no padded batch.
    for _ in range(2):
        session.run(["logits"], _ids([1, 0], padded=True))
    assert len(inner.runs) == 4


def test_only_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_MOST", 15)  # three numbers
    inner = Doubling()
    session = Remembered(inner)
    for ids, runs in (([1, 2], 1), ([1, 2], 1), ([3, 4], 2), ([3, 4], 3), ([5], 4), ([5], 4), ([1, 2], 4)):
        assert session.run(["logits"], _ids(ids))[0].tolist() == [[2.0 * number for number in ids]]
        assert len(inner.runs) == runs
