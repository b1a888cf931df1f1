"""Sentence embeddings out of the graph's outputs; pooling is in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.overlap import weighted_mean
from bertonnx.runtime.decoders.seams import text_places
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece
from bertonnx.runtime.vectors.form import Form, form_of

__all__ = ["ChunkDecoder", "EmbeddingDecoder", "embedding_decoder"]

_LEAST_NORM = 1e-12
"""Below it a vector is not stretched, as in torch.nn.functional.normalize."""


def embedding_decoder(context: DecoderContext) -> EmbeddingDecoder | ChunkDecoder:
    """Return the decoder of a model that embeds, or embeds each window of a text by itself."""
    form = form_of(context.card, context.options)
    if context.options.chunks:
        return ChunkDecoder(form, len(context.card.prompt_text(context.options.prompt)))
    return EmbeddingDecoder(context.card.normalize, form)


@dataclass(frozen=True)
class EmbeddingDecoder:
    """Items `{"embedding": array of shape (width,)}`, in the form that the user asks for.

    The embedding of several windows is their mean, weighted by their numbers of text tokens.

    Attributes:
        normalize: whether that mean is brought back to length 1 (`Card.normalize`); the embedding
            of a single window comes normalized out of the graph.
        form: what becomes of it then; None for nothing.
    """

    normalize: bool
    form: Form | None = None

    fetch = ("sentence_embedding",)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's embedding, float32 of shape (width,)."""
        return np.array(outputs["sentence_embedding"], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's embedding."""
        # Equal texts share what was kept, and the caller may write into what it gets.
        embedding = kept[0].copy() if len(kept) == 1 else self._of_windows(encoded.pieces, kept)
        return {"embedding": embedding if self.form is None else self.form.of(embedding)}

    def _of_windows(self, pieces: Sequence[Piece], kept: Sequence[Array]) -> Array:
        embedding = weighted_mean(pieces, kept)
        if self.normalize:
            norm = float(np.linalg.norm(embedding.astype(np.float64)))
            embedding = embedding / np.float32(max(norm, _LEAST_NORM))
        return embedding


@dataclass(frozen=True)
class ChunkDecoder:
    """Items `{"chunks": [{"chunk", "start", "end", "embedding"}]}`, one for each window of the text.

    `start` and `end` are code points, half open, into the row's text: where the window's first token begins
    and its last one ends.

    Attributes:
        form: of the embeddings.
        prompt: code points of the prompt, which is put before the text of each window.
    """

    form: Form
    prompt: int = 0

    fetch = ("sentence_embedding",)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's embedding, float32 of shape (width,)."""
        return np.array(outputs["sentence_embedding"], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's chunks."""
        chunks = []
        for number, (piece, embedding) in enumerate(zip(encoded.pieces, kept, strict=True)):
            start, end = self._place(piece)
            # A copy, since equal texts share what was kept.
            vector = self.form.of(embedding.copy())
            chunks.append({"chunk": number, "start": start, "end": end, "embedding": vector})
        return {"chunks": chunks}

    def _place(self, piece: Piece) -> tuple[int, int]:
        places = [piece.encoding.offsets[token] for token in text_places(piece)]
        # Tokens of the prompt end within it; an empty text has none of its own.
        own = [(max(start, self.prompt), end) for start, end in places if end > self.prompt]
        if not own:
            return 0, 0
        return min(start for start, _ in own) - self.prompt, max(end for _, end in own) - self.prompt
