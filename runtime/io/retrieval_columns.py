"""The columns of sparse embeddings, and of many vectors for a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertonnx.models.card import Card
from bertonnx.runtime.io.columns import Column, Scalar
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item

__all__ = ["sparse_columns", "vectors_columns"]

_WORD: Mapping[str, Scalar] = {"token": "text", "token_id": "int", "weight": "float"}


@dataclass(frozen=True)
class _WordColumn(Column):
    """The words of a text as a list of structures: a table has no column for each of 30,000."""

    def value(self, item: Item) -> Any:
        found = super().value(item)
        if found is None:
            return None
        return [
            dict(zip(_WORD, word, strict=True))
            for word in zip(found, found.ids.tolist(), found.values(), strict=True)
        ]


def sparse_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    """Return the column of a text's words and their weights, the heaviest first."""
    return (_WordColumn("sparse", "struct", lists=1, fields=_WORD),)


def vectors_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:
    """Return the column of a text's vectors, one for each token; that of the score where there is a query."""
    if decode.query is not None:
        return (Column("score", "float"),)
    width = 0 if card.late is None else card.late.width
    return (Column("vectors", "vector", lists=1, width=width),)
