"""Our own wire, for `bertonnx.Client` and R: any method, and the JSON lines of `run` as results."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError
from bertonnx.models.tasks import TASKS
from bertonnx.runtime.decoders.sparse import Words
from bertonnx.runtime.decoders.tokens import POOLED, TokenOptions
from bertonnx.runtime.io.columns import message
from bertonnx.runtime.io.floats import shortest
from bertonnx.runtime.options import LONG_TEXT, DecodeOptions
from bertonnx.runtime.rows import Encoded, Item
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.fleet import task_of
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.served import Reading, Results, Served
from bertonnx.wording import COMMAND_LINE, HTTP, PYTHON, Face, R

__all__ = ["line", "predict"]

_PREDICT = "predict"

_FACES: Mapping[str, Face] = {"python": PYTHON, "r": R, "command-line": COMMAND_LINE, "http": HTTP}
"""What a client calls the language that its user types -> the words in which errors are told."""

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


@dataclass(frozen=True)
class Asked:
    """What one request is about.

    Attributes:
        call: the request.
        served: the model that is to answer.
        method: of `bertonnx.Model`.
        texts: the texts, and what stands in their places.
        pairs: their second texts.
        options: of the method.
    """

    call: Call
    served: Served
    method: str
    texts: list[Any]
    pairs: list[Any] | None
    options: Fields

    @property
    def reading(self) -> Reading:
        """How long texts are read: as `long_text` says, or as in other requests."""
        fields, options = self.call.fields, self.options
        asked = options.choice("long_text", LONG_TEXT)
        if asked is not None:
            return Reading(asked)
        cut = options.flag_or_none("truncate")
        return self.call.reading(self.served, fields.flag_or_none("truncate") if cut is None else cut)


async def predict(call: Call) -> Response:
    """`POST /v1/predict {model?, method, texts, pairs?, options, exact?, face?}`."""
    fields = call.fields
    # First, since it says in whose words all that follows is refused.
    call.face = _FACES[fields.choice("face", tuple(_FACES)) or "python"]
    fields.only("model", "method", "texts", "pairs", "options", "truncate", "exact", "face")
    method = fields.text_or_none("method") or _PREDICT
    known = list(dict.fromkeys([_PREDICT, *(name for row in TASKS for name in row.methods), *_BESIDE]))
    if method not in known:
        raise fields.refused("method", f"must be one of {', '.join(known)}")
    served = call.choose(method, fields.text_or_none("model"))
    texts = _listed(fields.any("texts"), "texts")
    pairs = _listed(fields.any("pairs"), "pairs") if "pairs" in fields else None
    answers = _BESIDE.get(method, _predicted)
    results = await answers(Asked(call, served, method, texts, pairs, fields.inside("options")))
    exact = fields.flag("exact")

    def lines(start: int, stop: int) -> list[dict[str, Any]]:
        part = enumerate(results[start:stop], start)
        return [line(place, result, exact=exact, face=call.face) for place, result in part]

    return as_json({"results": await call.listed(lines, len(results))})


async def _predicted(asked: Asked) -> Results:
    """Answer what `run` does."""
    asked.options.only(*_OPTIONS, *_READING)
    chosen = {name: asked.options.any(name) for name in asked.options.names if name in _OPTIONS}
    # Of a file with several heads, the method says which; `predict` is of the file's own task.
    task = task_of(asked.served, asked.method) if asked.method != _PREDICT else None
    decode = _decode({**({"task": task} if task is not None else {}), **chosen})
    return await asked.call.lines(asked.served, asked.texts, asked.pairs, decode, asked.reading)


async def token_vectors(asked: Asked) -> Results:
    """Answer `embed_tokens`: `tokens` or `words`, `offsets` and `vectors` of each text."""
    options = asked.options
    options.only("layer", "words", "prompt", *_READING)
    layer = options.any("layer")
    wanted = TokenOptions(
        layer=-1 if layer is None else layer,
        words=options.choice("words", POOLED),
        prompt=options.text_or_none("prompt"),
    )
    return await asked.call.results(
        asked.served,
        lambda methods: methods.token_results(asked.texts, wanted),
        asked.texts,
        asked.reading,
    )


async def tokenized(asked: Asked) -> Results:
    """Answer `tokenize`: `pieces` of each text, as they reach the model.

    `encoding` is what the tokenizer noted of a piece, in the form of the package tokenizers.
    """
    asked.options.only("prompt", *_READING)
    prompt = asked.options.text_or_none("prompt")
    encoded = await asked.call.encoded(asked.served, asked.texts, asked.pairs, prompt, asked.reading)
    return [row if isinstance(row, RowError) else _pieces(row) for row in encoded]


def _pieces(row: Encoded) -> Item:
    item: Item = {
        "pieces": [
            {
                "ids": piece.ids,
                "type_ids": piece.type_ids,
                "prompt": piece.prompt,
                "unseen": piece.unseen,
                "encoding": json.loads(piece.encoding.__getstate__()),
            }
            for piece in row.pieces
        ]
    }
    return {**item, "truncated": True} if row.truncated else item


_BESIDE: Mapping[str, Callable[[Asked], Awaitable[Results]]] = {
    "tokenize": tokenized,
    "embed_tokens": token_vectors,
}
"""Methods whose results are not those of `run`."""


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


_READING = ("long_text", "truncate")

_KINDS: Mapping[str, type] = {
    item.name: next((kind for word, kind in _WORDS.items() if word in str(item.type)), str)
    for item in fields_of(DecodeOptions)
}


def line(
    place: int, result: dict[str, Any] | RowError, *, exact: bool = False, face: Face = PYTHON
) -> dict[str, Any]:
    """Return a result as a line of `run`: floats are the shortest that read back as the same float32.

    Args:
        place: number of the row.
        result: of it.
        exact: whether arrays keep their types and shapes (`dtype`, `shape` and `data`, which is base64 of
            little-endian numbers), and words of a sparse embedding their ids: equal words may have several.
        face: whose words an error is told in.
    """
    if isinstance(result, RowError):
        return {"row": place, "error": {"type": result.kind, "message": message(result, face)}}
    fields: dict[str, Any] = {"row": place}
    for name, value in result.items():
        if exact and isinstance(value, Words):
            packed = {"ids": _packed(value.ids), "weights": _packed(value.weights)}
            fields[name] = {"tokens": list(value), **packed}
        else:
            fields[name] = _ready(value, exact=exact)
    # Last, as in files, where resume looks for it.
    if "truncated" in fields:
        fields["truncated"] = fields.pop("truncated")
    return fields


def _ready(value: Any, *, exact: bool) -> Any:
    if isinstance(value, float | np.floating):
        return shortest(float(value))
    if isinstance(value, dict):
        return {name: _ready(inner, exact=exact) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(inner, exact=exact) for inner in value]
    if exact and isinstance(value, np.ndarray):
        return _packed(value)
    # Float32 is written so by orjson, of arrays that lie in one piece.
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value


def _packed(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array with its type and shape, in a fourth of the characters that its numbers take."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}
