"""fp16: weights and arithmetic in half precision, inputs and outputs unchanged. Meant for CUDA.

Requires: an optimised fp32 graph without branches (before `exporters.unmasked`).
Ensures: the same inputs and outputs (float32), weights in float16; what overflows or
loses too much there (layer normalisation, softmax, masks) stays float32.
"""

from __future__ import annotations

import onnx
from onnx import helper

from bertonnx.exporters.graph import Graph
from bertonnx.exporters.ort_steps import float_values
from bertonnx.runtime.session import import_onnxruntime

__all__ = ["to_half"]

_STAYS_FLOAT32 = ("LayerNormalization", "Softmax", "ReduceL2", "ReduceSum", "Where", "Range", "Expand", "If")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in half precision, converted by ONNX Runtime's own converter."""
    import_onnxruntime()
    _unshare(model)
    # The converter finds where to cast by the types noted for values inside the graph.
    floats = float_values(model)
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in floats
    )
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_STAYS_FLOAT32],
        disable_shape_infer=True,
    )
    return half


def _unshare(model: onnx.ModelProto) -> None:
    """Give weights that both precisions read (equal biases are stored once) a copy for float32.

    The converter would name one cast for every reader, all the same, and ONNX allows a name once.
    """
    graph = Graph(model)
    weights = {tensor.name: tensor for tensor in graph.proto.initializer}
    for node in graph.nodes:
        if node.op_type not in _STAYS_FLOAT32:
            continue
        for place, name in enumerate(node.input):
            if name in weights and weights[name].data_type == onnx.TensorProto.FLOAT:
                copy = graph.proto.initializer.add()
                copy.CopyFrom(weights[name])
                copy.name = node.input[place] = graph.fresh(f"{name}/float32")
    Graph(model).finish()
