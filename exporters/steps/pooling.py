"""Pooling in the graph: a text's vectors become one, by a function for each row of `models.pooling`.

Each takes the names of the token vectors (batch, tokens, width) and of the mask (batch, tokens), int64 and 1
for each token that counts, and returns the name of the pooled value (batch, width). All are computed as
Sentence-Transformers does (sentence_transformers/sentence_transformer/modules/pooling.py).
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from bertonnx.exporters.onnxgraph.graph import Graph

__all__ = [
    "pool_cls",
    "pool_last",
    "pool_max",
    "pool_mean",
    "pool_mean_sqrt_len_tokens",
    "pool_weightedmean",
]

_INPUT = "attention_mask"


def pool_mean(graph: Graph, tokens: str, mask: str) -> str:
    """Add the mean."""
    return graph.add("Div", [_sums(graph, tokens, mask), _counts(graph, mask)], "pooled")


def pool_mean_sqrt_len_tokens(graph: Graph, tokens: str, mask: str) -> str:
    """Add the sum, divided by the square root of the number of tokens."""
    root = graph.add("Sqrt", [_counts(graph, mask)], "token_root")
    return graph.add("Div", [_sums(graph, tokens, mask), root], "pooled")


def pool_weightedmean(graph: Graph, tokens: str, mask: str) -> str:
    """Add the mean weighted by places: the first token of a text counts once, the second twice."""
    axis = graph.add_constant(1, np.int64, "token_axis")
    # Of the whole text, so that tokens keep their places where a prompt before them does not count.
    places = graph.add("CumSum", [_INPUT, axis], "token_places")
    weights = graph.add("Mul", [places, mask], "token_weights")
    return graph.add("Div", [_sums(graph, tokens, weights), _counts(graph, weights)], "pooled")


def pool_cls(graph: Graph, tokens: str, mask: str) -> str:
    """Add the vector of the first token that counts."""
    if mask == _INPUT:
        first = graph.add_constant(0, np.int64, "first_token")
        return graph.add("Gather", [tokens, first], "pooled", attributes={"axis": 1})
    return _at_end(graph, tokens, mask, last=False)


def pool_last(graph: Graph, tokens: str, mask: str) -> str:
    """Add the vector of the last token that counts."""
    return _at_end(graph, tokens, mask, last=True)


def pool_max(graph: Graph, tokens: str, mask: str) -> str:
    """Add each channel's largest number."""
    axis = graph.add_constant([1], np.int64, "token_axis")
    last = graph.add_constant([2], np.int64, "last_axis")
    kept = graph.add("Cast", [mask], "kept_mask", attributes={"to": TensorProto.BOOL})
    kept = graph.add("Unsqueeze", [kept, last], "kept_tokens")
    low = graph.add_constant(-1e9, np.float32, "below_all")
    masked = graph.add("Where", [kept, tokens, low], "masked_tokens")
    return graph.add("ReduceMax", [masked, axis], "pooled", attributes={"keepdims": 0})


def _at_end(graph: Graph, tokens: str, mask: str, *, last: bool) -> str:
    place = graph.add(
        "ArgMax", [mask], "end_token", attributes={"axis": 1, "keepdims": 1, "select_last_index": int(last)}
    )
    return graph.add("GatherND", [tokens, place], "pooled", attributes={"batch_dims": 1})


def _sums(graph: Graph, tokens: str, weights: str) -> str:
    # A product, not ReduceSum over tokens: ONNX Runtime adds in another order when the batch is one
    # text, so that a text's embedding would depend on whether it came alone.
    axis = graph.add_constant([1], np.int64, "token_axis")
    rows = graph.add("Unsqueeze", [weights, axis], "pooling_rows")
    cast = graph.add("Cast", [rows], "pooling_weights", attributes={"to": TensorProto.FLOAT})
    return graph.add("Squeeze", [graph.add("MatMul", [cast, tokens], "token_sums"), axis], "token_sum")


def _counts(graph: Graph, weights: str) -> str:
    axis = graph.add_constant([1], np.int64, "token_axis")
    # In whole numbers as long as possible: places of 8,000 tokens sum to more than float32 counts one by
    # one, and fp16 at all. Where nothing counts the sum is 0, and 0 it stays whatever it is divided by.
    count = graph.add("ReduceSum", [weights, axis], "token_count", attributes={"keepdims": 1})
    safe = graph.add("Max", [count, graph.add_constant(1, np.int64, "least_count")], "safe_count")
    return graph.add("Cast", [safe], "token_count", attributes={"to": TensorProto.FLOAT})
