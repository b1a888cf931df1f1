"""Embeddings, as several kinds of clients ask for them."""

from __future__ import annotations

from typing import Any

from bertonnx.runtime.methods import Methods
from bertonnx.runtime.rows import Array
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.served import Served, Side

__all__ = ["embedded", "inputs_of"]

Inputs = list[str]


def inputs_of(fields: Fields, name: str) -> Inputs:
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
    texts: Inputs,
    *,
    prompt: str | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
    truncate: bool | None = None,
    side: Side | None = None,
) -> Array:
    """Return embeddings, float32 of shape (texts, width), as `Model.embed` with the same options."""

    if dimensions is not None and normalize is None and served.card.normalize:
        # Where whole embeddings have length 1, clients count on it of shorter ones too.
        normalize = True

    def embed(methods: Methods) -> Array:
        return methods.embed(texts, prompt=prompt, dimensions=dimensions, normalize=normalize)

    return await call.ask(served, embed, texts, truncate=truncate, side=side)
