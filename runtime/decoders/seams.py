"""Where two windows of a long text meet: whose token is whose, and which entity of two stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bertonnx.runtime.rows import Item, Piece

__all__ = ["joined", "own_tokens", "text_places"]


def text_places(piece: Piece) -> list[int]:
    """Return the places of the tokens that stand for text: special ones have labels that mean nothing."""
    places: list[int] = np.flatnonzero(np.array(piece.encoding.special_tokens_mask) == 0).tolist()
    return places


def own_tokens(pieces: Sequence[Piece]) -> list[list[int]]:
    """Return for each window of a row the places of its own tokens, so that each token is in one window.

    Of a token that two windows share, the one that sees more of the text around it has it: the first
    half of what they share stays with the window before, the second goes to the one behind.
    """
    places = [text_places(piece) for piece in pieces]
    own = [list(some) for some in places]
    for number, (before, behind) in enumerate(pairwise(pieces)):
        shared = _shared(before, places[number], behind, places[number + 1])
        own[number] = own[number][: len(own[number]) - shared // 2]
        own[number + 1] = own[number + 1][shared - shared // 2 :]
    return own


def _shared(before: Piece, ends: list[int], behind: Piece, starts: list[int]) -> int:
    """Return how many tokens two neighboring windows share."""
    # Windows do not say it: the last one is as long as what is left.
    last = [(before.ids[place], *before.encoding.offsets[place]) for place in ends]
    first = [(behind.ids[place], *behind.encoding.offsets[place]) for place in starts]
    return next((n for n in range(min(len(last), len(first)), 0, -1) if last[-n:] == first[:n]), 0)


@dataclass(frozen=True)
class _Found:
    """An entity, and the borders of its window that it reaches (and the text goes on behind)."""

    item: Item
    first: bool
    last: bool

    @property
    def start(self) -> int:
        return int(self.item["start"])

    @property
    def end(self) -> int:
        return int(self.item["end"])


def joined(text: str, pieces: Sequence[Piece], found: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the entities of all windows, none twice and none torn at a border.

    Of two that overlap the longer stays, or the better of two equally long ones, as in transformers'
    `TokenClassificationPipeline` with `stride`. Two things are done before, which the pipeline does not: one
    that fills all that two windows share goes on in both, and is put together; one that begins or ends
    within a word, because its window does, is left to the neighbor, who has the whole word.

    Args:
        text: of the row.
        pieces: its windows.
        found: the entities of each.
    """
    windows = [_reaching(pieces, number, items) for number, items in enumerate(found)]
    for number in range(len(windows) - 1):
        _put_together(text, windows, number)
    torn = [_cut_words(pieces, number) for number in range(len(pieces))]
    whole = [
        entity.item
        for entities, (first, last) in zip(windows, torn, strict=True)
        for entity in entities
        if not (entity.first and first) and not (entity.last and last)
    ]
    return _without_overlaps(whole)


def _reaching(pieces: Sequence[Piece], number: int, items: Sequence[Item]) -> list[_Found]:
    start, end = _span(pieces[number])
    begins, goes_on = number > 0, number < len(pieces) - 1
    return [_Found(item, begins and item["start"] <= start, goes_on and item["end"] >= end) for item in items]


def _span(piece: Piece) -> tuple[int, int]:
    """Return where the text of a window begins and ends, in code points."""
    places = text_places(piece)
    return piece.encoding.offsets[places[0]][0], piece.encoding.offsets[places[-1]][1]


def _put_together(text: str, windows: list[list[_Found]], number: int) -> None:
    """Join the entity that both windows begin or end with, where it is longer than what they share."""
    before, behind = windows[number], windows[number + 1]
    tail = next((entity for entity in before if entity.last), None)
    head = next((entity for entity in behind if entity.first), None)
    if tail is None or head is None or tail.item["entity"] != head.item["entity"]:
        return
    if not tail.start <= head.start < tail.end <= head.end:
        return
    lengths = [tail.end - tail.start, head.end - head.start]
    # As if of one mean: each part counts for what it is long.
    score = float(np.float32(np.average([tail.item["score"], head.item["score"]], weights=lengths)))
    span = {"text": text[tail.start : head.end], "score": score, "start": tail.start, "end": head.end}
    before.remove(tail)
    behind[behind.index(head)] = replace(head, item={**head.item, **span}, first=tail.first)


def _cut_words(pieces: Sequence[Piece], number: int) -> tuple[bool, bool]:
    """Return whether a window begins, and whether it ends, within a word."""
    places = text_places(pieces[number])
    encoding = pieces[number].encoding
    first = last = False
    if number > 0:
        whole = _word(pieces[number - 1], encoding.token_to_word(places[0]))
        first = whole is not None and whole[0] < encoding.offsets[places[0]][0]
    if number < len(pieces) - 1:
        whole = _word(pieces[number + 1], encoding.token_to_word(places[-1]))
        last = whole is not None and whole[1] > encoding.offsets[places[-1]][1]
    return first, last


def _word(piece: Piece, word: int | None) -> tuple[int, int] | None:
    span: tuple[int, int] | None = None if word is None else piece.encoding.word_to_chars(word)
    return span


def _without_overlaps(entities: list[Item]) -> list[Item]:
    kept: list[Item] = []
    # At the seam of two windows an entity is found twice, perhaps cut in one of them.
    for entity in sorted(entities, key=lambda entity: int(entity["start"])):
        if kept and entity["start"] < kept[-1]["end"]:
            kept[-1] = max(kept[-1], entity, key=_strength)
        else:
            kept.append(entity)
    return kept


def _strength(entity: Item) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
