"""Put post-processing into the graph: pooling and the layers after it, activations.

Requires: Optimum's graph, whose outputs are the task's `raw_outputs`.
Ensures: the outputs of the task's `outputs`, float32, with names for their dynamic axes.

Which of the heads a task has is in its row (`models.tasks`), how tokens are pooled in that of its pooling
mode (`models.pooling`), and what an activation computes in its own (`models.activations`). All is computed as
Sentence-Transformers does (`base/modules` and `sentence_transformer/modules` of sentence_transformers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.sentence_layers import (
    SCORES,
    SENTENCE,
    TOKEN_VECTORS,
    TOKEN_WEIGHTS,
    TOKENS,
    Cut,
    Dense,
    LayerNorm,
    Normalize,
    Pool,
    Splade,
)
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.models.activations import ACTIVATIONS
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.registry import resolve
from bertonnx.models.splade import SATURATIONS, STRATEGIES
from bertonnx.models.tasks import outputs_of
from bertonnx.models.tasks import task as task_named

__all__ = ["add_embedding", "add_heads", "add_scores", "add_sparse", "add_vectors"]

_HIDDEN, _MASK, _UNPROMPTED = "last_hidden_state", "attention_mask", "pooling_mask"


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
        "one": 1,
        "hidden": None,
        "vocabulary": None,
        "vector": None if checkpoint.late is None else checkpoint.late.width,
    }
    del graph.proto.output[:]
    graph.proto.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [sizes[axis] for axis in axes])
        for name, axes in outputs_of(checkpoint.task, checkpoint.also, checkpoint.hidden_states).items()
    )


def add_embedding(graph: Graph, checkpoint: Checkpoint) -> None:
    """Make `sentence_embedding` (batch, width) of `last_hidden_state` (batch, tokens, hidden).

    Of a checkpoint with other heads also `token_weights` (batch, tokens), and `token_embeddings` (batch,
    tokens, vector).
    """
    values = _layered(graph, checkpoint)
    graph.add("Identity", [values[SENTENCE]], "sentence_embedding", output="sentence_embedding")
    if checkpoint.also:
        last = graph.add_constant([-1], np.int64, "width_axis")
        graph.add("Squeeze", [values[TOKEN_WEIGHTS], last], "token_weights", output="token_weights")
        graph.add("Identity", [values[TOKEN_VECTORS]], "token_embeddings", output="token_embeddings")


def add_scores(graph: Graph, checkpoint: Checkpoint) -> None:
    """Make `scores` of `logits`, of the same shape: the activation's numbers, after any temperature.

    Where layers follow the encoder they make the logits, (batch, labels), of `last_hidden_state`.
    """
    if checkpoint.layers:
        graph.add("Identity", [_layered(graph, checkpoint)[SCORES]], "logits", output="logits")
    value = "logits"
    if checkpoint.temperature != 1.0:
        divisor = graph.add_constant(checkpoint.temperature, np.float32, "temperature")
        value = graph.add("Div", [value, divisor], "calibrated")
    value = _activated(graph, value, checkpoint.activation, "activated")
    graph.add("Identity", [value], "scores", output="scores")


def add_sparse(graph: Graph, checkpoint: Checkpoint) -> None:
    """Make `sparse_embedding` (batch, vocabulary) of `logits` (batch, tokens, vocabulary)."""
    vector = _layered(graph, checkpoint, "logits")[SENTENCE]
    graph.add("Identity", [vector], "sparse_embedding", output="sparse_embedding")


def add_vectors(graph: Graph, checkpoint: Checkpoint) -> None:
    """Make `token_embeddings` (batch, tokens, vector) of `last_hidden_state` (batch, tokens, hidden)."""
    vectors = _layered(graph, checkpoint)[TOKENS]
    graph.add("Identity", [vectors], "token_embeddings", output="token_embeddings")


def _activated(graph: Graph, value: str, name: str, hint: str) -> str:
    added: Callable[[Graph, str, str], str] = resolve(ACTIVATIONS[name].graph)
    return added(graph, value, hint)


def _layered(graph: Graph, checkpoint: Checkpoint, tokens: str = _HIDDEN) -> dict[str, str]:
    """Add the checkpoint's layers; return the graph's name of each value that they name."""
    values = {TOKENS: tokens}
    for number, layer in enumerate(checkpoint.layers):
        hint = f"layer_{number}"
        values[layer.writes] = _ADDED[type(layer)](graph, values[layer.reads], layer, hint)
    return values


def _pool(graph: Graph, tokens: str, layer: Pool, hint: str) -> str:
    mask = _MASK if layer.prompt else _without_prompt(graph)
    parts: list[str] = [resolve(POOLINGS[name].graph)(graph, tokens, mask) for name in layer.modes]
    if len(parts) == 1:
        return parts[0]
    return graph.add("Concat", parts, hint, attributes={"axis": 1})


def _without_prompt(graph: Graph) -> str:
    shape = ["batch_size", "sequence_length"]
    graph.proto.input.append(helper.make_tensor_value_info(_UNPROMPTED, TensorProto.INT64, shape))
    return graph.add("Mul", [_MASK, _UNPROMPTED], "counted_tokens")


def _dense(graph: Graph, value: str, layer: Dense, hint: str) -> str:
    weight = graph.add_constant(layer.weight.T, np.float32, f"{hint}.weight")
    out = graph.add("MatMul", [value, weight], hint)
    if layer.bias is not None:
        out = graph.add("Add", [out, graph.add_constant(layer.bias, np.float32, f"{hint}.bias")], hint)
    out = _activated(graph, out, layer.activation, f"{hint}.activation")
    if not layer.residual:
        return out
    if layer.projection is not None:
        projection = graph.add_constant(layer.projection.T, np.float32, f"{hint}.projection")
        value = graph.add("MatMul", [value, projection], f"{hint}.residual")
    return graph.add("Add", [out, value], f"{hint}.sum")


def _layer_norm(graph: Graph, value: str, layer: LayerNorm, hint: str) -> str:
    weight = graph.add_constant(layer.weight, np.float32, f"{hint}.weight")
    bias = graph.add_constant(layer.bias, np.float32, f"{hint}.bias")
    attributes = {"axis": -1, "epsilon": layer.epsilon}
    return graph.add("LayerNormalization", [value, weight, bias], hint, attributes={**attributes})


def _normalize(graph: Graph, value: str, layer: Normalize, hint: str) -> str:  # noqa: ARG001
    axis = graph.add_constant([-1], np.int64, "width_axis")
    length = graph.add("ReduceL2", [value, axis], f"{hint}.length", attributes={"keepdims": 1})
    least = graph.add_constant(1e-12, np.float32, "least_length")
    return graph.add("Div", [value, graph.add("Max", [length, least], "safe_length")], "normalized")


def _cut(graph: Graph, value: str, layer: Cut, hint: str) -> str:
    bounds = [graph.add_constant([place], np.int64, f"{hint}.bound") for place in (0, layer.length, 1)]
    return graph.add("Slice", [value, *bounds], hint)


def _splade(graph: Graph, logits: str, layer: Splade, hint: str) -> str:  # noqa: ARG001
    strategy, saturation = STRATEGIES[layer.strategy], SATURATIONS[layer.saturation]
    added: str = resolve(strategy.graph)(graph, logits, _MASK, saturation)
    return added


_ADDED: Mapping[type, Callable[[Graph, str, Any, str], str]] = {
    Pool: _pool,
    Dense: _dense,
    LayerNorm: _layer_norm,
    Normalize: _normalize,
    Cut: _cut,
    Splade: _splade,
}
"""Kind of layer -> what adds it: `(graph, value, layer, hint)`, the name of the result."""
