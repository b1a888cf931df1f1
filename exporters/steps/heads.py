"""Put post-processing into the graph: pooling, dense layers, normalization, softmax and sigmoid.

Requires: Optimum's graph, whose outputs are the task's `raw_outputs`.
Ensures: the outputs of the task's `outputs`, float32, with names for their dynamic axes.

Which of the heads a task has is in its row (`models.tasks`), and how tokens are pooled in that of its
pooling mode (`models.pooling`). Pooling is computed as Sentence-Transformers does
(sentence_transformers/models/Pooling.py), and normalization as torch.nn.functional.normalize.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper

from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.sentence_transformers import Dense
from bertonnx.exporters.onnxgraph.graph import Attribute, Graph
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import task as task_named

__all__ = ["add_embedding", "add_heads", "add_scores", "pool_cls", "pool_last", "pool_max", "pool_mean"]

_HIDDEN, _MASK = "last_hidden_state", "attention_mask"


def add_heads(graph: Graph, checkpoint: Checkpoint) -> None:
    """Add the heads of the checkpoint's task to its traced graph, in place."""
    row = task_named(checkpoint.task)
    if row.graph_head:
        resolve(row.graph_head)(graph, checkpoint)
    sizes: Mapping[str, str | int | None] = {
        "batch": "batch_size",
        "tokens": "sequence_length",
        "width": checkpoint.width,
        # A class for each label; a task without labels does not say how many there are.
        "labels": len(checkpoint.labels) or None,
        "hidden": None,
        "vocabulary": None,
    }
    del graph.proto.output[:]
    graph.proto.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [sizes[axis] for axis in axes])
        for name, axes in row.outputs.items()
    )


def add_embedding(graph: Graph, checkpoint: Checkpoint) -> None:
    """Make `sentence_embedding` (batch, width) of `last_hidden_state` (batch, tokens, hidden)."""
    vector = resolve(POOLINGS[checkpoint.pooling or ""].graph)(graph)
    for number, layer in enumerate(checkpoint.dense):
        vector = _dense(graph, vector, layer, f"dense_{number}")
    if checkpoint.normalize:
        axis = graph.add_constant([1], np.int64, "width_axis")
        length = graph.add("ReduceL2", [vector, axis], "embedding_length", attributes={"keepdims": 1})
        least = graph.add_constant(1e-12, np.float32, "least_length")
        vector = graph.add("Div", [vector, graph.add("Max", [length, least], "safe_length")], "normalized")
    graph.add("Identity", [vector], "sentence_embedding", output="sentence_embedding")


def add_scores(graph: Graph, checkpoint: Checkpoint) -> None:
    """Make `scores` of `logits`, of the same shape: softmax over labels, sigmoid, or the same numbers."""
    operator, attributes = _SCORES[checkpoint.activation]
    graph.add(operator, ["logits"], "scores", attributes=attributes, output="scores")


_SCORES: Mapping[str, tuple[str, dict[str, Attribute]]] = {
    "softmax": ("Softmax", {"axis": -1}),
    "sigmoid": ("Sigmoid", {}),
    "none": ("Identity", {}),
}
"""Activation -> what computes it: operator and attributes."""


def pool_mean(graph: Graph) -> str:
    """Add the mean of the vectors of a text's tokens; return its name, of shape (batch, hidden)."""
    # A product, not ReduceSum over tokens: ONNX Runtime adds in another order when the batch is one
    # text, so that a text's embedding would depend on whether it came alone.
    cast = graph.add("Cast", [_MASK], "pooling_mask", attributes={"to": TensorProto.FLOAT})
    axis = graph.add_constant([1], np.int64, "token_axis")
    rows = graph.add("Unsqueeze", [cast, axis], "pooling_rows")
    total = graph.add("Squeeze", [graph.add("MatMul", [rows, _HIDDEN], "token_sums"), axis], "token_sum")
    count = graph.add("ReduceSum", [cast, axis], "token_count", attributes={"keepdims": 1})
    least = graph.add_constant(1e-9, np.float32, "least_count")
    return graph.add("Div", [total, graph.add("Max", [count, least], "safe_count")], "pooled")


def pool_cls(graph: Graph) -> str:
    """Add the vector of the first token; return its name, of shape (batch, hidden)."""
    first = graph.add_constant(0, np.int64, "first_token")
    return graph.add("Gather", [_HIDDEN, first], "pooled", attributes={"axis": 1})


def pool_max(graph: Graph) -> str:
    """Add each channel's largest number over a text's tokens; return its name, of shape (batch, hidden)."""
    axis = graph.add_constant([1], np.int64, "token_axis")
    last = graph.add_constant([2], np.int64, "last_axis")
    kept = graph.add("Cast", [_MASK], "kept_mask", attributes={"to": TensorProto.BOOL})
    kept = graph.add("Unsqueeze", [kept, last], "kept_tokens")
    low = graph.add_constant(-1e9, np.float32, "below_all")
    tokens = graph.add("Where", [kept, _HIDDEN, low], "masked_tokens")
    return graph.add("ReduceMax", [tokens, axis], "pooled", attributes={"keepdims": 0})


def pool_last(graph: Graph) -> str:
    """Add the vector of a text's last token; return its name, of shape (batch, hidden)."""
    last = graph.add(
        "ArgMax", [_MASK], "last_token", attributes={"axis": 1, "keepdims": 1, "select_last_index": 1}
    )
    return graph.add("GatherND", [_HIDDEN, last], "pooled", attributes={"batch_dims": 1})


_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}


def _dense(graph: Graph, vector: str, layer: Dense, name: str) -> str:
    weight = graph.add_constant(layer.weight.T, np.float32, f"{name}.weight")
    out = graph.add("MatMul", [vector, weight], name)
    if layer.bias is not None:
        out = graph.add("Add", [out, graph.add_constant(layer.bias, np.float32, f"{name}.bias")], name)
    if layer.activation == "identity":
        return out
    if layer.activation == "gelu":
        return _gelu(graph, out, f"{name}.gelu")
    return graph.add(_ACTIVATIONS[layer.activation], [out], f"{name}.activation")


def _gelu(graph: Graph, value: str, name: str) -> str:
    """Spell out x / 2 * (1 + erf(x / sqrt(2))); the operator set has no Gelu before 20."""
    root = graph.add_constant(2**0.5, np.float32, "root_two")
    erf = graph.add("Erf", [graph.add("Div", [value, root], name)], name)
    shifted = graph.add("Add", [erf, graph.add_constant(1.0, np.float32, "one_float")], name)
    half = graph.add_constant(0.5, np.float32, "half")
    return graph.add("Mul", [graph.add("Mul", [value, shifted], name), half], name)
