"""Activations in the graph, one function for each row of `models.activations`.

Each takes the name of a value and a hint for new names, and returns the name of the result, of the same
shape. Numbers are those of PyTorch's classes as they are made without arguments. What operator set 18 lacks,
or ONNX Runtime has no kernel for, is spelled out.
"""

from __future__ import annotations

import numpy as np

from bertonnx.exporters.onnxgraph.graph import Attribute, Graph

__all__ = [
    "celu",
    "elu",
    "gelu",
    "gelu_tanh",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "mish",
    "none",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
]


def none(graph: Graph, value: str, hint: str) -> str:  # noqa: ARG001
    """Return the value itself."""
    return value


def sigmoid(graph: Graph, value: str, hint: str) -> str:
    """Add 1 / (1 + exp(-x))."""
    return graph.add("Sigmoid", [value], hint)


def softmax(graph: Graph, value: str, hint: str) -> str:
    """Add softmax over the last axis."""
    return graph.add("Softmax", [value], hint, attributes={"axis": -1})


def softmin(graph: Graph, value: str, hint: str) -> str:
    """Add softmax of -x over the last axis."""
    return softmax(graph, graph.add("Neg", [value], hint), hint)


def log_softmax(graph: Graph, value: str, hint: str) -> str:
    """Add the logarithm of softmax over the last axis."""
    return graph.add("LogSoftmax", [value], hint, attributes={"axis": -1})


def tanh(graph: Graph, value: str, hint: str) -> str:
    """Add tanh(x)."""
    return graph.add("Tanh", [value], hint)


def tanhshrink(graph: Graph, value: str, hint: str) -> str:
    """Add x - tanh(x)."""
    return graph.add("Sub", [value, tanh(graph, value, hint)], hint)


def relu(graph: Graph, value: str, hint: str) -> str:
    """Add max(0, x)."""
    return graph.add("Relu", [value], hint)


def relu6(graph: Graph, value: str, hint: str) -> str:
    """Add x between 0 and 6."""
    return _between(graph, value, 0.0, 6.0, hint=hint)


def hardtanh(graph: Graph, value: str, hint: str) -> str:
    """Add x between -1 and 1."""
    return _between(graph, value, -1.0, 1.0, hint=hint)


def leaky_relu(graph: Graph, value: str, hint: str) -> str:
    """Add x, or x / 100 where it is negative."""
    return _with(graph, "LeakyRelu", value, {"alpha": 0.01}, hint=hint)


def elu(graph: Graph, value: str, hint: str) -> str:
    """Add x, or exp(x) - 1 where it is negative."""
    return _with(graph, "Elu", value, {"alpha": 1.0}, hint=hint)


def celu(graph: Graph, value: str, hint: str) -> str:
    """Add what ELU gives: the two differ in their `alpha` alone, which is 1."""
    return elu(graph, value, hint)


def selu(graph: Graph, value: str, hint: str) -> str:
    """Add ELU with the scales of self-normalizing networks."""
    return _with(graph, "Selu", value, {}, hint=hint)


def softplus(graph: Graph, value: str, hint: str) -> str:
    """Add log(1 + exp(x)); over 20, PyTorch's x itself differs from it by less than float32 tells."""
    return graph.add("Softplus", [value], hint)


def softsign(graph: Graph, value: str, hint: str) -> str:
    """Add x / (1 + |x|)."""
    return graph.add("Softsign", [value], hint)


def logsigmoid(graph: Graph, value: str, hint: str) -> str:
    """Add log(1 / (1 + exp(-x))) as -softplus(-x), which does not overflow."""
    return graph.add("Neg", [softplus(graph, graph.add("Neg", [value], hint), hint)], hint)


def silu(graph: Graph, value: str, hint: str) -> str:
    """Add x * sigmoid(x)."""
    return graph.add("Mul", [value, sigmoid(graph, value, hint)], hint)


def mish(graph: Graph, value: str, hint: str) -> str:
    """Add x * tanh(softplus(x))."""
    return graph.add("Mul", [value, tanh(graph, softplus(graph, value, hint), hint)], hint)


def hardsigmoid(graph: Graph, value: str, hint: str) -> str:
    """Add x / 6 + 1 / 2 between 0 and 1."""
    return _with(graph, "HardSigmoid", value, {"alpha": 1 / 6, "beta": 0.5}, hint=hint)


def hardswish(graph: Graph, value: str, hint: str) -> str:
    """Add x * hardsigmoid(x)."""
    return graph.add("Mul", [value, hardsigmoid(graph, value, hint)], hint)


def hardshrink(graph: Graph, value: str, hint: str) -> str:
    """Add x, or 0 where it is within 1/2 of 0."""
    return _with(graph, "Shrink", value, {"lambd": 0.5, "bias": 0.0}, hint=hint)


def softshrink(graph: Graph, value: str, hint: str) -> str:
    """Add x brought 1/2 closer to 0, or 0 where it is within that."""
    return _with(graph, "Shrink", value, {"lambd": 0.5, "bias": 0.5}, hint=hint)


def gelu(graph: Graph, value: str, hint: str) -> str:
    """Add x / 2 * (1 + erf(x / sqrt(2))); the operator set has no Gelu before 20."""
    root = graph.add_constant(2**0.5, np.float32, "root_two")
    erf = graph.add("Erf", [graph.add("Div", [value, root], hint)], hint)
    return _half_times(graph, value, erf, hint=hint)


def gelu_tanh(graph: Graph, value: str, hint: str) -> str:
    """Add x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))."""
    cube = graph.add("Mul", [graph.add("Mul", [value, value], hint), value], hint)
    part = graph.add("Mul", [cube, graph.add_constant(0.044715, np.float32, "cube_share")], hint)
    scale = graph.add_constant((2 / np.pi) ** 0.5, np.float32, "gelu_scale")
    inner = graph.add("Mul", [graph.add("Add", [value, part], hint), scale], hint)
    return _half_times(graph, value, tanh(graph, inner, hint), hint=hint)


def _half_times(graph: Graph, value: str, share: str, *, hint: str) -> str:
    """Add x * (1 + share) / 2."""
    shifted = graph.add("Add", [share, graph.add_constant(1.0, np.float32, "one_float")], hint)
    half = graph.add_constant(0.5, np.float32, "half")
    return graph.add("Mul", [graph.add("Mul", [value, shifted], hint), half], hint)


def _between(graph: Graph, value: str, low: float, high: float, *, hint: str) -> str:
    bounds = [graph.add_constant(bound, np.float32, "bound") for bound in (low, high)]
    return graph.add("Clip", [value, *bounds], hint)


def _with(graph: Graph, operator: str, value: str, attributes: dict[str, Attribute], *, hint: str) -> str:
    return graph.add(operator, [value], hint, attributes=attributes)
