"""One score for a pair of texts; what makes it of the logit is in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.overlap import weighted_mean
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece

__all__ = ["RankingDecoder", "ranking_decoder"]


def ranking_decoder(context: DecoderContext) -> RankingDecoder:
    """Return the decoder of a model that ranks documents for a query."""
    return RankingDecoder(("logits",) if context.options.raw_scores else ("scores",))


@dataclass(frozen=True)
class RankingDecoder:
    """Items `{"score": float}`, higher for the better document.

    The score is that of CrossEncoder.predict of Sentence-Transformers. That of several windows is their mean,
    weighted by their numbers of text tokens.

    Attributes:
        fetch: the output that is decoded; another than `scores` where what was asked for is what makes it.
    """

    fetch: tuple[str, ...] = ("scores",)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's score, float32 of shape (1,)."""
        return np.array(outputs[self.fetch[0]], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's score."""
        (score,) = weighted_mean(encoded.pieces, kept).tolist()
        return {"score": score}
