"""Linear layers on their way to INT8: what calibration saw of them, and what becomes of their numbers.

The steps of INT8 work on the graph and on these together: `Smooth`, `RoundWeights` and `SpareBiases` change
the numbers here, and `PutRowwise` puts them into the graph.

Of an input of linear layers, a row's scale is its largest absolute number / 127, and the row is
quantized around 128. GELU and ReLU have a known least number, -shift, so that their rows can use
all 255 steps: with a whole number `zero` for each row, and shift / zero as its scale, the shift
adds the same constant to every row, which the bias takes off again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.beside import torch_threads
from bertonnx.exporters.int8.calibration import Statistics
from bertonnx.exporters.int8.pairsafe import quantize_weight, saturates
from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.int8.rounding import spread_of
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import Linear, Shared
from bertonnx.exporters.onnxgraph.step import Step, need
from bertonnx.runtime.rows import Array
from bertonnx.runtime.session.cores import allowed_cores

__all__ = ["Layer", "Matrix", "RoundWeights", "Rounded", "layers_of", "least_output"]

Matrix = npt.NDArray[np.float64]

_LEAST_OUTPUT = {"Gelu": 0.1701, "FastGelu": 0.1701, "Relu": 0.0}
"""How far below zero an activation can go; GELU's least is -0.16998, by tanh -0.17005."""

_SHIFT_SHARE = 0.045
"""Least shift as part of a usual row's largest number. A row's scale is rounded up to shift / zero with
a whole `zero`: a small shift makes that coarse, a large one wastes steps; both lose 4% here."""

_COARSER = 1.03
"""By how much a row's scale may grow for an addition that is spared (`exporters.int8.biases`)."""


@dataclass(frozen=True, eq=False)
class Rounded:
    """INT8 numbers, (width, features), and the scale of each column, float32 (features,)."""

    numbers: npt.NDArray[np.int8]
    scales: Array

    @property
    def used(self) -> Matrix:
        """What the numbers stand for."""
        return self.numbers.astype(np.float64) * self.scales


@dataclass(eq=False)
class Layer:
    """Linear layers with one input.

    Attributes:
        source: name of the input.
        linears: the layers.
        statistics: of the input, as it will be quantized.
        weights: float32 of shape (width, features), by the layer's output.
        biases: float64 of shape (features,), by the layer's output; what is still to be added to its
            products, None for nothing.
        rounded: the weights in INT8, by the layer's output, once they are rounded.
        multiplier: what the input is multiplied with before the quantizer, (width,), or None.
        alpha: of the smoothing; None where there is none.
        shift: what makes every number of the input positive; None where nothing bounds them from below.
    """

    source: str
    linears: tuple[Linear, ...]
    statistics: Statistics
    weights: dict[str, Array] = field(default_factory=dict)
    biases: dict[str, Matrix | None] = field(default_factory=dict)
    rounded: dict[str, Rounded] = field(default_factory=dict)
    multiplier: Array | None = None
    alpha: float | None = None
    shift: float | None = None

    @property
    def width(self) -> int:
        """Length of a row of the input."""
        return len(self.statistics.largest)

    def used(self, name: str) -> Matrix:
        """Return what one layer multiplies the input with, the smoothing before the quantizer included."""
        used = self.rounded[name].used
        return used if self.multiplier is None else used * self.multiplier[:, None]

    def bears(self, added: Matrix) -> bool:
        """Say whether rows of the input stay about as finely quantized with an addition, (width,)."""
        before = self.statistics.sample
        after = before + (added if self.multiplier is None else added * self.multiplier)
        return bool(np.abs(after).max(axis=1).mean() <= _COARSER * np.abs(before).max(axis=1).mean())


