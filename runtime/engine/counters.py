"""What a queue does, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SIZES", "Counters", "place_of_size"]

SIZES = 16
"""Sizes of batches that are counted apart, each twice as large as the one before."""


def place_of_size(pieces: int) -> int:
    """Return where batches of so many pieces are counted."""
    return min((pieces - 1).bit_length(), SIZES - 1)


@dataclass(frozen=True)
class Counters:
    """What the queue does, and has done so far.

    Attributes:
        waiting: pieces that wait for a core.
        running: batches under way.
        batches: batches that ran.
        pieces: pieces in them.
        tokens: tokens in those.
        sizes: how many of the batches had up to 1, 2, 4, 8, ... pieces.
    """

    waiting: int
    running: int
    batches: int
    pieces: int
    tokens: int
    sizes: tuple[int, ...] = ()
