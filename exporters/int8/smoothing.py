"""Move outliers from activations into weights, channel by channel (SmoothQuant).

An input x with factors s becomes x / s, and the weights that read it s * weight.

The division costs nothing where something linear makes the input: attention's output is a weighted
sum of values, so their layer takes it; a layer normalization that only linear layers read takes it
too. Else (post-norm encoders, where the residual reads the norm as well) it is one product before
the quantizer.

Formula: s = max|x|^alpha / max|weight|^(1 - alpha), of each channel (Xiao et al. 2022,
https://arxiv.org/abs/2211.10438, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertonnx.exporters.int8.layers import Layer, least_output, require_layers
from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.onnxgraph.attentions import attention_inputs
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import Step, need
from bertonnx.runtime.rows import Array

__all__ = ["ALPHA", "Smooth", "smoothing_factors"]

ALPHA = 0.6
"""The paper takes 0.5. With a scale for each row and pair-safe weights, 0.6 gives labels and embeddings
nearer to fp32; choosing by each layer's own error on the sample did no better."""

_LEAST = 1e-5


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


@dataclass(frozen=True, eq=False)
class Smooth(Step):
    """Layers are smoothed, and where a norm takes the division, the graph is changed too.

    Inputs that GELU or ReLU makes are left alone: their rows use all 255 steps only as they are.

    Requires: layers that the graph has, not rounded yet. Ensures: the same outputs up to rounding, once
    the layers stand in the graph with their weights and multipliers.

    Attributes:
        layers: all of the graph, with what calibration saw of their inputs.
    """

    name = "smoothing"
    remedy = WITHOUT_INT8
    layers: Sequence[Layer]

    def requires(self, graph: Graph) -> None:
        """The graph makes the outputs of all layers, and no weight is rounded."""
        require_layers(graph, self.layers)
        need(not any(layer.rounded for layer in self.layers), "weights are rounded already")

    def apply(self, graph: Graph) -> int:
        """Smooth; returns how many inputs were divided."""
        makers = {linear.output: layer for layer in self.layers for linear in layer.linears}
        smoothed = [layer for layer in self.layers if least_output(graph, layer.source) is None]
        for layer in smoothed:
            _smooth(graph, layer, makers)
        graph.finish()
        return len(smoothed)

    def ensures(self, graph: Graph) -> None:
        """Layers stand where they stood, and no channel is multiplied with zero or with infinity."""
        require_layers(graph, self.layers)
        for layer in self.layers:
            factors = layer.multiplier
            usable = factors is None or bool(np.all(np.isfinite(factors) & (factors > 0)))
            need(usable, f"a channel of {layer.source} cannot be multiplied")


def _smooth(graph: Graph, layer: Layer, makers: dict[str, Layer]) -> None:
    weights = [np.abs(layer.weights[linear.output]).max(axis=1) for linear in layer.linears]
    factors = smoothing_factors(layer.statistics.largest, np.max(weights, axis=0), ALPHA)
    layer.alpha = ALPHA
    for linear in layer.linears:
        layer.weights[linear.output] = layer.weights[linear.output] * factors[:, None]
    # Weights are rounded for what they will multiply.
    layer.statistics = layer.statistics.divided(factors)
    if not (_into_values(graph, layer, factors, makers) or _into_norm(graph, layer, factors)):
        layer.multiplier = np.reciprocal(factors)


def _into_values(graph: Graph, layer: Layer, factors: Array, makers: dict[str, Layer]) -> bool:
    """Let the layer that makes attention's values make them divided; say whether it could."""
    inputs = attention_inputs(graph, layer.source)
    value = inputs[2] if inputs else ""
    maker = makers.get(value)
    bias = None if maker is None else maker.biases[value]
    if maker is None or bias is None or len(graph.readers(value)) != 1 or len(bias) != len(factors):
        return False
    maker.weights[value] = maker.weights[value] / factors
    maker.biases[value] = bias / factors
    return True


def _into_norm(graph: Graph, layer: Layer, factors: Array) -> bool:
    """Let the layer normalization before divide, where only these layers read it; say whether it could."""
    norm = graph.producer(layer.source, "LayerNormalization")
    if (
        norm is None
        or graph.is_output(layer.source)
        or len(graph.readers(layer.source)) != len(layer.linears)
    ):
        return False
    # In two passes: a norm that cannot be divided in full must stay whole.
    for place in range(1, len(norm.input)):
        constant = graph.constant(norm.input[place])
        if constant is None or constant.shape != factors.shape:
            return False
    for place in range(1, len(norm.input)):
        constant = graph.constant(norm.input[place])
        assert constant is not None
        divided = constant.astype(np.float32) / factors
        name = graph.add_constant(divided, np.float32, f"{layer.source}/smooth_{place}")
        graph.set_input(norm, place, name)
    return True
