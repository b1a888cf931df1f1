"""What `/openapi.json` says of the interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertonnx import __version__

__all__ = ["description"]

_TEXTS = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_FLAG, _COUNT, _TEXT = {"type": "boolean"}, {"type": "integer", "minimum": 1}, {"type": "string"}
_LIST, _OBJECT = {"type": "array", "items": _TEXT}, {"type": "object"}

_CUT = {"truncate": _FLAG, "truncation_direction": {"enum": ["Left", "Right"]}}
_EMBED = {"inputs": _TEXTS, "prompt_name": _TEXT, "normalize": _FLAG, "dimensions": _COUNT, **_CUT}

_RERANK = {
    "model": _TEXT,
    "query": _TEXT,
    "documents": {"type": "array"},
    "top_n": _COUNT,
    "return_documents": _FLAG,
}
_RERANK_NEEDS = ("query", "documents")

_POSTS: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "/": (
        "Any task, as Hugging Face's InferenceClient asks",
        {"inputs": {}, "parameters": _OBJECT},
        ("inputs",),
    ),
    "/v1/embeddings": (
        "Embeddings, as OpenAI's",
        {
            "input": {},
            "model": _TEXT,
            "encoding_format": {"enum": ["float", "base64"]},
            "dimensions": _COUNT,
            "user": _TEXT,
        },
        ("input",),
    ),
    "/v1/predict": (
        "Any method of a model",
        {
            "model": _TEXT,
            "method": _TEXT,
            "texts": _LIST,
            "pairs": _LIST,
            "options": _OBJECT,
            "truncate": _FLAG,
            "exact": _FLAG,
            "face": {"type": "string", "enum": ["python", "r", "command-line", "http"]},
        },
        ("texts",),
    ),
    "/embed": ("Embeddings", _EMBED, ("inputs",)),
    "/embed_all": ("A vector for each token", {"inputs": _TEXTS, "prompt_name": _TEXT, **_CUT}, ("inputs",)),
    "/similarity": ("How near sentences are to one", {"inputs": _OBJECT, "parameters": _OBJECT}, ("inputs",)),
    "/embed_sparse": ("Sparse embeddings", {"inputs": _TEXTS, "prompt_name": _TEXT, **_CUT}, ("inputs",)),
    "/predict": ("Labels of texts or pairs", {"inputs": {}, "raw_scores": _FLAG, **_CUT}, ("inputs",)),
    "/rerank": (
        "Documents in order for a query, as text-embeddings-inference, Cohere or Jina ask",
        {
            "query": _TEXT,
            "texts": _LIST,
            "documents": {"type": "array"},
            "top_n": _COUNT,
            "raw_scores": _FLAG,
            "return_text": _FLAG,
            "return_documents": _FLAG,
            **_CUT,
        },
        ("query",),
    ),
    "/v1/rerank": ("Documents in order for a query, as Cohere and Jina ask", _RERANK, _RERANK_NEEDS),
    "/v2/rerank": ("Documents in order for a query, as Cohere asks", _RERANK, _RERANK_NEEDS),
    "/tokenize": ("Tokens of texts", {"inputs": _TEXTS, "add_special_tokens": _FLAG}, ("inputs",)),
    "/decode": (
        "Texts of token ids",
        {"ids": {"type": "array"}, "skip_special_tokens": _FLAG},
        ("ids",),
    ),
}
"""Path -> what it is, the fields of its body, and those that it must have."""

_GETS = {
    "/health": "Whether the process answers",
    "/ready": "Whether it takes requests",
    "/metrics": "Prometheus' metrics",
    "/info": "What a model is",
    "/v1/models": "The models",
    "/v2": "The server, as KServe's v2 interface tells it",
    "/v2/health/live": "Whether the process answers",
    "/v2/health/ready": "Whether it takes requests",
}


def description(models: Sequence[str]) -> dict[str, Any]:
    """Return the interface in OpenAPI 3.1.

    Args:
        models: their names.
    """
    paths: dict[str, Any] = {
        path: {"get": {"summary": says, "responses": _RESPONSES}} for path, says in _GETS.items()
    }
    for path, (says, fields, required) in _POSTS.items():
        paths.setdefault(path, {})["post"] = _operation(says, fields, required)
    infer = _operation("Infer", {"inputs": {"type": "array"}, "outputs": {"type": "array"}}, ("inputs",))
    name = {"name": "model", "in": "path", "required": True, "schema": {"enum": list(models)}}
    for ending, method, operation in (
        ("", "get", {"summary": "A model's inputs and outputs", "responses": _RESPONSES}),
        ("/ready", "get", {"summary": "Whether a model takes requests", "responses": _RESPONSES}),
        ("/infer", "post", infer),
    ):
        paths[f"/v2/models/{{model}}{ending}"] = {"parameters": [name], method: operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "bertonnx", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


_RESPONSES = {"200": {"description": "The answer"}, "default": {"description": "Why there is none"}}


def _operation(says: str, fields: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": dict(fields), "required": list(required)}
    return {
        "summary": says,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _RESPONSES,
    }
