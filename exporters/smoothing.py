"""Move outliers from activations into weights, channel by channel (SmoothQuant).

Requires: calibration statistics of every input of linear layers. Ensures: the same function; an
input x with factors s becomes x / s, and the weights that read it s * weight.

The division costs nothing where something linear makes the input: attention's output is a weighted
sum of values, so their layer takes it; a layer normalisation that only linear layers read takes it
too. Else (post-norm encoders, where the residual reads the norm as well) it is one product before
the quantiser.

Formula: s = max|x|^alpha / max|weight|^(1 - alpha), of each channel (Xiao et al. 2022,
https://arxiv.org/abs/2211.10438, section 4). Each input takes the alpha with the least error of its
layers' outputs on the sample, computed as the INT8 graph will.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertonnx.exporters.calibration import Statistics
from bertonnx.exporters.graph import Graph
from bertonnx.exporters.linear import attention_value
from bertonnx.exporters.rowwise import Layer, least_output
from bertonnx.runtime.rows import Array

__all__ = ["ALPHAS", "choose_factors", "smooth", "smoothing_factors"]

ALPHAS = (0.5, 0.6, 0.7, 0.8)
"""What is tried; 0.5 is the paper's. More moves more of the outliers into the weights."""

_LEAST = 1e-5
_STEPS = 127


def smoothing_factors(largest: Array, weight_largest: Array, alpha: float) -> Array:
    """Return a factor for each channel, with a geometric mean of 1.

    Args:
        largest: largest absolute activation, float32 of shape (width,).
        weight_largest: largest absolute weight that reads the channel, float32 of shape (width,).
        alpha: between 0 (weights alone decide) and 1 (activations alone).
    """
    logs = alpha * np.log(np.maximum(largest, _LEAST)) - (1 - alpha) * np.log(
        np.maximum(weight_largest, _LEAST)
    )
    factors: Array = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def smooth(graph: Graph, layers: Sequence[Layer]) -> None:
    """Smooth the layers in place, and where a norm takes the division, the graph too.

    Inputs that GELU or ReLU makes are left alone: their rows use all 255 steps only as they are.
    """
    makers = {linear.output: layer for layer in layers for linear in layer.linears}
    for layer in layers:
        if least_output(graph, layer.source) is not None:
            continue
        weights = [layer.weights[linear.output] for linear in layer.linears]
        factors, layer.alpha = choose_factors(layer.statistics, weights)
        for linear in layer.linears:
            layer.weights[linear.output] = layer.weights[linear.output] * factors[:, None]
        layer.statistics = layer.statistics.divided(factors)
        if not (_into_values(graph, layer, factors, makers) or _into_norm(graph, layer, factors)):
            layer.multiplier = np.reciprocal(factors)


def _into_values(graph: Graph, layer: Layer, factors: Array, makers: dict[str, Layer]) -> bool:
    """Let the layer that makes attention's values make them divided; say whether it could."""
    value = attention_value(graph, layer.source)
    maker = makers.get(value or "")
    if (
        value is None
        or maker is None
        or len(graph.readers(value)) != 1
        or len(maker.biases[value]) != len(factors)
    ):
        return False
    maker.weights[value] = maker.weights[value] / factors
    maker.biases[value] = maker.biases[value] / factors
    return True


def _into_norm(graph: Graph, layer: Layer, factors: Array) -> bool:
    """Let the layer normalisation before divide, where only these layers read it; say whether it could."""
    norm = graph.producer(layer.source, "LayerNormalization")
    if (
        norm is None
        or graph.is_output(layer.source)
        or len(graph.readers(layer.source)) != len(layer.linears)
    ):
        return False
    for place in range(1, len(norm.input)):
        constant = graph.constant(norm.input[place])
        if constant is None or constant.shape != factors.shape:
            return False
    for place in range(1, len(norm.input)):
        constant = graph.constant(norm.input[place])
        assert constant is not None
        norm.input[place] = graph.add_constant(
            constant.astype(np.float32) / factors, np.float32, f"{layer.source}/smooth_{place}"
        )
    return True


def choose_factors(statistics: Statistics, weights: Sequence[Array]) -> tuple[Array, float]:
    """Return the factors of the best of `ALPHAS`, and that alpha.

    Args:
        statistics: of the layers' common input.
        weights: of the layers that read it, each float32 of shape (width, features).
    """
    weight = np.concatenate(weights, axis=1)
    weight_largest = np.abs(weight).max(axis=1)
    tried = [(alpha, smoothing_factors(statistics.largest, weight_largest, alpha)) for alpha in ALPHAS]
    errors = [_error(statistics.sample, weight, factors) for _, factors in tried]
    alpha, factors = tried[int(np.argmin(errors))]
    return factors, alpha


def _error(sample: Array, weight: Array, factors: Array) -> float:
    """Return the mean squared error of sample @ weight after smoothing and quantising both."""
    rows, columns = sample / factors, weight * factors[:, None]
    row_errors = rows - _quantized(rows, axis=1)
    column_errors = columns - _quantized(columns, axis=0)
    # To first order the two errors add up; one product then does for both.
    difference = row_errors @ columns + rows @ column_errors
    return float(np.square(difference).mean())


def _quantized(values: Array, *, axis: int) -> Array:
    scale = np.maximum(np.abs(values).max(axis=axis, keepdims=True), np.float32(1e-30)) / np.float32(_STEPS)
    rounded: Array = np.rint(values / scale) * scale
    return rounded
