"""Our own wire, for `bertonnx.Client` and R: any method, and the JSON lines of `run` as results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Any

import numpy as np

from bertonnx.errors import RowError
from bertonnx.models.tasks import TASKS
from bertonnx.runtime.decoders.sparse import Words
from bertonnx.runtime.io.columns import message
from bertonnx.runtime.io.floats import shortest
from bertonnx.runtime.options import LONG_TEXT, DecodeOptions
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.served import Reading, Served

__all__ = ["line", "predict"]

_PREDICT = "predict"

_OPTIONS = tuple(item.name for item in fields_of(DecodeOptions))

_SAID: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list of texts",
}

_WORDS: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "tuple": list, "list": list}
"""Words of an annotation -> what JSON has for it; any other is of texts."""


async def predict(call: Call) -> Response:
    """`POST /v1/predict {model?, method, texts, pairs?, options}`."""
    fields = call.fields
    fields.only("model", "method", "texts", "pairs", "options", "truncate", "exact")
    method = fields.text_or_none("method") or _PREDICT
    known = list(dict.fromkeys([_PREDICT, *(name for row in TASKS for name in row.methods)]))
    if method not in known:
        raise fields.refused("method", f"must be one of {', '.join(known)}")
    served = call.choose(method, fields.text_or_none("model"))
    texts = _listed(fields.any("texts"), "texts")
    pairs = _listed(fields.any("pairs"), "pairs") if "pairs" in fields else None
    options = fields.inside("options")
    options.only(*_OPTIONS, "long_text", "truncate")
    decode = _decode({name: options.any(name) for name in options.names if name in _OPTIONS})
    reading = _reading(call, served)
    results = await call.lines(served, texts, pairs, decode, reading)
    exact = fields.flag("exact")
    return as_json({"results": [line(place, result, exact=exact) for place, result in enumerate(results)]})


def _listed(value: Any, name: str) -> list[Any]:
    # What is no text is the error of its row, as in a file.
    if not isinstance(value, list):
        raise RefusedError("invalid", f"`{name}` must be a list of texts", name)
    return value


def _decode(chosen: Mapping[str, Any]) -> DecodeOptions:
    """Return options of results, whose kinds are those of their defaults.

    Raises:
        RefusedError: one is of another kind.
        UsageError: one is out of range.
    """
    for name, value in chosen.items():
        kind = _KINDS[name]
        # JSON has one kind of number, and writes 1.0 as 1.
        value = float(value) if kind is float and type(value) is int else value
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise RefusedError("invalid", f"`options.{name}` must be {_SAID[kind]}", f"options.{name}")
    return DecodeOptions(**chosen)


_KINDS: Mapping[str, type] = {
    item.name: next((kind for word, kind in _WORDS.items() if word in str(item.type)), str)
    for item in fields_of(DecodeOptions)
}


def _reading(call: Call, served: Served) -> Reading:
    """Return how long texts are read: as `long_text` says, or as in other requests."""
    options = call.fields.inside("options")
    asked = options.choice("long_text", LONG_TEXT)
    if asked is not None:
        return Reading(asked)
    cut = options.flag_or_none("truncate")
    return call.reading(served, call.fields.flag_or_none("truncate") if cut is None else cut)


def line(place: int, result: dict[str, Any] | RowError, *, exact: bool = False) -> dict[str, Any]:
    """Return a result as a line of `run`: floats are the shortest that read back as the same float32.

    Args:
        place: number of the row.
        result: of it.
        exact: whether words of a sparse embedding have their ids too, as equal words may have several.
    """
    if isinstance(result, RowError):
        return {"row": place, "error": {"type": result.kind, "message": message(result)}}
    fields: dict[str, Any] = {"row": place}
    for name, value in result.items():
        if exact and isinstance(value, Words):
            fields[name] = {"tokens": list(value), "ids": value.ids, "weights": value.weights}
        else:
            fields[name] = _ready(value)
    # Last, as in files, where resume looks for it.
    if "truncated" in fields:
        fields["truncated"] = fields.pop("truncated")
    return fields


def _ready(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return shortest(float(value))
    if isinstance(value, dict):
        return {name: _ready(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(inner) for inner in value]
    # Float32 is written so by orjson, of arrays that lie in one piece.
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
