"""Small batches of several lengths that run as one, where the session takes them so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bertonnx.runtime.engine.batches import Batch, Slot

__all__ = ["company", "parted", "together"]

_FEW = 128
"""Tokens from which reading the weights is a small part of a batch's time (benchmarks/ragged.py)."""


def company(
    batch: Batch, due: Iterable[Batch], takes: Callable[[Batch], bool], cores: int
) -> Sequence[Batch]:
    """Return which of the batches that are due had better run together with one, in their order.

    Each reads all weights, so small ones take long for what they are. All cores shall end at about the same
    time: one takes no more than its part of what is left.

    Args:
        batch: the one; nothing comes along with it where it is not small.
        due: those that are due, some of them more than once.
        takes: says whether a batch can run together with others.
        cores: which share what is due.
    """
    if batch.tokens >= _FEW or not takes(batch):
        return []
    others = [each for each in dict.fromkeys(due) if each.tokens < _FEW and each.kind[1:] == batch.kind[1:]]
    small = [other for other in others if takes(other)]
    total = batch.tokens
    most = min(batch.budget, sum((other.tokens for other in small), total) // cores)
    chosen = []
    for other in small:
        if total + other.tokens <= most:
            chosen.append(other)
            total += other.tokens
    return chosen


def together(batch: Batch, others: Iterable[Batch]) -> None:
    """Let a batch have the slots of others too, those of equal length side by side."""
    more = [slot for other in others for slot in other.slots]
    if more:
        batch.slots = sorted([*batch.slots, *more], key=_length)
        batch.lengths = [_length(slot) for slot in batch.slots]


def parted(batch: Batch, slots: Sequence[Slot]) -> list[Batch]:
    """Return slots of a batch that failed in batches of one length each, which stay apart from others."""
    by_length: dict[int, list[Slot]] = {}
    for slot in slots:
        by_length.setdefault(_length(slot), []).append(slot)
    made = [Batch((length, *batch.kind[1:]), batch.budget, each) for length, each in by_length.items()]
    for each in made:
        each.apart = True
    return made


def _length(slot: Slot) -> int:
    return len(slot.piece.ids)
