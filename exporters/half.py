"""fp16: weights and arithmetic in half precision, inputs and outputs unchanged. Meant for CUDA.

Requires: an optimised fp32 graph. Ensures: the same inputs and outputs (float32), weights in
float16; what overflows or loses too much there (layer normalisation, softmax, masks) stays float32.
"""

from __future__ import annotations

import onnx

from bertonnx.runtime.session import import_onnxruntime

__all__ = ["to_half"]

_STAYS_FLOAT32 = ("LayerNormalization", "Softmax", "ReduceL2", "ReduceSum", "Where", "Range", "Expand", "If")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in half precision, converted by ONNX Runtime's own converter."""
    import_onnxruntime()
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_STAYS_FLOAT32],
        disable_shape_infer=True,
    )
    return half
