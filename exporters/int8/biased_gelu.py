"""Let GELU add the bias before it: ONNX Runtime's `FastGelu` does both in one pass.

Requires: a finished graph after `exporters.int8.rowwise`. Ensures: the same outputs within INT8's own steps.
FastGelu is GELU by tanh, up to 5e-4 off the one by erf; where only a quantiser reads the activation,
that is a tenth or less of a usual step, and elsewhere GELU stays as it is.

Operator: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import onnx

from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph

__all__ = ["bias_gelus"]

_QUANTISER = {"ReduceMax", "Reshape", "Shape"}
"""What reads the input of a quantiser (`exporters.int8.rowwise`)."""


def bias_gelus(graph: Graph) -> int:
    """Change the graph in place; return how many GELUs add a bias."""
    found = 0
    for node in [node for node in graph.nodes if node.op_type in ("Gelu", "FastGelu")]:
        output, summands = node.output[0], _summands(graph, node)
        if summands and (node.op_type == "FastGelu" or _only_quantised(graph, output)):
            graph.remove(node)
            graph.add("FastGelu", summands, output, output=output, domain=MS_DOMAIN)
            found += 1
    return found


def _summands(graph: Graph, gelu: onnx.NodeProto) -> list[str]:
    """Return the value and the bias whose sum only this GELU reads; nothing where it reads no such sum."""
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


def _only_quantised(graph: Graph, value: str) -> bool:
    readers = graph.readers(value)
    rows = [node.output[0] for node in readers if node.op_type == "Reshape"]
    quantised = any(reader.op_type == "QuantizeLinear" for row in rows for reader in graph.readers(row))
    return quantised and all(node.op_type in _QUANTISER for node in readers) and not graph.is_output(value)
