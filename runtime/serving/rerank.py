"""Documents in order for a query, as text-embeddings-inference, Cohere and Jina ask for them."""

from __future__ import annotations

import os
from typing import Any

from bertonnx.runtime.rows import Item
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.tei import side_of

__all__ = ["cohere", "either"]


async def either(call: Call) -> Response:
    """`POST /rerank`: `texts` are of text-embeddings-inference, `documents` of Cohere or Jina."""
    fields = call.fields
    if ("texts" in fields) == ("documents" in fields):
        raise fields.refused("texts", "or `documents` must be there, and not both")
    return await (_tei(call) if "texts" in fields else cohere(call))


async def _tei(call: Call) -> Response:
    fields = call.fields
    query, texts = fields.text("query"), fields.texts("texts")
    if not texts:
        raise RefusedError("empty", "`texts` is empty; give at least one text", "texts")
    raw, shown = fields.flag("raw_scores"), fields.flag("return_text")
    served = call.choose("rank")
    found = await call.ask(
        served,
        lambda methods: methods.rank(query, texts, raw_scores=raw),
        [query, *texts],
        truncate=fields.flag_or_none("truncate"),
        side=side_of(fields),
    )
    return as_json([{**item, "text": texts[item["index"]]} if shown else item for item in found])


async def cohere(call: Call) -> Response:
    """`POST /v1/rerank` and `/v2/rerank`."""
    fields = call.fields
    query, documents = fields.text("query"), _documents(fields)
    served = call.choose("rank", fields.text_or_none("model"))
    top = fields.whole("top_n")
    shown = fields.flag("return_documents")
    found = await call.ask(
        served,
        lambda methods: methods.rank(query, documents, top_k=top),
        [query, *documents],
        # Their clients know no error of length: what is too long is always cut, and said in a header.
        truncate=True,
    )
    tokens = call.took.tokens
    return as_json(
        {
            "id": os.urandom(16).hex(),
            "model": served.name,
            "results": [_result(item, documents, shown=shown) for item in found],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
            "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
        }
    )


def _result(item: Item, documents: list[str], *, shown: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"index": item["index"], "relevance_score": item["score"]}
    if shown:
        result["document"] = {"text": documents[item["index"]]}
    return result


def _documents(fields: Fields) -> list[str]:
    """Return the texts of documents, which may be objects that hold a text."""
    value = fields.any("documents")
    if not isinstance(value, list) or not value:
        raise fields.refused("documents", "must be a list of at least one text")
    texts = []
    for place, document in enumerate(value):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str):
            raise fields.refused(f"documents.{place}", "must be a text, or an object with a `text`")
        texts.append(text)
    return texts
