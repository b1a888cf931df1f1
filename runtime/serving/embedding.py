"""Embeddings, as several kinds of clients ask for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Array
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.served import Replayed, Served, Side

__all__ = ["embedded", "ids_of", "inputs_of"]

Ids = list[list[int]]

_MOST_IDS = 2**31


def ids_of(fields: Fields, name: str) -> Ids | None:
    """Return token ids of a field that holds a list of them, or of such lists; None where it holds texts.

    Raises:
        RefusedError: some of it are ids, and some are not.
    """
    value: Any = fields.any(name)
    if not isinstance(value, list) or not value or isinstance(value[0], str):
        return None
    rows = value if isinstance(value[0], list) else [value]
    for place, row in enumerate(rows):
        if not isinstance(row, list) or not row or not all(map(_is_id, row)):
            where = f"{name}.{place}" if rows is value else f"{name}.0"
            raise fields.refused(where, "must be a text, or token ids")
    return rows


def _is_id(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _MOST_IDS


def inputs_of(fields: Fields, name: str) -> list[str]:
    """Return the texts of a field that holds one or a list of them.

    Raises:
        RefusedError: it holds something else, or nothing.
    """
    value: Any = fields.any(name)
    if isinstance(value, str):
        return [value]
    if value == []:
        raise RefusedError("empty", f"`{name}` is empty; give at least one text", name)
    return fields.texts(name)


async def embedded(
    call: Call,
    served: Served,
    texts: list[str] | Ids,
    *,
    prompt: str | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
    truncate: bool | None = None,
    side: Side | None = None,
) -> Array:
    """Return embeddings, float32 of shape (texts, width), as `Model.embed` with the same options.

    Texts may be token ids, before which no prompt is put.
    """

    if dimensions is not None and normalize is None and served.card.normalize:
        # Where whole embeddings have length 1, clients count on it of shorter ones too.
        normalize = True

    if texts and isinstance(texts[0], list):
        ids: Ids = [row for row in texts if isinstance(row, list)]
        decode = DecodeOptions(dimensions=dimensions, normalize=normalize)
        tokenizer = served.tokenizer(call.reading(served, truncate, side))

        def embed_ids(methods: Replayed) -> Array:
            items = methods.items([tokenizer.of_ids(row) for row in ids], decode)
            return np.array([item["embedding"] for item in items], dtype=np.float32)

        return await call.ask(served, embed_ids, ["" for _ in ids], truncate=truncate, side=side)
    plain = [text for text in texts if isinstance(text, str)]

    def embed(methods: Replayed) -> Array:
        return methods.embed(plain, prompt=prompt, dimensions=dimensions, normalize=normalize)

    return await call.ask(served, embed, plain, truncate=truncate, side=side)
