"""Embedding tables in INT8, with a scale for each row."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import Step, need
from bertonnx.runtime.rows import Array

__all__ = ["QuantizeTables"]

_LIMIT = 127

_TINY = 1e-30
"""Stands in for the scale of a row of zeros."""

_LEAST_ROWS = 1000
"""Smaller tables (positions, segments) stay float32: together under 2% of a model."""


class QuantizeTables(Step):
    """Embedding tables of `_LEAST_ROWS` rows or more are stored in INT8.

    Requires: tables as weights. Ensures: rows within half a step of what they were; no such table in float32.
    """

    name = "tables"
    remedy = WITHOUT_INT8

    def apply(self, graph: Graph) -> int:
        """Store them; returns how many there were."""
        found = [(node, table) for node in graph.nodes if (table := _table(graph, node)) is not None]
        for node, table in found:
            _replace(graph, node, table)
        graph.finish()
        return len(found)

    def ensures(self, graph: Graph) -> None:
        """None is left."""
        need(all(_table(graph, node) is None for node in graph.nodes), "a table is float32 still")


def _table(graph: Graph, node: onnx.NodeProto) -> Array | None:
    table = graph.constant(node.input[0]) if node.op_type == "Gather" else None
    if table is None or table.ndim != 2 or table.dtype != np.float32 or len(table) < _LEAST_ROWS:
        return None
    if table.shape[1] == 1:  # as the scales of a table are, which would get scales of their own
        return None
    return table.astype(np.float32)


def _replace(graph: Graph, node: onnx.NodeProto, table: Array) -> None:
    name, output = node.input[0], node.output[0]
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / _LIMIT, _TINY).astype(np.float32)
    quantized = graph.add_constant(np.rint(table / scales), np.int8, f"{name}/int8")
    scales_name = graph.add_constant(scales, np.float32, f"{name}/scales")
    rows = graph.add("Gather", [quantized, node.input[1]], f"{output}/int8")
    factors = graph.add("Gather", [scales_name, node.input[1]], f"{output}/scale")
    numbers = graph.add("Cast", [rows], f"{output}/cast", attributes={"to": TensorProto.FLOAT})
    graph.remove(node)
    graph.add("Mul", [numbers, factors], output, output=output)
