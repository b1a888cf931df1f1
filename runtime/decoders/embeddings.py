"""Sentence embeddings out of the graph's outputs; pooling is in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.overlap import weighted_mean
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece

__all__ = ["EmbeddingDecoder", "embedding_decoder"]

_LEAST_NORM = 1e-12
"""Below it a vector is not stretched, as in torch.nn.functional.normalize."""


def embedding_decoder(context: DecoderContext) -> EmbeddingDecoder:
    """Return the decoder of a model that embeds."""
    return EmbeddingDecoder(context.card.normalize)


@dataclass(frozen=True)
class EmbeddingDecoder:
    """Items `{"embedding": float32 of shape (width,)}`.

    The embedding of several windows is their mean, weighted by their numbers of text tokens.

    Attributes:
        normalize: whether that mean is brought back to length 1 (`Card.normalize`); the embedding
            of a single window comes normalized out of the graph.
    """

    normalize: bool

    fetch = ("sentence_embedding",)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's embedding, float32 of shape (width,)."""
        return np.array(outputs["sentence_embedding"], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's embedding."""
        if len(kept) == 1:
            # Equal texts share what was kept, and the caller may write into what it gets.
            return {"embedding": kept[0].copy()}
        embedding = weighted_mean(encoded.pieces, kept)
        if self.normalize:
            norm = float(np.linalg.norm(embedding.astype(np.float64)))
            embedding = embedding / np.float32(max(norm, _LEAST_NORM))
        return {"embedding": embedding}
