"""Texts that a model's tokenizer turns into exactly so many tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Option

__all__ = ["exact_rows"]

_COMMON_WORDS = (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not "
    "but what all were when we there can an your which their said if do will each about how up out them "
    "then she many some so these would other into has more her two like him see time could no make than "
    "first been its who now people my made over did down only way find use may water long little very "
    "after words called just where most know get through back much before good new write our used me man "
    "too any day same right look think also around another came come work three must because does part"
)
_WORDS = tuple(_COMMON_WORDS.split())

_TRIES = 60
"""Cuts tried for one text: a cut inside a word can change the tokens before it, most do not."""


def exact_rows(tokenizer: TextTokenizer, card: Card, *, length: int, count: int) -> list[Row]:
    """Return `count` different rows of exactly `length` tokens each, the same ones at every call.

    They differ because equal texts may be computed once. Where the task reads pairs, the second
    text is the long one; where it fills masks, there is one mask.

    Raises:
        UsageError: the tokenizer cannot make so many, because `length` leaves too little room.
    """
    # Seeded by the length: every model, and every run, gets the same texts.
    dice = random.Random(length)
    rows: dict[Row, None] = {}
    for _ in range(count * _TRIES):
        row = _cut(tokenizer, card, _draft(card, dice, length), length)
        if row is not None:
            rows[row] = None
        if len(rows) == count:
            return list(rows)
    raise UsageError(
        "{asked}: this model's tokenizer cannot make {count} different texts of {length} tokens ({least} are "
        "its own in every text); ask for longer ones or smaller batches",
        asked=Option("lengths", length),
        count=count,
        length=length,
        least=_least(tokenizer, card),
    )


def _draft(card: Card, dice: random.Random, length: int) -> Row:
    # A word can be less than one token only where the tokenizer merges words, which none here does.
    words = " ".join(dice.choices(_WORDS, k=length + 1))
    if card.needs_pair:
        return Row("what is it", words)
    return Row(f"{card.mask_token} {words}" if card.mask_token else words)


def _cut(tokenizer: TextTokenizer, card: Card, draft: Row, length: int) -> Row | None:
    """Return the draft cut to `length` tokens; None where no cut at that token gives so many."""
    (encoded,) = _encoded(tokenizer, draft)
    encoding = encoded.pieces[0].encoding
    part = 1 if draft.pair is not None else 0
    places = [place for place, which in enumerate(encoding.sequence_ids) if which == part]
    wanted = length - (len(encoding) - len(places))
    if not 0 < wanted <= len(places):
        return None
    # Offsets count from the start of the prompt, which the tokenizer is given as well.
    end = encoding.offsets[places[wanted - 1]][1]
    row = _shortened(draft, end, len(card.prompt_text()))
    # Counted again: without what came after it, the last word may split otherwise.
    (again,) = _encoded(tokenizer, row)
    fits = len(again.pieces) == 1 and not again.truncated and len(again.pieces[0].ids) == length
    return row if fits else None


def _shortened(draft: Row, end: int, prompt: int) -> Row:
    if draft.pair is not None:
        return Row(draft.text, draft.pair[:end])
    return Row(draft.text[: max(0, end - prompt)])


def _least(tokenizer: TextTokenizer, card: Card) -> int:
    (encoded,) = _encoded(tokenizer, Row("what is it", "") if card.needs_pair else Row(card.mask_token or ""))
    return len(encoded.pieces[0].ids)


def _encoded(tokenizer: TextTokenizer, row: Row) -> Iterator[Encoded]:
    for result in tokenizer.encode([row]):
        if isinstance(result, RowError):
            raise result
        yield result
