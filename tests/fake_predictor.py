"""A model for tests of files and jobs: results computed from the text alone, without ONNX.

As a program it runs one job, so that tests can interrupt and kill it:
`python fake_predictor.py TASK INPUT OUTPUT TELLS HOLDS [--resume]` writes a byte to standard error
at its row TELLS, and at its row HOLDS waits for standard input to end.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Generator, Iterable
from itertools import islice

import numpy as np

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.runtime.io import arrow_out
from bertonnx.runtime.io.job import Job
from bertonnx.runtime.io.writers import check_output
from bertonnx.runtime.options import DecodeOptions, RunOptions
from bertonnx.runtime.rows import Item, Row

_DEFAULTS = DecodeOptions()
LABELS = ("NEGATIVE", 'NEUTRAL, "so so"', "POSITIVE")


def card(task: str, **changes: object) -> Card:
    facts: dict[str, object] = {
        "task": task,
        "family": "bert",
        "max_length": 16,
        "inputs": ("input_ids",),
        "outputs": ("logits",),
        "labels": LABELS if task == "text-classification" else (),
        "width": 8 if task == "feature-extraction" else None,
        "problem_type": "single_label_classification" if task == "text-classification" else None,
        **changes,
    }
    return Card(**facts)  # type: ignore[arg-type]


class FakePredictor:
    """A text with FAIL fails, one with LONG is truncated; reads `window` rows ahead."""

    def __init__(self, task: str = "text-classification", *, window: int = 16, **changes: object) -> None:
        self.card = card(task, **changes)
        self.identity = "ab" * 32
        self.window = window
        self.texts: list[str] = []

    def stream(
        self,
        rows: Iterable[Row | RowError],
        decode: DecodeOptions = _DEFAULTS,  # noqa: ARG002
    ) -> Generator[Item | RowError, None, None]:
        source = iter(rows)
        while ahead := list(islice(source, self.window)):
            for row in ahead:
                yield row if isinstance(row, RowError) else self._result(row)

    def _result(self, row: Row) -> Item | RowError:
        self.texts.append(row.text)
        if "FAIL" in row.text:
            return RowError("runtime", f"cannot do, it\nis: {row.text!r}")
        item = result_of(self.card, row)
        return {**item, "truncated": True} if "LONG" in row.text else item


def result_of(card: Card, row: Row) -> Item:
    seed = hashlib.sha256(f"{row.text}\0{row.pair}".encode()).digest()
    random = np.random.default_rng(list(seed[:8]))
    if card.task == "feature-extraction":
        return {"embedding": random.normal(size=card.width).astype(np.float32)}
    score = float(np.float32(random.random()))
    if card.task == "token-classification":
        return {"entities": [{"entity": "PER", "text": row.text[:3], "score": score, "start": 0, "end": 3}]}
    if card.task == "question-answering":
        return {"answer": (row.pair or "")[:9], "score": score, "start": 0, "end": 9}
    if card.task == "fill-mask":
        return {"masks": [[{"token": "é", "token_id": 7, "score": score, "sequence": row.text}]]}
    if card.problem_type == "regression":
        return {"score": score}
    scores = {
        name: float(x)
        for name, x in zip(card.labels, random.random(len(card.labels)).astype("f4"), strict=True)
    }
    if card.problem_type == "multi_label_classification":
        return {"labels": [name for name, x in scores.items() if x > 0.5], "scores": scores}
    best = max(scores, key=scores.__getitem__)
    return {"label": best, "score": scores[best], "scores": scores}


class HeldPredictor(FakePredictor):
    """Says that it has come to a row, and stands still at a later one."""

    def __init__(self, task: str, tells: int, holds: int) -> None:
        super().__init__(task)
        self.tells, self.holds = tells, holds

    def _result(self, row: Row) -> Item | RowError:
        if len(self.texts) == self.tells:
            os.write(2, b".")
        if len(self.texts) == self.holds:
            sys.stdin.buffer.read()
        return super()._result(row)


def main(task: str, input: str, output: str, tells: str, holds: str, *flags: str) -> None:
    # Arrow's rows reach the disk in batches, of which a short job must have several.
    arrow_out.ROWS_SPOOLED = 50
    predictor = HeldPredictor(task, int(tells), int(holds))
    Job(predictor, input, check_output(output), options=RunOptions(resume="--resume" in flags)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
