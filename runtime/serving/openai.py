"""OpenAI's interface: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import base64
from typing import Any

from bertonnx.runtime.rows import Array
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.embedding import embedded, ids_of, inputs_of
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.served import Served

__all__ = ["embeddings", "model", "models"]

_FORMATS = ("float", "base64")


async def embeddings(call: Call) -> Response:
    """`POST /v1/embeddings`."""
    fields = call.fields
    served = call.choose("embed", fields.text_or_none("model"))
    form = fields.choice("encoding_format", _FORMATS) or "float"
    dimensions = fields.whole("dimensions")
    inputs = ids_of(fields, "input") or inputs_of(fields, "input")
    vectors = await embedded(
        call,
        served,
        inputs,
        dimensions=dimensions,
        truncate=fields.flag_or_none("truncate"),
    )

    def data(start: int, stop: int) -> list[dict[str, Any]]:
        return [
            {"object": "embedding", "index": place, "embedding": vector}
            for place, vector in enumerate(_written(vectors[start:stop], form), start)
        ]

    listed = await call.listed(data, len(vectors))
    tokens = call.took.tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return as_json({"object": "list", "data": listed, "model": served.name, "usage": usage})


async def models(call: Call) -> Response:
    """`GET /v1/models`."""
    shown = list(call.fleet) if call.named is None else [call.named]
    return as_json({"object": "list", "data": [_model(served) for served in shown]})


async def model(call: Call) -> Response:
    """`GET /v1/models/{model}`."""
    name = call.path.removeprefix("/v1/models/")
    if call.named is not None and name != call.named.name:
        raise RefusedError("unknown_model", "this path is of another model", "model")
    return as_json(_model(call.fleet.named(name)))


def _model(served: Served) -> dict[str, Any]:
    # The card is what a `Client` must know of the model, and what people want to.
    return {
        "id": served.name,
        "object": "model",
        "created": served.opened,
        "owned_by": "bertonnx",
        "task": served.card.task,
        "max_length": served.model.max_length,
        "long_text": served.model.tokenizer.long_text,
        "provider": served.model.provider,
        "identity": served.model.identity,
        "notes": list(served.model.notes),
        "card": served.card.as_dict(),
    }


def _written(vectors: Array, form: str) -> list[Any]:
    if form == "float":
        return list(vectors)
    # As clients read it, whatever this machine's own order is.
    little = vectors.astype("<f4", copy=False)
    return [base64.b64encode(vector.tobytes()).decode("ascii") for vector in little]
