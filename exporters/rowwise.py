"""Row-wise dynamic INT8: every token has a scale of its own, so no text depends on its neighbours.

Requires: an fp32 graph after attention fusion, whose inputs are (batch, tokens).
Ensures: the same inputs and outputs; linear layers as `MatMulIntegerToFloat` on INT8 weights, the
word embedding table in INT8 with a scale for each row; all else in float32.

Of an input x with rows of `width` numbers, a row's scale is its largest absolute number / 127, and
x is quantised around 128. GELU's and ReLU's outputs have a known least number `-shift`, so they use
all 255 steps: scale * zero = shift exactly, for a whole number `zero` of each row, so that what the
shift adds is one constant, which the bias takes off.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

__all__ = ["GELU_SHIFT", "Quantized", "quantize_layers", "quantize_tables"]

GELU_SHIFT = 0.1701
"""GELU is never below -0.16998, its approximation by tanh never below -0.17005."""

_ZERO = 128
_LEVELS = 255
_TINY = 1e-30
_ROW_LIMIT = 127
