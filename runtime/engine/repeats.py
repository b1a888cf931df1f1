"""Equal texts in one job are computed once: what was kept of the latest pieces, within a bound of bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from bertonnx.runtime.rows import Piece

__all__ = ["Repeats", "key_of"]

_BYTES = 4 << 20
"""Results of some 1,500 short texts with MiniLM. More would make every job's memory grow for the sake of
those that repeat a text after thousands of others (benchmarks/memory.py)."""

_OVERHEAD = 600
"""Bytes that an entry takes besides its numbers: key, array header, links
(tests/runtime/engine/test_repeats.py)."""

Key = tuple[bytes, bytes, int, int]


def key_of(piece: Piece) -> Key:
    """Return what decides a piece's results: its ids, segments, prompt and what is attended to."""
    types = piece.type_ids
    segments = types.astype(np.int8).tobytes() if np.count_nonzero(types) else b""
    # Equal tokens may be a prompt and a text, or a text that begins as the prompt does.
    return piece.ids.astype(np.int32).tobytes(), segments, piece.prompt, piece.unseen


class Repeats:
    """What a decoder kept of the pieces of one job, the least recently used let go first.

    Used by one thread at a time.
    """

    def __init__(self, limit: int = _BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._kept: OrderedDict[Key, tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key) -> Any | None:
        """Return what was kept under a key, or None."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        self._kept.move_to_end(key)
        return entry[0]

    def add(self, key: Key, kept: Any) -> None:
        """Keep a piece's results, and let go of the oldest ones over the limit."""
        if key in self._kept:
            return
        size = _OVERHEAD + len(key[0]) + len(key[1]) + _size(kept)
        self._kept[key] = (kept, size)
        self._bytes += size
        while self._bytes > self._limit:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed


def _size(kept: Any) -> int:
    """Return about how many bytes an array, or a list of small records, takes."""
    if isinstance(kept, np.ndarray):
        return kept.nbytes
    if isinstance(kept, (list, tuple)):
        return sum(map(_size, kept)) + 64
    return 64
