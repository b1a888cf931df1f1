"""How long INT8 takes beside fp32, on one thread of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bertonnx.exporters.verify.gate import INT8, no_texts
from bertonnx.runtime.rows import Encoded, Piece, Row, feeds_of
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Latency", "measure_latency"]

_LEAST, _ROUNDS, _SECONDS = 2, 5, 2.0
"""Fewest and most rounds; between them none begins after so many seconds."""

_BATCH, _LENGTH = 8, 32


@dataclass(frozen=True)
class Latency:
    """How long both take on one thread, each the best of several.

    Attributes:
        fp32_ms: milliseconds a batch.
        int8_ms: milliseconds a batch.
        batch: texts in the batch.
        tokens: in each of them.
    """

    fp32_ms: float
    int8_ms: float
    batch: int
    tokens: int

    @property
    def ratio(self) -> float:
        """How many times faster INT8 is."""
        return self.fp32_ms / self.int8_ms


def measure_latency(
    reference: Session, candidate: Session, rows: Sequence[Row], tokenizer: TextTokenizer
) -> Latency:
    """Time both sessions on one batch, in turns, so that both meet the same disturbances.

    The batch holds the longest of some rows 8 times, cut at 32 tokens.

    Raises:
        QuantizationError: none of the rows has a token to time.
    """
    pieces = _batch(rows, tokenizer)
    # The best and not the mean: whatever else the machine does only ever adds time.
    best = {0: float("inf"), 1: float("inf")}
    turns = ((0, reference), (1, candidate))
    began = time.perf_counter()
    for number in range(_ROUNDS + 1):  # the best of them is never the first, which warms up
        if number > _LEAST and time.perf_counter() - began > _SECONDS:
            break
        for which, session in turns if number % 2 else reversed(turns):
            feeds = feeds_of(pieces, session.inputs)
            start = time.perf_counter()
            session.run(session.outputs, feeds)
            best[which] = min(best[which], time.perf_counter() - start)
    return Latency(best[0] * 1e3, best[1] * 1e3, len(pieces), len(pieces[0].ids))


def _batch(rows: Sequence[Row], tokenizer: TextTokenizer) -> list[Piece]:
    # Some rows are enough to find a text of 32 tokens; a calibration file may hold a thousand.
    encoded = [item.pieces[0] for item in tokenizer.encode(rows[:64]) if isinstance(item, Encoded)]
    pieces = [piece for piece in encoded if len(piece.ids)]
    if not pieces:
        raise no_texts(INT8)
    longest = max(pieces, key=lambda piece: len(piece.ids))
    return [Piece(longest.ids[:_LENGTH], longest.type_ids[:_LENGTH], longest.encoding)] * _BATCH
