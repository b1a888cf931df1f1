"""What a head is trained on: a model file's vectors of labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertonnx.errors import InputError, RowError
from bertonnx.exporters.training.encoded import tag_of
from bertonnx.runtime.decoders.overlap import weighted_mean
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.evaluation.labelled import Labelled
from bertonnx.runtime.evaluation.tagged import Tagged
from bertonnx.runtime.rows import Array, Decoder, Encoded, Item, Outputs, Piece, as_rows

__all__ = ["text_vectors", "token_vectors"]

Labels = npt.NDArray[np.str_]


def text_vectors(engine: Engine, data: Labelled) -> tuple[Array, int]:
    """Return the embedding of each text or pair, float32 of shape (rows, width), and how many were cut.

    Raises:
        InputError: a text cannot be embedded.
    """
    items = _items(engine, _Texts(), data)
    return np.stack([item["vector"] for item in items]), _cut(items)


def token_vectors(engine: Engine, data: Tagged) -> tuple[Array, Labels, int]:
    """Return each token's vector, float32 of shape (tokens, width), its BIO tag, and how many texts are cut.

    Of a word of an entity the first token begins it and the others are inside it, so that joining neighbors
    of one type (`aggregation="simple"`) finds it whole.

    Raises:
        InputError: a text cannot be embedded.
    """
    vectors, tags = [], []
    items = _items(engine, _Tokens(), data)
    for item, spans in zip(items, data.spans, strict=True):
        vectors.append(item["vectors"])
        tags += [tag_of(start, end, spans) for start, end in item["places"]]
    return np.concatenate(vectors), np.array(tags), _cut(items)


def _cut(items: Sequence[Item]) -> int:
    return sum(item["cut"] for item in items)


def _items(engine: Engine, decoder: Decoder, data: Labelled | Tagged) -> list[Item]:
    pairs = data.pairs if isinstance(data, Labelled) else None
    found: list[Item] = []
    for place, item in enumerate(engine.map(as_rows(data.texts, pairs), decoder, soon=False)):
        if isinstance(item, RowError):
            raise InputError("row {place} of {path}: {why}", place=place, path=data.path, why=item)
        found.append(item)
    return found


@dataclass(frozen=True)
class _Texts:
    """Items `{"vector": float32 (width,), "cut": bool}`; of windows their mean, as embeddings are joined."""

    fetch = ("sentence_embedding",)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the embedding."""
        return np.array(outputs["sentence_embedding"], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's vector."""
        vector = kept[0].copy() if len(kept) == 1 else weighted_mean(encoded.pieces, kept)
        return {"vector": vector, "cut": encoded.truncated}


@dataclass(frozen=True)
class _Tokens:
    """Items `{"vectors": float32 (tokens, width), "places": [(start, end)], "cut": bool}`, in code points."""

    fetch = ("last_hidden_state",)

    def keep(self, piece: Piece, outputs: Outputs) -> tuple[Array, list[tuple[int, int]]]:
        """Return the text's tokens' vectors, and their places."""
        encoding = piece.encoding
        own = [token for token, place in enumerate(encoding.sequence_ids) if place == 0]
        # Tokens that stand for no characters cannot lie in an entity.
        own = [token for token in own if encoding.offsets[token][0] < encoding.offsets[token][1]]
        places = [encoding.offsets[token] for token in own]
        return np.array(outputs["last_hidden_state"][own], dtype=np.float32), places

    def decode(self, encoded: Encoded, kept: Sequence[tuple[Array, list[tuple[int, int]]]]) -> Item:
        """Return the row's tokens; of windows those of each, since a token seen twice does no harm."""
        vectors = np.concatenate([part for part, _ in kept])
        places = [place for _, found in kept for place in found]
        return {"vectors": vectors, "places": places, "cut": encoded.truncated}
