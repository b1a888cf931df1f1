"""Find the linear layers of a graph: products with a weight, the bias after them, what they share.

Reads only, from a graph whose constants are weights (`exporters.onnxgraph.clean`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from bertonnx.exporters.onnxgraph.graph import Graph

__all__ = ["Linear", "Shared", "find_linears", "linear_at"]

_LEAST_SIDE = 16
"""A weight with a side below this is a head of a few classes: nothing to gain, accuracy to lose."""


@dataclass(frozen=True, eq=False)
class Linear:
    """One linear layer: `output = source @ weight + bias`.

    Attributes:
        source: name of its input, (..., width).
        weight: name of the weight, float32 of shape (width, features).
        bias: name of the bias, float32 of shape (features,); "" for none.
        output: name of the value after the bias.
    """

    source: str
    weight: str
    bias: str
    output: str


@dataclass(frozen=True, eq=False)
class Shared:
    """Linear layers that read the same value, as queries, keys and values do."""

    source: str
    linears: tuple[Linear, ...]


def find_linears(graph: Graph) -> list[Shared]:
    """Return all linear layers with much to multiply, those with one input together.

    Layers on one vector a text (pooler, classifier; `Gemm` in the graph) and those with under 16
    inputs or features are none of them: they take no time, and errors there are not averaged out.
    """
    by_source: dict[str, list[Linear]] = {}
    for node in graph.nodes:
        linear = _linear(graph, node)
        if linear is not None:
            by_source.setdefault(linear.source, []).append(linear)
    return [Shared(source, tuple(linears)) for source, linears in by_source.items()]


def linear_at(layers: Sequence[Shared], output: str) -> Linear | None:
    """Return the layer that makes `output`, if one does."""
    return next((linear for shared in layers for linear in shared.linears if linear.output == output), None)


def _linear(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    if node.op_type != "MatMul" or graph.constant(node.input[0]) is not None:
        return None
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or min(weight.shape) < _LEAST_SIDE:
        return None
    add = graph.only_reader(node.output[0], "Add")
    bias = "" if add is None else _bias(graph, add, weight)
    # A product without a bias is a layer too; the Add behind it is then a residual's or a mask's.
    if add is None or not bias:
        return Linear(node.input[0], node.input[1], "", node.output[0])
    return Linear(node.input[0], node.input[1], bias, add.output[0])


def _bias(graph: Graph, add: onnx.NodeProto, weight: npt.NDArray[np.generic]) -> str:
    for name in add.input:
        array = graph.constant(name)
        if array is not None and array.ndim == 1 and array.size == weight.shape[1]:
            return str(name)
    return ""
