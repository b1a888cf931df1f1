"""Let GELU add the bias before it: ONNX Runtime's `FastGelu` does both in one pass.

FastGelu is GELU by tanh, up to 5e-4 off the one by erf; where only a quantizer reads the activation,
that is a tenth or less of a usual step, and elsewhere GELU stays as it is.

Operator: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import onnx

from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph
from bertonnx.exporters.onnxgraph.step import Step, need

__all__ = ["BiasGelus"]

_QUANTIZER = {"ReduceMax", "Reshape", "Shape"}
"""What reads the input of a quantizer (`exporters.int8.rowwise`)."""


class BiasGelus(Step):
    """GELU adds the bias before it, where its last digits are not seen.

    Requires: linear layers in INT8 (`exporters.int8.rowwise`). Ensures: the same outputs within INT8's own
    steps; no GELU is left that could add one.
    """

    name = "biased gelu"
    remedy = WITHOUT_INT8

    def apply(self, graph: Graph) -> int:
        """Join them; returns how many GELUs add a bias."""
        graph.finish()  # nothing dead: a dead reader would count as one that sees the digits
        found = 0
        for node in list(graph.nodes):
            output, summands = node.output[0], _summands(graph, node)
            if summands:
                graph.remove(node)
                graph.add("FastGelu", summands, output, output=output, domain=MS_DOMAIN)
                found += 1
        graph.finish()
        return found

    def ensures(self, graph: Graph) -> None:
        """None is left."""
        need(not any(_summands(graph, node) for node in graph.nodes), "a GELU could add its bias")


def _summands(graph: Graph, gelu: onnx.NodeProto) -> list[str]:
    """Return the value and the bias that a GELU can add itself; nothing where it must not, or is none."""
    if gelu.op_type not in ("Gelu", "FastGelu"):
        return []
    # By tanh it is already; by erf, digits that only a quantizer reads may change.
    if gelu.op_type == "Gelu" and not _only_quantized(graph, gelu.output[0]):
        return []
    # A FastGelu of two inputs adds a bias already.
    add = graph.producer(gelu.input[0], "Add")
    if add is None or len(gelu.input) > 1 or graph.only_reader(add.output[0], gelu.op_type) is None:
        return []
    bias = _bias(graph, add)
    return [next(name for name in add.input if name != bias), bias] if bias else []


def _bias(graph: Graph, add: onnx.NodeProto) -> str:
    for name in add.input:
        array = graph.constant(name)
        if array is not None and array.ndim == 1:
            return str(name)
    return ""


def _only_quantized(graph: Graph, value: str) -> bool:
    readers = graph.readers(value)
    # Others reshape and reduce as well: QuantizeLinear behind it is what tells a quantizer.
    rows = [node.output[0] for node in readers if node.op_type == "Reshape"]
    quantized = any(reader.op_type == "QuantizeLinear" for row in rows for reader in graph.readers(row))
    return quantized and all(node.op_type in _QUANTIZER for node in readers) and not graph.is_output(value)
