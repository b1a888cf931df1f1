"""INT8's layers keep the biases alone that nothing else can add (`exporters.onnxgraph.biases`).

An addition to 512 x 384 numbers takes a tenth of the INT8 product before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bertonnx.exporters.int8.layers import Layer, require_layers
from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.onnxgraph.biases import spare_biases
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import Shared
from bertonnx.exporters.onnxgraph.step import Step, need

__all__ = ["SpareBiases"]


@dataclass(frozen=True, eq=False)
class SpareBiases(Step):
    """Layers keep the biases alone that nothing else can add.

    Requires: layers with rounded weights, in the graph as products still. Ensures: the same outputs up to
    rounding, once every layer adds what is left in its `biases`.

    Attributes:
        layers: all of the graph.
    """

    name = "biases"
    remedy = WITHOUT_INT8
    layers: Sequence[Layer]

    def requires(self, graph: Graph) -> None:
        """The graph makes the outputs of all layers, and their weights are rounded."""
        require_layers(graph, self.layers)
        rounded = all(layer.rounded.keys() == layer.weights.keys() for layer in self.layers)
        need(rounded, "weights are not rounded yet")

    def apply(self, graph: Graph) -> int:
        """Move biases; returns how many additions are spared."""
        by_output = {name: layer for layer in self.layers for name in layer.weights}
        biases = {name: layer.biases[name] for name, layer in by_output.items()}
        before = {name: bias for name, bias in biases.items() if bias is not None}
        left = spare_biases(
            graph,
            [Shared(layer.source, layer.linears) for layer in self.layers],
            lambda name: by_output[name].used(name),
            before,
            bears=lambda name, added: by_output[name].bears(added),
        )
        for name, bias in left.items():
            by_output[name].biases[name] = bias
        graph.finish()
        return sum(left[name] is None for name in before)

    def ensures(self, graph: Graph) -> None:
        """Layers stand where they stood, each with what it is to add, or nothing."""
        require_layers(graph, self.layers)
        told = all(layer.biases.keys() == layer.weights.keys() for layer in self.layers)
        need(told, "a layer does not know what it adds")
