"""The vectors of a text's tokens, or of its words, of any layer that the graph puts out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bertonnx.errors import UsageError
from bertonnx.models.card import Card
from bertonnx.models.hidden import hidden_name
from bertonnx.runtime.options import chosen, require_whole
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece
from bertonnx.wording import Call, Option

__all__ = ["POOLED", "Pooled", "TokenDecoder", "TokenOptions", "output_of"]

Pooled = Literal["mean", "first", "last", "max"]
POOLED: tuple[Pooled, ...] = ("mean", "first", "last", "max")

_LAST = "last_hidden_state"


@dataclass(frozen=True)
class TokenOptions:
    """Which vectors of tokens are asked for.

    Attributes:
        layer: as transformers counts `hidden_states`; -1 for the last one.
        words: how the vectors of a word's tokens become one; None for tokens.
        prompt: name of the prompt that is put before each text; None for the model's default.

    Raises:
        UsageError: `layer` is no whole number, or there is no such pooling.
    """

    layer: int = -1
    words: Pooled | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        require_whole("layer", self.layer)
        if self.words is not None:
            chosen("words", self.words, POOLED)


def output_of(card: Card, layer: int) -> str:
    """Return the graph's output that holds the vectors of a layer.

    Args:
        card: of the model.
        layer: as transformers counts `hidden_states`: 0 is what enters the first layer; negative numbers
            count from the last.

    Raises:
        UsageError: the graph does not put it out.
    """
    count = None if card.layers is None else card.layers + 1
    place = layer if layer >= 0 or count is None else layer + count
    if place in card.hidden_states:
        return hidden_name(place)
    if layer == -1:
        return _LAST
    raise UsageError(
        "{asked}: this file holds {layers}; export the checkpoint with that layer: {export}",
        asked=Option("layer", layer),
        layers=f"the layers {', '.join(map(str, card.hidden_states))}, and -1"
        if card.hidden_states
        else "the last layer alone (-1)",
        export=Call("export", "SOURCE", hidden_states="all"),
    )


class _Token(NamedTuple):
    """A token: its text, where it stands in the row's text, the word that it is of, and its vector."""

    text: str
    start: int
    end: int
    word: int | None
    vector: Array


@dataclass(frozen=True)
class TokenDecoder:
    """Items `{"tokens", "offsets", "vectors"}`, or of words `{"words", "offsets", "vectors"}`.

    `tokens` are texts, the special ones among them; `offsets` pairs of code points, half open, into the row's
    text, (0, 0) for what does not stand there; `vectors` float32 of shape (tokens, width). Of a text that was
    read in windows, each token is there once, as the first window that has it whole sees it.

    Attributes:
        output: the graph's output that is read.
        prompt: how many characters of the prompt stand before the text.
        words: how the vectors of a word's tokens become one; None for tokens.
    """

    output: str
    prompt: int = 0
    words: Pooled | None = None

    @property
    def fetch(self) -> tuple[str, ...]:
        """The one output that is read."""
        return (self.output,)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the vectors of a piece's tokens, float32 of shape (tokens, width)."""
        return np.array(outputs[self.output], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's tokens or words."""
        tokens = [*self._tokens(encoded.pieces, kept)]
        text = encoded.row.text
        if self.words is None:
            return _item(
                "tokens", [token.text for token in tokens], [*tokens], [t.vector for t in tokens], kept
            )
        groups = _groups(tokens)
        spans = [_Token("", group[0].start, group[-1].end, None, group[0].vector) for group in groups]
        vectors = [_pooled(group, self.words) for group in groups]
        return _item("words", [text[span.start : span.end] for span in spans], spans, vectors, kept)

    def _tokens(self, pieces: Sequence[Piece], kept: Sequence[Array]) -> Iterator[_Token]:
        done = -1
        for number, (piece, vectors) in enumerate(zip(pieces, kept, strict=True)):
            encoding, last = piece.encoding, number == len(pieces) - 1
            text = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
            for i, token in enumerate(encoding.tokens):
                start, end = (max(0, place - self.prompt) for place in encoding.offsets[i])
                if encoding.special_tokens_mask[i]:
                    # Those that begin every window belong to the first, and those that end it to the last.
                    if (number == 0) if not text or i < text[0] else last:
                        yield _Token(token, 0, 0, None, vectors[i])
                elif number == 0 or start >= done:
                    yield _Token(token, start, end, encoding.word_ids[i], vectors[i])
            done = max([done, *(max(0, encoding.offsets[i][1] - self.prompt) for i in text)])


def _item(
    name: str, texts: list[str], spans: Sequence[_Token], vectors: Sequence[Array], kept: Sequence[Array]
) -> Item:
    stacked = np.stack(vectors) if vectors else np.empty((0, kept[0].shape[1]), np.float32)
    return {name: texts, "offsets": [(span.start, span.end) for span in spans], "vectors": stacked}


def _groups(tokens: Sequence[_Token]) -> list[list[_Token]]:
    """Return the tokens of each word of the text, in order; special tokens and the prompt's are of none."""
    groups: list[list[_Token]] = []
    word: int | None = None
    for token in tokens:
        if token.word is None or token.end == 0:
            word = None
        elif token.word == word and groups:
            groups[-1].append(token)
        else:
            groups.append([token])
            word = token.word
    return groups


def _pooled(group: Sequence[_Token], how: Pooled) -> Array:
    vectors: Array = np.stack([token.vector for token in group])
    if how in ("first", "last"):
        return group[0 if how == "first" else -1].vector
    pooled: Array = vectors.max(axis=0) if how == "max" else vectors.mean(axis=0, dtype=np.float64)
    return pooled.astype(np.float32)
