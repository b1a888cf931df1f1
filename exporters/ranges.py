"""The ranges of embeddings that encodings in a byte need: of texts that the finished graph embeds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from bertonnx.errors import RowError
from bertonnx.models.ranges import Ranges
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.rows import Array, Row
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.vectors.similarity import unit

__all__ = ["openings", "ranges_of"]

_OPENING = 40
"""Characters of a text of ours that are embedded, some eight tokens: the ranges fit other texts, short and
long ones, as well as those of whole texts do, and take half of the time."""

_EVERY = 3
"""Of our texts one in so many is embedded."""

_DEVIATIONS = 4.0
"""Standard deviations from the mean to which the ranges of our texts reach at least. The least and the
largest number of some texts leave out more of what other texts have, which a byte then cuts off, and take
three times as many texts."""


def openings(rows: Sequence[Row]) -> list[Row]:
    """Return of some of our texts how each begins, up to the end of a word."""
    return [replace(row, text=_opening(row.text)) for row in rows[::_EVERY]]


def _opening(text: str) -> str:
    if len(text) <= _OPENING:
        return text
    words = text[: _OPENING + 1].rpartition(" ")[0]
    # Many scripts have no blanks between words.
    return words if 2 * len(words) >= _OPENING else text[:_OPENING]


def ranges_of(
    rows: Sequence[Row],
    session: Session,
    context: DecoderContext,
    *,
    dimensions: Sequence[int],
    ours: bool = False,
) -> tuple[Ranges, ...]:
    """Return the ranges of a model's embeddings, none where it can embed no text.

    Args:
        rows: the texts.
        session: what embeds them, one text at a time as far as its numbers are concerned.
        context: of the model.
        dimensions: of the embeddings that are cut to as many numbers and then get length 1 there are ranges
            too. Of those that are only cut, the ranges are those of the whole ones.
        ours: whether the texts are ours, and other texts will be embedded: the ranges are wider then. Those
            of a user's own are the least and the largest numbers, as sentence-transformers takes them.

    Returns:
        First those of the embeddings as they are.
    """
    embedded = _embedded(_prompted(rows, context), session, context)
    if not len(embedded):
        return ()
    whole = embedded.shape[1]
    # A file whose embeddings have any length can be asked for length 1 without a cut.
    cuts = dict.fromkeys([*(() if context.card.normalize else (whole,)), *dimensions])
    return (
        _ranges(embedded, normalized=False, wider=ours),
        *(_ranges(unit(embedded[:, :length]), normalized=True, wider=ours) for length in cuts),
    )


def _prompted(rows: Sequence[Row], context: DecoderContext) -> list[Row]:
    """Return the texts as they are, and again with the model's other prompts, which take turns."""
    card = context.card
    others = [name for name, text in card.prompts.items() if text and name and name != card.default_prompt]
    if not others:
        return [*rows]
    # All texts with all prompts would take as many times as long.
    return [*rows, *(replace(row, prompt=others[i % len(others)]) for i, row in enumerate(rows))]


def _embedded(rows: Sequence[Row], session: Session, context: DecoderContext) -> Array:
    """Return the embeddings of all texts that can be embedded, float32 of shape (texts, width)."""
    with closing(Engine(session, context.tokenizer, threads=allowed_cores())) as engine:
        items = list(engine.map(iter(rows), decoder_for(context), soon=False))
    found = [item["embedding"] for item in items if not isinstance(item, RowError)]
    finite = [embedding for embedding in found if np.isfinite(embedding).all()]
    return np.stack(finite) if finite else np.empty((0, context.card.width or 0), np.float32)


def _ranges(vectors: Array, *, normalized: bool, wider: bool) -> Ranges:
    least, largest = vectors.min(axis=0), vectors.max(axis=0)
    if wider:
        mean, reach = vectors.mean(axis=0), _DEVIATIONS * vectors.std(axis=0)
        least, largest = np.minimum(least, mean - reach), np.maximum(largest, mean + reach)
    # float32 numbers as doubles, which JSON keeps to the last bit.
    return Ranges(
        dimensions=vectors.shape[1],
        normalized=normalized,
        texts=len(vectors),
        least=tuple(least.tolist()),
        largest=tuple(largest.tolist()),
    )