def layers_of(graph: Graph, shared: Sequence[Shared], statistics: Mapping[str, Statistics]) -> list[Layer]:
    """Return the layers with their weights read from the graph."""
    layers = []
    for group in shared:
        layer = Layer(group.source, group.linears, statistics[group.source])
        for linear in group.linears:
            weight = graph.constant(linear.weight)
            assert weight is not None
            layer.weights[linear.output] = weight.astype(np.float32)
            bias = graph.constant(linear.bias) if linear.bias else None
            # Zeros for none: what rounding the weights costs on average goes there (`_corrected`).
            layer.biases[linear.output] = (
                np.zeros(weight.shape[1]) if bias is None else bias.astype(np.float64)
            )
        layers.append(layer)
    return layers


def least_output(graph: Graph, value: str) -> float | None:
    """Return how far below zero `value` can go where its producer bounds it, else None."""
    node = graph.producer(value)
    return None if node is None else _LEAST_OUTPUT.get(node.op_type)


@dataclass(frozen=True, eq=False)
class RoundWeights(Step):
    """Weights get their INT8 numbers, and biases make up for what rounding does on average.

    Requires: layers that the graph has. Ensures: the graph as it was; where it was asked for, weights
    that saturate on no CPU.

    Attributes:
        layers: all of the graph, smoothed or not.
        pair_safe: whether weights keep to what can never saturate (`exporters.int8.pairsafe`).
    """

    name = "rounding"
    remedy = WITHOUT_INT8
    layers: Sequence[Layer]
    pair_safe: bool

    def requires(self, graph: Graph) -> None:
        """The graph makes the outputs of all layers."""
        require_layers(graph, self.layers)

    def apply(self, graph: Graph) -> int:
        """Round; returns how many weights there were."""
        for layer in self.layers:
            layer.shift = _shift(graph, layer)
        # No layer knows of another, so that each has a core; the widest begin, which take ten times as long.
        widest = sorted(self.layers, key=lambda layer: -layer.statistics.sample.shape[1])
        with torch_threads(1), ThreadPoolExecutor(allowed_cores()) as pool:
            list(pool.map(self._round, widest))
        return sum(len(layer.weights) for layer in self.layers)

    def _round(self, layer: Layer) -> None:
        sample = layer.statistics.sample
        spread = spread_of(sample)
        for name, weight in layer.weights.items():
            rounded = Rounded(*quantize_weight(weight, sample, pair_safe=self.pair_safe, spread=spread))
            layer.rounded[name] = rounded
            layer.biases[name] = _corrected(layer, name, rounded.used)

    def ensures(self, graph: Graph) -> None:  # noqa: ARG002
        """What was to be pair-safe is: another CPU would give other numbers, and nobody would be told."""
        if self.pair_safe:
            numbers = (rounded.numbers for layer in self.layers for rounded in layer.rounded.values())
            need(not any(map(saturates, numbers)), "a weight can saturate")


def require_layers(graph: Graph, layers: Sequence[Layer]) -> None:
    """Make sure that a graph still makes the outputs of all layers.

    Raises:
        BrokenContractError: it does not.
    """
    gone = [name for layer in layers for name in layer.weights if graph.producer(name) is None]
    need(not gone, f"no node makes {', '.join(gone)}, the output of a linear layer")


def _shift(graph: Graph, layer: Layer) -> float | None:
    # Once channels are multiplied, each has a bound of its own.
    least = None if layer.multiplier is not None else least_output(graph, layer.source)
    if not least:
        return least
    usual = float(layer.statistics.sample.max(axis=1).mean())
    # Rounded as the graph holds it, so that the bias takes off just what is added.
    return float(np.float32(max(least, _SHIFT_SHARE * usual)))


def _corrected(layer: Layer, name: str, used: Matrix) -> Matrix:
    # What rounding the weights adds on average, and what the shift adds always, is a constant.
    lost = layer.statistics.mean.astype(np.float64) @ (layer.weights[name] - used)
    own = layer.biases[name]
    assert own is not None
    bias: Matrix = own + lost - (layer.shift or 0.0) * used.sum(axis=0)
    return bias
