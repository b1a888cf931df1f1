"""INT8 products computed in float32: what another CPU would compute, on one that would saturate.

Slow, and for judging only.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import Step, need, run

__all__ = ["FloatProducts", "float_twin"]

_PRODUCT = "MatMulIntegerToFloat"


class FloatProducts(Step):
    """Products of whole numbers are computed in float32, where nothing saturates.

    Requires: a graph after `exporters.int8.rowwise`. Ensures: the same outputs as where nothing saturates, up
    to float32's rounding of sums of whole numbers.
    """

    name = "float products"
    remedy = WITHOUT_INT8

    def requires(self, graph: Graph) -> None:
        """Products are those of `PutRowwise`: weights and zero points are constants, rows have no scale."""
        for node in (node for node in graph.nodes if node.op_type == _PRODUCT):
            known = graph.constant(node.input[1]) is not None and graph.scalar(node.input[4]) is not None
            plain = len(node.input) == 5 and known and graph.scalar(node.input[2]) == 1.0
            need(plain, f"{node.output[0]} is another kind of product")

    def apply(self, graph: Graph) -> int:
        """Replace the products; returns how many there were."""
        products = [node for node in graph.nodes if node.op_type == _PRODUCT]
        for node in products:
            _replace(graph, node)
        graph.finish()
        return len(products)

    def ensures(self, graph: Graph) -> None:
        """None is left."""
        need(all(node.op_type != _PRODUCT for node in graph.nodes), "a product of whole numbers is left")


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose INT8 products no CPU can saturate; the model stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    run([FloatProducts()], graph)
    return graph.model


def _replace(graph: Graph, node: onnx.NodeProto) -> None:
    rows, weight, _, scales, zero = node.input
    output = node.output[0]
    numbers, start = graph.constant(weight), graph.scalar(zero)
    assert numbers is not None
    assert start is not None
    graph.remove(node)
    cast = graph.add("Cast", [rows], f"{output}/float", attributes={"to": TensorProto.FLOAT})
    first = graph.add_constant(start, np.float32, f"{output}/zero")
    centred = graph.add("Sub", [cast, first], f"{output}/centred")
    factors = graph.add_constant(numbers, np.float32, f"{weight}/float")
    product = graph.add("MatMul", [centred, factors], f"{output}/whole")
    graph.add("Mul", [product, scales], output, output=output)
