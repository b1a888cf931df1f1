"""How batches are made: what a provider likes, windows of rows, their parts, and groups of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bertonnx.errors import RowError
from bertonnx.runtime.rows import Piece, Row

__all__ = ["CPU", "CUDA", "Batch", "Groups", "Policy", "Slot", "in_parts", "policy_for", "windows"]


@dataclass(slots=True)
class Slot:
    """A piece that is to be computed, once for all rows that have it, and what the decoder keeps of it.

    Attributes:
        piece: the input of the graph.
        kept: what the decoder kept, or the `RowError` of a piece that failed; None before.
    """

    piece: Piece
    kept: Any = None


Batch = list[Slot]
"""Slots whose pieces have one length."""


@dataclass(frozen=True)
class Policy:
    """What a provider likes.

    Attributes:
        runs: batches at a time; None for as many as threads.
        ahead: windows that are tokenized ahead on a thread of their own; 0 tokenizes each in parts,
            while what is tokenized already runs.
        part_characters: text in such a part.
        tokens: tokens a batch.
        tokens_vocabulary: tokens a batch where every token puts out a whole vocabulary.
        first_window: rows in the first window, so that results come soon.
        last_window: rows in later windows, where texts of one length meet; windows grow fourfold until then.
        window_characters: text that closes a window early, so that memory stays bounded with very
            long texts.
    """

    runs: int | None
    ahead: int
    part_characters: int
    tokens: int
    tokens_vocabulary: int
    first_window: int
    last_window: int
    window_characters: int


CPU = Policy(
    runs=None,
    ahead=0,
    part_characters=8_000,
    tokens=512,
    tokens_vocabulary=128,
    first_window=32,
    last_window=2048,
    window_characters=2_000_000,
)
"""Batches that stay in the caches of a core, one core each."""

CUDA = Policy(
    runs=2,
    ahead=1,
    part_characters=0,
    tokens=16_384,
    tokens_vocabulary=2048,
    first_window=256,
    last_window=16_384,
    window_characters=16_000_000,
)
"""Batches that fill a GPU, and windows in which enough texts of each length meet to fill them. While one
of two runs computes, the other's results are copied and decoded and its next batch is put together."""


def policy_for(provider: str) -> Policy:
    """Return the policy of a provider, "cpu" or "cuda"."""
    return CUDA if provider == "cuda" else CPU


def windows(
    rows: Iterable[Row | RowError], policy: Policy, *, soon: bool = True
) -> Iterator[list[Row | RowError]]:
    """Yield the rows in windows, reading no row before its window is asked for.

    Args:
        rows: the rows.
        policy: how large windows are.
        soon: whether the first windows are small. Small windows make small batches, which cost more.
    """
    window: list[Row | RowError] = []
    limit, characters = policy.first_window if soon else policy.last_window, 0
    for row in rows:
        window.append(row)
        characters += _characters(row)
        if len(window) >= limit or characters >= policy.window_characters:
            yield window
            window, characters = [], 0
            limit = min(4 * limit, policy.last_window)
    if window:
        yield window


def in_parts(window: Sequence[Row | RowError], characters: int) -> Iterator[list[Row | RowError]]:
    """Yield a window's rows in parts of about so many characters of text."""
    part: list[Row | RowError] = []
    found = 0
    for row in window:
        part.append(row)
        found += _characters(row)
        if found >= characters:
            yield part
            part, found = [], 0
    if part:
        yield part


class Groups:
    """Slots whose pieces have one length, gathered until they make a batch.

    Args:
        tokens: tokens a batch; a piece that is longer is a batch by itself.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._groups: dict[int, Batch] = {}

    def add(self, slot: Slot) -> Batch | None:
        """Take a slot, and return the batch that it makes full."""
        length = len(slot.piece.ids)
        group = self._groups.setdefault(length, [])
        group.append(slot)
        if len(group) < max(1, self._tokens // max(1, length)):
            return None
        return self._groups.pop(length)

    def large(self, count: int) -> list[Batch]:
        """Return the largest batches so far, at most `count`, each an eighth full at least."""
        order = sorted(self._groups, key=lambda length: -length * len(self._groups[length]))[:count]
        return [self._groups.pop(n) for n in order if 8 * n * len(self._groups[n]) >= self._tokens]

    def rest(self) -> list[Batch]:
        """Return all that is left, the largest batches first so that all cores finish together."""
        left = sorted(self._groups.values(), key=lambda batch: -len(batch) * len(batch[0].piece.ids))
        self._groups.clear()
        return left


def _characters(row: Row | RowError) -> int:
    return len(row.text) + len(row.pair or "") if isinstance(row, Row) else 0
