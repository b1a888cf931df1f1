"""Sparse embeddings out of the graph's outputs: the words that weigh something in a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertonnx.models.retrieval import SparseWeights
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.rows import Array, Decoder, Encoded, Item, Outputs, Piece
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["SparseDecoder", "TokensDecoder", "Words", "sparse_decoder"]

_Ids = npt.NDArray[np.int64]


class Words(dict[str, float]):
    """The weight of each token in a text, the heaviest first.

    Attributes:
        ids: ids of the tokens, int64.
        weights: their weights, float32; where two are equal, the smaller id comes first.

    Args:
        tokens: the tokens.
        ids: their ids.
        weights: their weights.
    """

    def __init__(self, tokens: Iterable[str], ids: _Ids, weights: Array) -> None:
        super().__init__(zip(tokens, weights.tolist(), strict=True))
        self.ids = ids
        self.weights = weights

    def __reduce__(self) -> tuple[type[Words], tuple[list[str], _Ids, Array]]:
        return type(self), (list(self), self.ids, self.weights)


def sparse_decoder(context: DecoderContext) -> Decoder:
    """Return the decoder of a model whose embeddings are sparse."""
    facts = context.card.sparse or SparseWeights()
    if TokensDecoder.fetch[0] in context.card.outputs:
        return TokensDecoder(context.tokenizer, context.options.top_k or facts.most, facts.unused)
    return SparseDecoder(context.tokenizer, context.options.top_k or facts.most)


@dataclass(frozen=True)
class SparseDecoder:
    """Items `{"sparse": Words}`.

    A word weighs in several windows what it weighs most in one of them.

    Attributes:
        tokenizer: has the tokens of the ids.
        most: how many of the heaviest are kept; None for all.
    """

    tokenizer: TextTokenizer
    most: int | None = None

    fetch = ("sparse_embedding",)

    def keep(self, piece: Piece, outputs: Outputs) -> tuple[npt.NDArray[np.int32], Array]:  # noqa: ARG002
        """Return the ids that weigh something, and their weights: a text has some hundred of 30,000."""
        weights = outputs["sparse_embedding"]
        # Not `!= 0`: NaN is kept, so that it shows.
        ids = np.flatnonzero(~(weights <= 0))
        ids, found = heaviest(ids, weights[ids], self.most)
        return ids.astype(np.int32), found.astype(np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[tuple[npt.NDArray[np.int32], Array]]) -> Item:  # noqa: ARG002
        """Return the row's words."""
        return {"sparse": words_of(self.tokenizer, kept, self.most)}


@dataclass(frozen=True)
class TokensDecoder:
    """Items `{"sparse": Words}` of a model that weighs the tokens of a text, as bge-m3 does.

    Attributes:
        tokenizer: has the tokens of the ids.
        most: how many of the heaviest are kept; None for all.
        unused: ids whose weights never count.
    """

    tokenizer: TextTokenizer
    most: int | None = None
    unused: tuple[int, ...] = ()

    fetch = ("token_weights",)

    def keep(self, piece: Piece, outputs: Outputs) -> tuple[npt.NDArray[np.int32], Array]:
        """Return the ids that weigh something, and their weights; an id may be there several times."""
        weights = outputs["token_weights"]
        counted = ~(weights <= 0) & ~np.isin(piece.ids, self.unused)
        return piece.ids[counted].astype(np.int32), weights[counted].astype(np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[tuple[npt.NDArray[np.int32], Array]]) -> Item:  # noqa: ARG002
        """Return the row's words, each with the largest weight of its tokens."""
        return {"sparse": words_of(self.tokenizer, kept, self.most)}


def heaviest(ids: npt.NDArray[np.integer], weights: Array, most: int | None) -> tuple[_Ids, Array]:
    """Return ids and weights, the heaviest first, and no more than so many."""
    order = np.lexsort((ids, -weights))[:most]
    return ids[order].astype(np.int64), weights[order]


def words_of(
    tokenizer: TextTokenizer, kept: Sequence[tuple[npt.NDArray[np.int32], Array]], most: int | None
) -> Words:
    """Return the words of all windows of a text, each with its largest weight there."""
    ids, weights = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    single, places = np.unique(ids, return_inverse=True)
    largest = np.full(len(single), -np.inf, dtype=np.float32)
    np.maximum.at(largest, places, weights)
    ordered, found = heaviest(single, largest, most)
    return Words(map(tokenizer.token, ordered.tolist()), ordered, found)
