"""The vectors of tokens for R: of several layers in one pass."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertonnx.errors import RowError, UsageError
from bertonnx.models.tasks import served
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.tokens import POOLED, Pooled, TokenDecoder, output_of
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import DecodeOptions, chosen
from bertonnx.runtime.rows import Array, Decoder, Item, Outputs, Piece, as_rows
from bertonnx.wording import Option

__all__ = ["hidden_states", "token_rows"]

_EMBED, _EMBED_TOKENS = "embed", "embed_tokens"
_LAST = [-1]


@dataclass(frozen=True)
class _LayersDecoder(TokenDecoder):
    """As `TokenDecoder`, with the vectors of several layers beside each other.

    Attributes:
        others: the outputs of the layers after the first.
    """

    others: tuple[str, ...] = ()

    @property
    def fetch(self) -> tuple[str, ...]:
        """All outputs that are read; one that is asked for twice is read once."""
        return tuple(dict.fromkeys((self.output, *self.others)))

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return the vectors of a piece's tokens, float32 of shape (tokens, layers * width)."""
        parts = [np.asarray(outputs[name], dtype=np.float32) for name in (self.output, *self.others)]
        return np.concatenate(parts, axis=1)


def hidden_states(
    model: Model,
    texts: Sequence[str],
    *,
    layers: Sequence[int],
    words: Pooled | None = None,
    prompt: str | None = None,
) -> tuple[Generator[Item | RowError, None, None], int]:
    """Return the items of `Model.embed_tokens` one by one, and how many numbers a vector has.

    Args:
        model: an open model.
        texts: the texts.
        layers: as `Model.embed_tokens`, at least one; their vectors stand beside each other.
        words: as `Model.embed_tokens`.
        prompt: as `Model.embed_tokens`.

    Raises:
        TaskError: the model has no vectors of tokens.
        UsageError: the file does not hold a layer, or there is no such pooling or prompt.
    """
    decoder, width = _decoder(model, layers, words, prompt)
    return model.engine.map(model.prompted(as_rows(texts), prompt), decoder, soon=True), width


def _decoder(
    model: Model, layers: Sequence[int], words: Pooled | None, prompt: str | None
) -> tuple[Decoder, int]:
    card = model.card
    made = any(_EMBED_TOKENS in row.methods for row in served(card.task, card.also))
    # A head that makes vectors of tokens is what they are asked of; its encoder's layers have numbers.
    if [*layers] == _LAST and words is None and made:
        from bertonnx.runtime.decoders.multi_vector import token_vectors_decoder

        options = DecodeOptions(prompt=prompt, task=model.required(_EMBED_TOKENS))
        return token_vectors_decoder(DecoderContext(card, model.tokenizer, options)), 0
    asked = Option("layer", _one_or_more(layers)) if words is None else Option("words", words)
    _require_layers(model, asked)
    if words is not None:
        chosen("words", words, POOLED)
    first, *others = (output_of(card, layer) for layer in layers)
    start = len(card.prompt_text(prompt))
    return _LayersDecoder(first, start, words, tuple(others)), (card.width or 0) * len(layers)


def _require_layers(model: Model, asked: Option) -> None:
    row, *others = served(model.card.task, model.card.also)
    if not any(_EMBED in one.methods for one in (row, *others)) and _EMBED_TOKENS in row.methods:
        raise UsageError(
            "{asked}: a model for {task} has the vectors of its last layer's tokens alone; leave it out",
            asked=asked,
            task=row.name,
        )
    model.required(_EMBED, said=_EMBED_TOKENS)


def _one_or_more(layers: Sequence[int]) -> int | list[int]:
    return layers[0] if len(layers) == 1 else list(layers)


def token_rows(item: Item) -> list[tuple[Any, ...]]:
    """Return the values of each token, or word, of an item: position, text, start, end and vector."""
    texts = item["words"] if "words" in item else item["tokens"]
    # Special tokens stand nowhere in the text: (0, 0), which R takes for NA.
    spans = [(start + 1, end) if end > start else (0, 0) for start, end in item["offsets"]]
    found = zip(texts, spans, item["vectors"], strict=True)
    return [(place, text, *span, vector) for place, (text, span, vector) in enumerate(found, start=1)]
