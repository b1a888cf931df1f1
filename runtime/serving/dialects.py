"""How a refusal is told to each kind of client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bertonnx.errors import RowError
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.http import Response, as_json

__all__ = ["refused"]


def _openai(refusal: RefusedError) -> Response:
    return as_json({"error": _openai_error(refusal)}, refusal.kind.status, refusal.headers)


def _openai_error(refusal: RefusedError) -> dict[str, Any]:
    kind = refusal.kind
    return {"message": refusal.message, "type": kind.type, "param": refusal.param, "code": kind.code}


def _own(refusal: RefusedError) -> Response:
    error = _openai_error(refusal)
    # What a client of ours raises again, in the words of its own language.
    if refusal.cause is not None:
        error["message"] = refusal.cause.worded(refusal.face).encode("utf-8", "backslashreplace").decode()
        error["class"] = type(refusal.cause).__name__
        if isinstance(refusal.cause, RowError):
            error["kind"] = refusal.cause.kind
    return as_json({"error": error}, refusal.kind.status, refusal.headers)


def _tei(refusal: RefusedError) -> Response:
    kind = refusal.kind
    body = {"error": refusal.message, "error_type": kind.tei_type}
    return as_json(body, kind.tei_status, refusal.headers)


def _cohere(refusal: RefusedError) -> Response:
    # Cohere reads `message`, Jina `detail`.
    body = {"message": refusal.message, "detail": refusal.message}
    return as_json(body, refusal.kind.status, refusal.headers)


def _kserve(refusal: RefusedError) -> Response:
    return as_json({"error": refusal.message}, refusal.kind.status, refusal.headers)


_DIALECTS: Mapping[str, Callable[[RefusedError], Response]] = {
    "openai": _openai,
    "own": _own,
    "tei": _tei,
    "cohere": _cohere,
    "kserve": _kserve,
}


def refused(refusal: RefusedError, dialect: str) -> Response:
    """Return the response of a refusal.

    Args:
        refusal: it.
        dialect: the route's.
    """
    return _DIALECTS[dialect](refusal)
