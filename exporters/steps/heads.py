"""Put post-processing into the graph: pooling, dense layers, normalisation, softmax and sigmoid.

Requires: Optimum's graph, whose outputs are the task's `raw_outputs`.
Ensures: the outputs of the task's `outputs`, float32, with names for their dynamic axes.

Pooling is computed as Sentence-Transformers does (sentence_transformers/models/Pooling.py), and
normalisation as torch.nn.functional.normalize.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from bertonnx.exporters.checkpoint.sentence_transformers import Dense
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.models.tasks import task as task_named

__all__ = ["POOLINGS", "add_heads"]

_HIDDEN, _MASK = "last_hidden_state", "attention_mask"


def add_heads(
    model: onnx.ModelProto,
    *,
    task: str,
    pooling: str | None = None,
    dense: Sequence[Dense] = (),
    normalize: bool = False,
    activation: str = "none",
    width: int | None = None,
    num_labels: int | None = None,
) -> None:
    """Add the task's heads to the model in place.

    Args:
        model: the graph to change.
        task: one of `models.tasks.TASKS`.
        pooling: of feature extraction, one of `POOLINGS`.
        dense: of feature extraction, layers on the pooled vector, in order.
        normalize: of feature extraction, whether to scale vectors to length 1.
        activation: softmax, sigmoid or none: what makes `scores` of `logits`.
        width: of feature extraction, length of the sentence embedding.
        num_labels: number of classes, the last dimension of `logits`.
    """
    graph = Graph(model)
    if task == "feature-extraction":
        _embedding(graph, pooling or "mean", dense, normalize=normalize)
    elif "scores" in task_named(task).outputs:
        _scores(graph, activation)
    _declare_outputs(model, task, width=width, num_labels=num_labels)


def _embedding(graph: Graph, pooling: str, dense: Sequence[Dense], *, normalize: bool) -> None:
    vector = POOLINGS[pooling](graph)
    for number, layer in enumerate(dense):
        vector = _dense(graph, vector, layer, f"dense_{number}")
    if normalize:
        axis = graph.add_constant([1], np.int64, "width_axis")
        length = graph.add("ReduceL2", [vector, axis], "embedding_length", attributes={"keepdims": 1})
        least = graph.add_constant(1e-12, np.float32, "least_length")
        vector = graph.add("Div", [vector, graph.add("Max", [length, least], "safe_length")], "normalized")
    graph.add("Identity", [vector], "sentence_embedding", output="sentence_embedding")


def _pool_mean(graph: Graph) -> str:
    # A product, not ReduceSum over tokens: ONNX Runtime adds in another order when the batch is one
    # text, so that a text's embedding would depend on whether it came alone.
    cast = graph.add("Cast", [_MASK], "pooling_mask", attributes={"to": TensorProto.FLOAT})
    axis = graph.add_constant([1], np.int64, "token_axis")
    rows = graph.add("Unsqueeze", [cast, axis], "pooling_rows")
    total = graph.add("Squeeze", [graph.add("MatMul", [rows, _HIDDEN], "token_sums"), axis], "token_sum")
    count = graph.add("ReduceSum", [cast, axis], "token_count", attributes={"keepdims": 1})
    least = graph.add_constant(1e-9, np.float32, "least_count")
    return graph.add("Div", [total, graph.add("Max", [count, least], "safe_count")], "pooled")


def _pool_cls(graph: Graph) -> str:
    first = graph.add_constant(0, np.int64, "first_token")
    return graph.add("Gather", [_HIDDEN, first], "pooled", attributes={"axis": 1})


def _pool_max(graph: Graph) -> str:
    axis = graph.add_constant([1], np.int64, "token_axis")
    last = graph.add_constant([2], np.int64, "last_axis")
    kept = graph.add("Cast", [_MASK], "kept_mask", attributes={"to": TensorProto.BOOL})
    kept = graph.add("Unsqueeze", [kept, last], "kept_tokens")
    low = graph.add_constant(-1e9, np.float32, "below_all")
    tokens = graph.add("Where", [kept, _HIDDEN, low], "masked_tokens")
    return graph.add("ReduceMax", [tokens, axis], "pooled", attributes={"keepdims": 0})


def _pool_last(graph: Graph) -> str:
    last = graph.add(
        "ArgMax", [_MASK], "last_token", attributes={"axis": 1, "keepdims": 1, "select_last_index": 1}
    )
    return graph.add("GatherND", [_HIDDEN, last], "pooled", attributes={"batch_dims": 1})


POOLINGS: dict[str, Callable[[Graph], str]] = {
    "mean": _pool_mean,
    "cls": _pool_cls,
    "max": _pool_max,
    "last": _pool_last,
}
"""How token vectors (batch, tokens, width) become one (batch, width); each builds its nodes."""

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


def _scores(graph: Graph, activation: str) -> None:
    if activation == "softmax":
        graph.add("Softmax", ["logits"], "scores", attributes={"axis": -1}, output="scores")
    elif activation == "sigmoid":
        graph.add("Sigmoid", ["logits"], "scores", output="scores")
    else:
        graph.add("Identity", ["logits"], "scores", output="scores")


def _declare_outputs(model: onnx.ModelProto, task: str, *, width: int | None, num_labels: int | None) -> None:
    batch, tokens = "batch_size", "sequence_length"
    per_token = task in ("token-classification", "fill-mask")
    logits: list[str | int | None] = [batch, tokens, num_labels] if per_token else [batch, num_labels]
    shapes: dict[str, list[str | int | None]] = {
        "sentence_embedding": [batch, width],
        "last_hidden_state": [batch, tokens, None],
        "logits": logits,
        "scores": logits,
        "start_logits": [batch, tokens],
        "end_logits": [batch, tokens],
    }
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])
        for name in task_named(task).outputs
    )
