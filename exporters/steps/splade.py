"""SPLADE in the graph: what the tokens of a text make each word of the vocabulary weigh.

Each function of `models.splade` takes the names of the logits (batch, tokens, vocabulary), of the mask
(batch, tokens), int64, and the row of the saturation, and returns the name of the weights (batch,
vocabulary). All are computed as Sentence-Transformers does (`sparse_encoder/modules/splade_pooling.py`).
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from bertonnx.exporters.onnxgraph.graph import FULL, Graph
from bertonnx.models.splade import Saturation

__all__ = ["splade_max", "splade_sum"]


def splade_max(graph: Graph, logits: str, mask: str, saturation: Saturation) -> str:
    """Add the largest weight of each word."""
    axis = graph.add_constant([1], np.int64, "token_axis")
    # The largest first: what follows grows with its input, so that the largest stays the largest, and is then
    # computed for each word once, not for each token.
    masked = graph.add("Mul", [logits, _columns(graph, mask)], f"{FULL}masked_logits")
    largest = graph.add("ReduceMax", [masked, axis], f"{FULL}largest_logits", attributes={"keepdims": 0})
    return _saturated(graph, largest, saturation)


def splade_sum(graph: Graph, logits: str, mask: str, saturation: Saturation) -> str:
    """Add the sum of each word's weights."""
    axis = graph.add_constant([1], np.int64, "token_axis")
    weights = _saturated(graph, logits, saturation)
    # A product, not ReduceSum over tokens, which adds in another order when the batch is one text.
    rows = graph.add("Unsqueeze", [mask, axis], f"{FULL}summed_rows")
    cast = graph.add("Cast", [rows], f"{FULL}summed_mask", attributes={"to": TensorProto.FLOAT})
    sums = graph.add("MatMul", [cast, weights], f"{FULL}word_sums")
    return graph.add("Squeeze", [sums, axis], f"{FULL}word_sum")


def _columns(graph: Graph, mask: str) -> str:
    """Add the mask as (batch, tokens, 1), float32."""
    last = graph.add_constant([2], np.int64, "last_axis")
    column = graph.add("Unsqueeze", [mask, last], f"{FULL}mask_column")
    return graph.add("Cast", [column], f"{FULL}mask_column", attributes={"to": TensorProto.FLOAT})


def _saturated(graph: Graph, value: str, saturation: Saturation) -> str:
    value = graph.add("Relu", [value], f"{FULL}positive")
    for _ in range(saturation.logarithms):
        value = _log1p(graph, value)
    return value


def _log1p(graph: Graph, value: str) -> str:
    """Add log(1 + x) of numbers from zero on, exact for small ones too.

    ONNX has no such operator, and of x below 1e-7 nothing is left in 1 + x: a word of little weight would
    have none. With u = 1 + x as rounded, x * log(u) / (u - 1) makes good what rounding took (Kahan).
    """
    one = graph.add_constant(1.0, np.float32, "one")
    more = graph.add("Add", [value, one], f"{FULL}one_more")
    gained = graph.add("Sub", [more, one], f"{FULL}gained")
    zero = graph.add_constant(0.0, np.float32, "zero")
    lost = graph.add("Equal", [gained, zero], f"{FULL}lost")
    # Where all was lost the quotient is 0 / 0, and not taken; divided by one it warns of nothing.
    safe = graph.add("Where", [lost, one, gained], f"{FULL}safe_gain")
    factor = graph.add("Div", [graph.add("Log", [more], f"{FULL}logarithm"), safe], f"{FULL}factor")
    scaled = graph.add("Mul", [value, factor], f"{FULL}log1p")
    return graph.add("Where", [lost, value, scaled], f"{FULL}log1p")
