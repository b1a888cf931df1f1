"""INT8 products computed in float32: what another CPU would compute, on one that would saturate.

Requires: a graph after `exporters.int8.rowwise`. Ensures: the same outputs as where nothing saturates, up
to float32's rounding of sums of whole numbers; slow, and for judging only.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from bertonnx.exporters.onnxgraph.graph import Graph

__all__ = ["exact_products"]


def exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose INT8 products no CPU can saturate; the model stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    for node in [node for node in graph.nodes if node.op_type == "MatMulIntegerToFloat"]:
        rows, weight, row_scale, scales, zero = node.input[:5]
        output = node.output[0]
        numbers, start = graph.constant(weight), graph.scalar(zero)
        assert numbers is not None
        assert start is not None
        assert graph.scalar(row_scale) == 1.0
        graph.remove(node)
        cast = graph.add("Cast", [rows], f"{output}/float", attributes={"to": TensorProto.FLOAT})
        first = graph.add_constant(start, np.float32, f"{output}/zero")
        centred = graph.add("Sub", [cast, first], f"{output}/centred")
        factors = graph.add_constant(numbers, np.float32, f"{weight}/float")
        product = graph.add("MatMul", [centred, factors], f"{output}/whole")
        graph.add("Mul", [product, scales], output, output=output)
    graph.finish()
    return copy
