"""Rows of a caller, taken in chunks that are bounded for each caller and for all of them together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from bertonnx.errors import RowError
from bertonnx.models.providers import Batching
from bertonnx.runtime.rows import Encoded, Row

__all__ = ["Intake", "Room", "in_parts"]

_LARGEST_CHUNKS = 8
"""Of the largest size, that all callers may hold together. One caller holds five at most: two under way, two
that are tokenized ahead, and one that is read."""


class Room:
    """What all callers may hold together. When it is used up nobody waits, but chunks stay small.

    Waiting could be for ever: a caller holds its rows until somebody asks for their results.

    Args:
        batching: how large chunks are.
    """

    def __init__(self, batching: Batching) -> None:
        self._left = _LARGEST_CHUNKS * batching.last_chunk
        # Reentrant, since the garbage collector may close a caller's generator while this thread holds it.
        self._lock = threading.RLock()

    def take(self, rows: int, least: int) -> bool:
        """Take room for so many rows and return True; if there is none, overdraw it by `least` rows."""
        with self._lock:
            there_is = self._left >= rows
            self._left -= rows if there_is else least
            return there_is

    def give_back(self, rows: int) -> None:
        """Give room back."""
        with self._lock:
            self._left += rows


class Intake:
    """The rows of one caller, read in chunks; no row is read before its chunk is asked for.

    Args:
        rows: the rows.
        batching: how large chunks are.
        room: what all callers may hold.
        soon: whether the first chunks are small. Small chunks make small batches, which cost more.
    """

    def __init__(
        self, rows: Iterable[Row | Encoded | RowError], batching: Batching, room: Room, *, soon: bool = True
    ) -> None:
        self._rows = iter(rows)
        self._batching = batching
        self._room = room
        self._limit = batching.first_chunk if soon else batching.last_chunk
        self._held: deque[int] = deque()
        self._at_end = False

    def __iter__(self) -> Iterator[list[Row | Encoded | RowError]]:
        while not self._at_end:
            if chunk := self._read():
                yield chunk
            self._limit = min(4 * self._limit, self._batching.last_chunk)

    def collected(self) -> None:
        """Say that the oldest chunk is held no longer."""
        self._room.give_back(self._held.popleft())

    def close(self) -> None:
        """Say that nothing is held any longer."""
        while self._held:
            self.collected()

    def _read(self) -> list[Row | Encoded | RowError]:
        batching = self._batching
        limit, most = self._limit, batching.chunk_characters
        if not self._room.take(limit, batching.first_chunk):
            limit, most = batching.first_chunk, most * batching.first_chunk // batching.last_chunk
        self._held.append(limit)
        chunk, characters = self._rows_up_to(limit, most)
        # Long texts take the room of so many rows as would have closed the chunk in their stead.
        self._held[-1] = max(len(chunk), characters * batching.last_chunk // batching.chunk_characters)
        self._room.give_back(limit - self._held[-1])
        return chunk

    def _rows_up_to(self, limit: int, most: int) -> tuple[list[Row | Encoded | RowError], int]:
        """Return as many rows as may be, and their characters."""
        chunk: list[Row | Encoded | RowError] = []
        characters = 0
        for row in self._rows:
            chunk.append(row)
            characters += _characters(row)
            if len(chunk) >= limit or characters >= most:
                return chunk, characters
        self._at_end = True
        return chunk, characters


def in_parts(
    chunk: Sequence[Row | Encoded | RowError], characters: int
) -> Iterator[list[Row | Encoded | RowError]]:
    """Yield a chunk's rows in parts of about so many characters of text; of 0 as one part."""
    part: list[Row | Encoded | RowError] = []
    found = 0
    for row in chunk:
        part.append(row)
        found += _characters(row)
        if characters and found >= characters:
            yield part
            part, found = [], 0
    if part:
        yield part


_CHARACTERS_A_TOKEN = 4
"""Of a row that is tokenized already, whose text may be that of many others."""


def _characters(row: Row | Encoded | RowError) -> int:
    if isinstance(row, Encoded):
        return _CHARACTERS_A_TOKEN * sum(len(piece.ids) for piece in row.pieces)
    return len(row.text) + len(row.pair or "") if isinstance(row, Row) else 0
