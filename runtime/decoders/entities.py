"""Entities out of token scores, as transformers' TokenClassificationPipeline finds them.

Source of the rules: transformers 4.57.6, `pipelines/token_classification.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.seams import joined, own_tokens, text_places
from bertonnx.runtime.options import AGGREGATIONS, Aggregation, chosen
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece
from bertonnx.runtime.tokenization import SubwordRule

__all__ = ["EntityDecoder", "entity_decoder"]

_OUTSIDE = "O"


def entity_decoder(context: DecoderContext) -> EntityDecoder:
    """Return the decoder of a model that labels tokens."""
    aggregation = context.options.aggregation
    # The rule is read from the whole vocabulary, for which the other aggregations need not wait.
    subwords = context.tokenizer.subwords if aggregation in _COMBINE else SubwordRule(False)
    unknown = context.card.unk_token_id
    # A vocabulary may have an unknown token that the tokenizer does not name, and the pipeline goes by names.
    return EntityDecoder(
        context.card.labels,
        aggregation,
        subwords if unknown is None else replace(subwords, unknown_id=unknown),
    )


class _Unit(NamedTuple):
    """A token or a word with its label."""

    label: int
    score: np.float32
    start: int
    end: int


class _Label(NamedTuple):
    begins: bool
    tag: str
    group: str


def _parsed(name: str) -> _Label:
    tag = name[2:] if name.startswith(("B-", "I-")) else name
    return _Label(name.startswith("B-"), tag, name.split("-", 1)[-1])


@dataclass(frozen=True)
class EntityDecoder:
    """Items `{"entities": [{"entity", "text", "score", "start", "end"}]}`.

    `start` and `end` are code points, half open, into the row's text, and `text` is that part of it.
    Of a text that was read in windows, every entity is there once and whole (`seams.joined`): of two that
    overlap the longer stays, or the better of two equally long ones, as in the pipeline with `stride`. With
    "none", which the pipeline does not do in windows, a token is judged by the window that sees more of the
    text around it.

    Attributes:
        labels: names in the order of the scores (`Card.labels`).
        aggregation: "none" gives every token with its full tag ("B-PER"), "simple" joins neighbours of
            one tag ("PER"), and the others first give all tokens of a word one tag: the first token's,
            that of the averaged scores, or that of the token with the best score.
        subwords: how the tokenizer marks the inside of words; `first`, `average` and `max` need it.

    Raises:
        UsageError: no such aggregation.
    """

    labels: tuple[str, ...]
    aggregation: Aggregation
    subwords: SubwordRule

    fetch = ("scores",)

    def __post_init__(self) -> None:
        chosen("aggregation", self.aggregation, AGGREGATIONS)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's scores, float32 of shape (sequence_length, number_of_labels)."""
        return np.array(outputs["scores"], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's entities in order of the text."""
        text, pieces = encoded.row.text, encoded.pieces
        # Words that a border cuts are judged whole by a neighbor, tokens by whoever sees more around them.
        own = own_tokens(pieces) if self.aggregation == "none" else [text_places(piece) for piece in pieces]
        found = [
            list(self._entities(self._units(text, piece, scores, places), text))
            for piece, scores, places in zip(pieces, kept, own, strict=True)
        ]
        if self.aggregation == "none" or len(kept) == 1:
            return {"entities": [*chain.from_iterable(found)]}
        return {"entities": joined(text, pieces, found)}

    @cached_property
    def _parsed(self) -> tuple[_Label, ...]:
        return tuple(map(_parsed, self.labels))

    def _units(self, text: str, piece: Piece, scores: Array, places: list[int]) -> list[_Unit]:
        if not places:
            return []
        offsets: list[tuple[int, int]] = piece.encoding.offsets
        if self.aggregation in ("none", "simple"):
            labels, best = scores.argmax(axis=-1).tolist(), scores.max(axis=-1)
            return [_Unit(labels[i], best[i], *offsets[i]) for i in places]
        combine = _COMBINE[self.aggregation]
        return [
            _Unit(*combine(scores[word]), offsets[word[0]][0], offsets[word[-1]][1])
            for word in _words(self.subwords, text, piece, places)
        ]

    def _entities(self, units: list[_Unit], text: str) -> Iterator[Item]:
        if self.aggregation == "none":
            groups = [[unit] for unit in units]
            names: Sequence[str] = self.labels
        else:
            groups = self._groups(units)
            names = [label.group for label in self._parsed]
        for group in groups:
            name = names[group[0].label]
            if name != _OUTSIDE:
                start, end = group[0].start, group[-1].end
                # One token keeps its exact score: a mean of one may round.
                score = float(np.mean([unit.score for unit in group]) if len(group) > 1 else group[0].score)
                yield {"entity": name, "text": text[start:end], "score": score, "start": start, "end": end}

    def _groups(self, units: list[_Unit]) -> list[list[_Unit]]:
        groups: list[list[_Unit]] = []
        last_tag: str | None = None
        for unit in units:
            label = self._parsed[unit.label]
            if label.tag == last_tag and not label.begins:
                groups[-1].append(unit)
            else:
                groups.append([unit])
            last_tag = label.tag
        return groups


def _words(rule: SubwordRule, text: str, piece: Piece, places: list[int]) -> list[list[int]]:
    """Return the places of the tokens of each word."""
    tokens: list[str] = piece.encoding.tokens
    offsets: list[tuple[int, int]] = piece.encoding.offsets
    ids = piece.ids.tolist()
    words: list[list[int]] = []
    for place in places:
        start, end = offsets[place]
        if ids[place] == rule.unknown_id:
            continues = False
        elif rule.has_prefix:
            continues = rule.added.get(ids[place], len(tokens[place])) != end - start
        else:
            continues = start > 0 and " " not in text[start - 1 : start + 1]
        if continues and words:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def _first(scores: Array) -> tuple[int, np.float32]:
    return _best(scores[0])


def _average(scores: Array) -> tuple[int, np.float32]:
    return _best(scores.mean(axis=0))


def _max(scores: Array) -> tuple[int, np.float32]:
    return _best(scores[int(scores.max(axis=-1).argmax())])


def _best(scores: Array) -> tuple[int, np.float32]:
    label = int(scores.argmax())
    return label, scores[label]


_COMBINE: dict[str, Callable[[Array], tuple[int, np.float32]]] = {
    "first": _first,
    "average": _average,
    "max": _max,
}
"""Scores of a word's tokens, of shape (tokens, number_of_labels), to its label and score."""
