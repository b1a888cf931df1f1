"""One score for a pair of texts; what makes it of the logit is in the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bertonnx.errors import RowError, UsageError
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.decoders.overlap import weighted_mean
from bertonnx.runtime.decoders.uses import Answers, Running
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece, Row, as_rows
from bertonnx.wording import Option

__all__ = ["RankingDecoder", "for_query", "ranking_decoder"]


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


def for_query(running: Running, rows: Iterable[Row | RowError]) -> Answers:
    """Score each row's text as a document for the one query; the same bits as pairs of the two.

    Raises:
        UsageError: the query is no valid Unicode.
    """
    (query,) = as_rows([running.options.query])
    if isinstance(query, RowError):
        raise UsageError("{option}: {why}", option=Option("query"), why=query.message)
    text = query.text
    pairs = (row if isinstance(row, RowError) else replace(row, text=text, pair=row.text) for row in rows)
    return running.run(pairs, decoder_for(running.context))
