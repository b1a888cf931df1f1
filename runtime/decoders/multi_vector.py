"""A vector for each token out of the graph's outputs, and what queries and documents leave out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError, UsageError
from bertonnx.models.retrieval import QUERY, LateInteraction, Side
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.maxsim import maxsim
from bertonnx.runtime.decoders.uses import Answers, Running
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece, Row, as_rows
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Option

__all__ = ["TokenVectorsDecoder", "VectorsDecoder", "for_query", "token_vectors_decoder", "vectors_decoder"]


def vectors_decoder(context: DecoderContext) -> VectorsDecoder:
    """Return the decoder of a model that gives many vectors for a text."""
    late = context.card.late
    assert late is not None
    return VectorsDecoder(late, context.card.default_prompt)


@dataclass(frozen=True)
class VectorsDecoder:
    """Items `{"vectors": float32 of shape (tokens, width)}`.

    The vectors of several windows stand behind each other: MaxSim takes the best, wherever it stands.

    Attributes:
        late: which tokens count.
        default_prompt: of a row that asks for none.
    """

    late: LateInteraction
    default_prompt: str | None = None

    fetch = ("token_embeddings",)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the vectors of all tokens, float32 of shape (tokens, width)."""
        return np.array(outputs["token_embeddings"], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's vectors."""
        side = self.late.side(encoded.row.prompt, self.default_prompt)
        counted = [_counted(piece, side) for piece in encoded.pieces]
        # Indexing copies: equal texts share what was kept, and the caller may write into what it gets.
        parts = [vectors[mask] for vectors, mask in zip(kept, counted, strict=True)]
        return {"vectors": parts[0] if len(parts) == 1 else np.concatenate(parts)}


def token_vectors_decoder(context: DecoderContext) -> TokenVectorsDecoder:
    """Return the decoder that says which tokens the vectors are of."""
    prompt = len(context.card.prompt_text(context.options.prompt))
    return TokenVectorsDecoder(vectors_decoder(context), context.tokenizer, prompt)


@dataclass(frozen=True)
class TokenVectorsDecoder:
    """Items `{"tokens", "offsets", "vectors"}`, as of the vectors of a layer (`runtime.decoders.tokens`).

    Attributes:
        decoder: makes the vectors.
        tokenizer: has the tokens of the ids.
        prompt: how many characters of the prompt stand before the text.
    """

    decoder: VectorsDecoder
    tokenizer: TextTokenizer
    prompt: int

    fetch = VectorsDecoder.fetch

    def keep(self, piece: Piece, outputs: Outputs) -> Array:
        """Return a copy of the vectors of all tokens, float32 of shape (tokens, width)."""
        return self.decoder.keep(piece, outputs)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's tokens that have a vector."""
        side = self.decoder.late.side(encoded.row.prompt, self.decoder.default_prompt)
        tokens, offsets = [], []
        for piece in encoded.pieces:
            for place in np.flatnonzero(_counted(piece, side)).tolist():
                tokens.append(self.tokenizer.token(int(piece.ids[place])))
                start, end = (max(0, edge - self.prompt) for edge in piece.encoding.offsets[place])
                offsets.append((start, end))
        return {"tokens": tokens, "offsets": offsets, **self.decoder.decode(encoded, kept)}


def _counted(piece: Piece, side: Side) -> npt.NDArray[np.bool_]:
    """Return which tokens have a vector, bool of shape (tokens,)."""
    counted = ~np.isin(piece.ids, side.skipped)
    counted[: side.first] = False
    return counted


def for_query(running: Running, rows: Iterable[Row | RowError]) -> Answers:
    """Score each row's text as a document for the one query, by MaxSim.

    Raises:
        UsageError: the query is no valid Unicode, or cannot be read.
    """
    decoder = vectors_decoder(running.context)
    (query,) = as_rows([running.options.query])
    asked = query if isinstance(query, RowError) else replace(query, prompt=QUERY)
    (found,) = running.run([asked], decoder)
    if isinstance(found, RowError):
        raise UsageError("{option}: {why}", option=Option("query"), why=found.message)
    return running.run(rows, _MaxSim(decoder, found["vectors"]))


@dataclass(frozen=True)
class _MaxSim:
    """Items `{"score": float}`, so that no more than a batch of documents' vectors is held."""

    decoder: VectorsDecoder
    query: Array

    @property
    def fetch(self) -> tuple[str, ...]:
        return self.decoder.fetch

    def keep(self, piece: Piece, outputs: Outputs) -> Array:
        return self.decoder.keep(piece, outputs)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        vectors = self.decoder.decode(encoded, kept)["vectors"]
        return {"score": maxsim(self.query, vectors, mean=self.decoder.late.mean)}
