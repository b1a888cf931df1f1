"""KServe's v2 interface, which Triton's clients speak too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bertonnx import __version__
from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import Task, task_meant
from bertonnx.models.tasks import served as tasks_of
from bertonnx.runtime.io.text import json_line
from bertonnx.runtime.methods import in_row
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Array, Item
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError, refusal_of
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.served import Replayed, Served
from bertonnx.runtime.serving.tensors import Request, Tensor, responded

__all__ = [
    "Outputs",
    "embedding_outputs",
    "infer",
    "label_outputs",
    "line_outputs",
    "live",
    "metadata",
    "model_ready",
    "ready",
    "server",
]


@dataclass(frozen=True)
class Asked:
    """What one request is about.

    Attributes:
        call: the request.
        served: the model.
        texts: its texts.
        pairs: their second texts, as many.
        truncate: whether long texts are cut, if it says.
        task: of a file that serves several, the one that is asked for; None for its own.
    """

    call: Call
    served: Served
    texts: list[str]
    pairs: list[str] | None
    truncate: bool | None
    task: str | None = None


@dataclass(frozen=True)
class Outputs:
    """The outputs of a task.

    Attributes:
        described: name, datatype and shape of each.
        make: answers a request.
    """

    described: tuple[tuple[str, str, list[int]], ...]
    make: Callable[[Asked], Awaitable[list[Tensor]]]


async def live(call: Call) -> Response:  # noqa: ARG001
    """`GET /v2/health/live`."""
    return as_json({"live": True})


async def ready(call: Call) -> Response:
    """`GET /v2/health/ready`."""
    if call.state.draining:
        raise RefusedError("unhealthy", "the server is about to end")
    return as_json({"ready": True})


async def server(call: Call) -> Response:  # noqa: ARG001
    """`GET /v2`."""
    return as_json({"name": "bertonnx", "version": __version__, "extensions": ["binary_tensor_data"]})


async def model_ready(call: Call) -> Response:
    """`GET /v2/models/{model}/ready`."""
    if call.state.draining:
        raise RefusedError("unhealthy", "the server is about to end")
    return as_json({"name": _served(call).name, "ready": True})


async def metadata(call: Call) -> Response:
    """`GET /v2/models/{model}`."""
    served = call.served = _served(call)
    inputs = [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    if served.card.takes_pair:
        inputs.append({"name": "pair", "datatype": "BYTES", "shape": [-1]})
    outputs = [
        {"name": name, "datatype": kind, "shape": shape}
        for name, kind, shape in _outputs(served, served.task).described
    ]
    return as_json(
        {
            "name": served.name,
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": inputs,
            "outputs": outputs,
        }
    )


async def infer(call: Call) -> Response:
    """`POST /v2/models/{model}/infer`."""
    served = call.served = _served(call)
    request = Request.read(call.body, call.headers.get(b"inference-header-content-length"))
    texts, pairs = request.texts("text"), request.texts_or_none("pair")
    request.only("text", "pair")
    row = _row(served, request.parameters)
    outputs = _outputs(served, row)
    wanted = request.outputs([name for name, _, _ in outputs.described])
    truncate = request.parameters.flag_or_none("truncate")
    task = None if row is served.task else row.name
    made = await outputs.make(Asked(call, served, texts, pairs, truncate, task))
    by_name = {tensor.name: tensor for tensor in made}
    return responded(served.name, request, [(by_name[name], binary) for name, binary in wanted])


def _served(call: Call) -> Served:
    assert call.named is not None  # the path names it
    return call.named


def _row(served: Served, parameters: Fields) -> Task:
    """Return the task that `parameters.task` names, of those that the file serves; its own where none is."""
    asked = parameters.text_or_none("task")
    rows = tasks_of(served.card.task, served.card.also)
    if asked is None:
        return rows[0]
    for row in rows:
        if row.name == task_meant(asked):
            return row
    raise parameters.refused("task", f"must be one of {', '.join(row.name for row in rows)}")


def _outputs(served: Served, row: Task) -> Outputs:
    found: Outputs = resolve(row.tensors)(served.card)
    return found


def embedding_outputs(card: Card) -> Outputs:
    """`embedding`, FP32 of shape (texts, width)."""
    return Outputs((("embedding", "FP32", [-1, card.width or -1]),), _embedding)


async def _embedding(asked: Asked) -> list[Tensor]:
    if asked.pairs is not None:
        raise RefusedError("invalid", "this model takes no pairs", "pair")
    vectors: Array = await asked.call.ask(
        asked.served, lambda methods: methods.embed(asked.texts), asked.texts, truncate=asked.truncate
    )
    return [Tensor("embedding", "FP32", vectors)]


def label_outputs(card: Card) -> Outputs:
    """`scores`, FP32 of shape (texts, labels), and `label`, BYTES of shape (texts,)."""
    described = (("scores", "FP32", [-1, len(card.labels)]), ("label", "BYTES", [-1]))
    return Outputs(described, _labels)


async def _labels(asked: Asked) -> list[Tensor]:
    texts, pairs = asked.texts, asked.pairs

    def classify(methods: Replayed) -> list[Item]:
        return methods.classify(texts, pairs)

    items = await asked.call.ask(asked.served, classify, [*texts, *(pairs or ())], truncate=asked.truncate)
    labels = asked.served.card.labels
    rows = [_scores_of_item(item, labels) for item in items]
    scores = np.array(rows, dtype=np.float32).reshape(len(items), len(labels))
    return [Tensor("scores", "FP32", scores), Tensor("label", "BYTES", [_label(item) for item in items])]


def _scores_of_item(item: Item, labels: Sequence[str]) -> list[float]:
    # Regression has one number, which needs no name.
    scores = item.get("scores")
    return [item["score"]] if scores is None else [scores[label] for label in labels]


def _label(item: Item) -> str:
    # Of several labels as a cell of CSV has them.
    return item["label"] if "label" in item else "|".join(item.get("labels", ()))


def line_outputs(card: Card) -> Outputs:  # noqa: ARG001
    """`json`, BYTES of shape (texts,): the lines of `run`."""
    return Outputs((("json", "BYTES", [-1]),), _lines)


async def _lines(asked: Asked) -> list[Tensor]:
    call, served = asked.call, asked.served
    reading = call.reading(served, asked.truncate)
    results = await call.lines(served, asked.texts, asked.pairs, DecodeOptions(task=asked.task), reading)
    for place, result in enumerate(results):
        if isinstance(result, RowError):
            raise refusal_of(in_row(place, result))
    lines = [json_line(place, result) for place, result in enumerate(results)]
    return [Tensor("json", "BYTES", lines)]
