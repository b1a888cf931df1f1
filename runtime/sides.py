"""Queries and documents of models with a vector for each token: their markers, and what fills queries up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from tokenizers import Encoding

from bertonnx.errors import RowError
from bertonnx.models.retrieval import Side
from bertonnx.runtime.rows import Encoded, Piece, Row

__all__ = ["encoded_by_side", "part_of", "sided"]


class _Encodes(Protocol):
    def encode(self, rows: Sequence[Row]) -> list[Encoded | RowError]: ...


def encoded_by_side(
    rows: Sequence[Row], side_of: Callable[[str | None], tuple[Side, _Encodes]]
) -> list[Encoded | RowError]:
    """Tokenize rows as queries and documents, each with its own limit and marker.

    Args:
        rows: the rows, in any order.
        side_of: name of a prompt -> how texts with it are read, and what tokenizes them before they are
            marked and filled up.
    """
    results: dict[int, Encoded | RowError] = {}
    places: dict[str | None, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.prompt, []).append(place)
    for name, members in places.items():
        side, tokenizer = side_of(name)
        found = tokenizer.encode([rows[place] for place in members])
        for place, result in zip(members, found, strict=True):
            results[place] = (
                replace(result, pieces=tuple(sided(piece, side) for piece in result.pieces))
                if isinstance(result, Encoded)
                else result
            )
    return [results[place] for place in range(len(rows))]


def sided(piece: Piece, side: Side) -> Piece:
    """Return a piece with the marker of its side behind its first token, filled up where that side is."""
    if side.marker is not None:
        piece = _marked(piece, side.marker)
    missing = (side.expanded or 0) - len(piece.ids)
    return _filled(piece, missing, side) if missing > 0 else piece


def _marked(piece: Piece, marker: int) -> Piece:
    encoding = piece.encoding
    first = min(1, len(encoding))
    parts = [part_of(encoding, 0, first), _tokens(1, marker), part_of(encoding, first, len(encoding))]
    return replace(
        piece,
        ids=np.insert(piece.ids, first, marker),
        type_ids=np.insert(piece.type_ids, first, 0),
        encoding=Encoding.merge(parts, growing_offsets=False),
        prompt=piece.prompt + 1 if piece.prompt else 0,
    )


def _filled(piece: Piece, missing: int, side: Side) -> Piece:
    return replace(
        piece,
        ids=np.concatenate([piece.ids, np.full(missing, side.filler, dtype=np.int64)]),
        type_ids=np.concatenate([piece.type_ids, np.zeros(missing, dtype=np.int64)]),
        encoding=Encoding.merge([piece.encoding, _tokens(missing, side.filler)], growing_offsets=False),
        unseen=0 if side.attended else missing,
    )


def _tokens(count: int, number: int) -> Encoding:
    """Return so many special tokens of one id, which stand for no text."""
    made = Encoding.merge([])
    made.pad(count, pad_id=number)
    return made


def part_of(encoding: Encoding, start: int, end: int) -> Encoding:
    """Return the tokens from `start` to `end` of an encoding, which stays as it is."""
    if start == end:
        return Encoding.merge([])
    part = Encoding.merge([encoding], growing_offsets=False)  # a copy
    for size, side in ((end, "right"), (end - start, "left")):
        # What the last cut takes away stays with it, as `overflowing`, and merging multiplies that. So the
        # last cut takes one token, and an encoding without any is what is cut off another.
        part.truncate(size + 1, direction=side)
        part.truncate(size, direction=side)
    twice = Encoding.merge([part, part], growing_offsets=False)
    twice.truncate(len(part))
    return twice.overflowing[0]
