"""Row-wise dynamic INT8: every token has a scale of its own, so no text depends on its neighbours.

Requires: an fp32 graph after attention fusion, and what calibration saw of it.
Ensures: the same inputs and outputs; linear layers as `MatMulIntegerToFloat` on INT8 weights, word
embeddings in INT8 with a scale for each row; all else (attention's products, norms, heads) in float32.

Of an input of linear layers, a row's scale is its largest absolute number / 127, and the row is
quantised around 128. GELU and ReLU have a known least number, -shift, so that their rows can use
all 255 steps: with a whole number `zero` for each row, and shift / zero as its scale, the shift
adds the same constant to every row, which the bias takes off again.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from bertonnx.exporters.int8.biases import spare_biases
from bertonnx.exporters.int8.calibration import Statistics
from bertonnx.exporters.int8.linear import Linear, Shared
from bertonnx.exporters.int8.pairsafe import quantize_weight
from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph
from bertonnx.runtime.rows import Array

__all__ = ["Layer", "layers_of", "least_output", "quantize_layers", "quantize_tables"]

_LEAST_OUTPUT = {"Gelu": 0.1701, "FastGelu": 0.1701, "Relu": 0.0}
"""How far below zero an activation can go; GELU's least is -0.16998, by tanh -0.17005."""

_ROW_LIMIT, _ROW_ZERO, _ROW_LEVELS = 127, 128, 255

_SHIFT_SHARE = 0.045
"""Least shift as part of a usual row's largest number. A row's scale is rounded up to shift / zero with
a whole `zero`: a small shift makes that coarse, a large one wastes steps; both lose 4% here."""
_TINY = 1e-30
"""Stands in for the scale of a row of zeros."""

_COARSER = 1.03
"""By how much a row's scale may grow for an addition that is spared (`exporters.int8.biases`)."""

_TABLE_ROWS = 1000
"""Smaller tables (positions, segments) stay float32: together under 2% of a model."""


@dataclass(eq=False)
class Layer:
    """Linear layers with one input, on their way to INT8.

    Attributes:
        source: name of the input.
        linears: the layers.
        statistics: of the input, as it will be quantised.
        weights: float32 of shape (width, features), by the layer's output.
        biases: float64 of shape (features,), by the layer's output.
        multiplier: what the input is multiplied with before the quantiser, (width,), or None.
        alpha: of the smoothing; None where there is none.
    """

    source: str
    linears: tuple[Linear, ...]
    statistics: Statistics
    weights: dict[str, Array] = field(default_factory=dict)
    biases: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    multiplier: Array | None = None
    alpha: float | None = None

    @property
    def width(self) -> int:
        """Length of a row of the input."""
        return len(self.statistics.largest)


def layers_of(graph: Graph, shared: Sequence[Shared], statistics: dict[str, Statistics]) -> list[Layer]:
    """Return the layers with their weights read from the graph."""
    layers = []
    for group in shared:
        layer = Layer(group.source, group.linears, statistics[group.source])
        for linear in group.linears:
            weight = graph.constant(linear.weight)
            assert weight is not None
            layer.weights[linear.output] = weight.astype(np.float32)
            bias = graph.constant(linear.bias) if linear.bias else None
            layer.biases[linear.output] = (
                np.zeros(weight.shape[1]) if bias is None else bias.astype(np.float64)
            )
        layers.append(layer)
    return layers


def least_output(graph: Graph, value: str) -> float | None:
    """Return how far below zero `value` can go where its producer bounds it, else None."""
    node = graph.producer(value)
    return None if node is None else _LEAST_OUTPUT.get(node.op_type)


def quantize_layers(graph: Graph, layers: Sequence[Layer], *, pair_safe: bool) -> None:
    """Replace the layers in the graph by their INT8 form.

    Args:
        graph: the graph to change.
        layers: all its layers, smoothed or not.
        pair_safe: whether weights keep to what can never saturate (`exporters.int8.pairsafe`).
    """
    shifts = {layer.source: _shift(graph, layer) for layer in layers}
    weights = {
        name: _Weight(*quantize_weight(weight, layer.statistics.sample, pair_safe=pair_safe))
        for layer in layers
        for name, weight in layer.weights.items()
    }
    by_output = {name: layer for layer in layers for name in layer.weights}

    def seen(name: str) -> npt.NDArray[np.float64]:
        """Return what the layer's input is multiplied with, the smoothing before the quantiser included."""
        multiplier, used = by_output[name].multiplier, weights[name].used
        return used if multiplier is None else used * multiplier[:, None]

    biases = spare_biases(
        graph,
        [Shared(layer.source, layer.linears) for layer in layers],
        seen,
        {
            name: _bias(layer, name, weights[name], shifts[layer.source] or 0.0)
            for name, layer in by_output.items()
        },
        bears=lambda name, added: _bears(by_output[name], added),
    )
    builder = _Builder(graph)
    for layer in layers:
        rows = builder.quantizer(layer, shifts[layer.source])
        for linear in layer.linears:
            builder.linear(linear, rows, weights[linear.output], biases[linear.output])


def quantize_tables(graph: Graph) -> int:
    """Store embedding tables of `_TABLE_ROWS` rows or more in INT8; return how many there were."""
    found = 0
    for node in list(graph.nodes):
        table = graph.constant(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.ndim != 2 or table.dtype != np.float32 or len(table) < _TABLE_ROWS:
            continue
        _replace_table(graph, node, table.astype(np.float32))
        found += 1
    return found


def _replace_table(graph: Graph, node: onnx.NodeProto, table: Array) -> None:
    name, output = node.input[0], node.output[0]
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / _ROW_LIMIT, _TINY).astype(np.float32)
    quantized = graph.add_constant(np.rint(table / scales), np.int8, f"{name}/int8")
    scales_name = graph.add_constant(scales, np.float32, f"{name}/scales")
    rows = graph.add("Gather", [quantized, node.input[1]], f"{output}/int8")
    factors = graph.add("Gather", [scales_name, node.input[1]], f"{output}/scale")
    numbers = graph.add("Cast", [rows], f"{output}/cast", attributes={"to": TensorProto.FLOAT})
    graph.remove(node)
    graph.add("Mul", [numbers, factors], output, output=output)


@dataclass(frozen=True)
class _Rows:
    """A quantised input: uint8 rows, their scales (..., 1), and their zero point."""

    values: str
    scales: str
    zero: int


@dataclass(frozen=True, eq=False)
class _Weight:
    """INT8 numbers, (width, features), and the scale of each column, float32 (features,)."""

    numbers: npt.NDArray[np.int8]
    scales: Array

    @property
    def used(self) -> npt.NDArray[np.float64]:
        """What the numbers stand for."""
        return self.numbers.astype(np.float64) * self.scales


def _shift(graph: Graph, layer: Layer) -> float | None:
    """Return what makes every number of the input positive; None where nothing bounds them from below."""
    least = None if layer.multiplier is not None else least_output(graph, layer.source)
    if not least:
        return least
    usual = float(layer.statistics.sample.max(axis=1).mean())
    return float(np.float32(max(least, _SHIFT_SHARE * usual)))


def _bears(layer: Layer, added: npt.NDArray[np.float64]) -> bool:
    """Say whether rows of the input stay about as finely quantised with an addition."""
    before = layer.statistics.sample
    after = before + (added if layer.multiplier is None else added * layer.multiplier)
    return bool(np.abs(after).max(axis=1).mean() <= _COARSER * np.abs(before).max(axis=1).mean())


def _bias(layer: Layer, name: str, weight: _Weight, shift: float) -> npt.NDArray[np.float64]:
    used = weight.used
    # What rounding the weights adds on average, and what the shift adds always, is a constant.
    lost = layer.statistics.mean.astype(np.float64) @ (layer.weights[name] - used)
    bias: npt.NDArray[np.float64] = layer.biases[name] + lost - shift * used.sum(axis=0)
    return bias


class _Builder:
    """Builds the nodes; what all quantisers share is made once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._token_zeros = ""

    def _number(self, value: float, hint: str) -> str:
        return self._graph.add_constant(value, np.float32, hint)

    def quantizer(self, layer: Layer, shift: float | None) -> _Rows:
        """Add what quantises a layer's input."""
        graph, source = self._graph, layer.source
        if layer.multiplier is not None:
            factors = graph.add_constant(layer.multiplier, np.float32, f"{source}/factors")
            source = graph.add("Mul", [source, factors], f"{source}/smooth")
        last = graph.add_constant([-1], np.int64, "minus_one")
        most = graph.add("ReduceMax", [source, last], f"{source}/most", attributes={"keepdims": 1})
        if shift is None:
            return self._around_zero(layer, source, most, last)
        return self._shifted(layer, most, last, shift) if shift else self._from_zero(layer, most, last)

    def _around_zero(self, layer: Layer, source: str, most: str, last: str) -> _Rows:
        graph = self._graph
        low = graph.add("ReduceMin", [source, last], f"{source}/low", attributes={"keepdims": 1})
        # Two reductions are faster than one over the absolute numbers, which would be written first.
        negated = graph.add("Neg", [low], f"{source}/negated")
        largest = graph.add("Max", [most, negated, self._number(_TINY, "tiny")], f"{source}/largest")
        scales = graph.add("Mul", [largest, self._number(1 / _ROW_LIMIT, "row_step")], f"{source}/scales")
        flat = graph.add("Reshape", [scales, last], f"{source}/flat_scales")
        zeros = self._zeros(flat, per_token=layer.statistics.per_token)
        return _Rows(self._quantize(source, flat, zeros, layer.width), scales, _ROW_ZERO)

    def _from_zero(self, layer: Layer, most: str, last: str) -> _Rows:
        graph, source = self._graph, layer.source
        safe = graph.add("Max", [most, self._number(_TINY, "tiny")], f"{source}/largest")
        scales = graph.add("Mul", [safe, self._number(1 / _ROW_LEVELS, "level")], f"{source}/scales")
        flat = graph.add("Reshape", [scales, last], f"{source}/flat_scales")
        return _Rows(self._quantize(source, flat, "", layer.width), scales, 0)

    def _shifted(self, layer: Layer, most: str, last: str, shift: float) -> _Rows:
        graph, source = self._graph, layer.source
        shift_name = self._number(shift, f"{source}/shift")
        span = graph.add("Add", [most, shift_name], f"{source}/span")
        levels = self._number(shift * _ROW_LEVELS, f"{source}/shift_levels")
        whole = graph.add("Floor", [graph.add("Div", [levels, span], f"{source}/exact")], f"{source}/whole")
        # Below 1 it is for a row over 11 times the usual, which is cut rather than left without a shift.
        bounds = [self._number(1.0, "least_zero"), self._number(_ROW_LEVELS, "most_zero")]
        zero = graph.add("Clip", [whole, *bounds], f"{source}/zero")
        scales = graph.add("Div", [shift_name, zero], f"{source}/scales")
        flat_zero = graph.add("Reshape", [zero, last], f"{source}/flat_zero")
        zeros = graph.add("Cast", [flat_zero], f"{source}/zeros", attributes={"to": TensorProto.UINT8})
        flat = graph.add("Reshape", [scales, last], f"{source}/flat_scales")
        return _Rows(self._quantize(source, flat, zeros, layer.width), scales, 0)

    def _quantize(self, source: str, flat_scales: str, zeros: str, width: int) -> str:
        """Quantise as (rows, width): the operator takes a scale for each row along the first axis only."""
        graph = self._graph
        shape = graph.add_constant([-1, width], np.int64, "flat_shape")
        flat = graph.add("Reshape", [source, shape], f"{source}/flat")
        inputs = [flat, flat_scales, *([zeros] if zeros else [])]
        rows = graph.add("QuantizeLinear", inputs, f"{source}/int8", attributes={"axis": 0})
        return graph.add("Reshape", [rows, graph.add("Shape", [source], f"{source}/shape")], f"{source}/rows")

    def _zeros(self, flat_scales: str, *, per_token: bool) -> str:
        """Return a zero point of 128 for each row; made once for all inputs of one row a token."""
        graph = self._graph
        if per_token and self._token_zeros:
            return self._token_zeros
        zero = graph.add_constant([_ROW_ZERO], np.uint8, "row_zero")
        count = graph.add("Shape", [flat_scales], f"{flat_scales}/count")
        zeros = graph.add("Expand", [zero, count], f"{flat_scales}/zeros")
        if per_token:
            self._token_zeros = zeros
        return zeros

    def linear(
        self, linear: Linear, rows: _Rows, weight: _Weight, bias: npt.NDArray[np.float64] | None
    ) -> None:
        """Put a layer's INT8 form in its place; None for `bias` adds nothing."""
        graph, name = self._graph, linear.output
        inputs = [
            rows.values,
            graph.add_constant(weight.numbers, np.int8, f"{linear.weight}/int8"),
            self._number(1.0, "no_scale"),
            graph.add_constant(weight.scales, np.float32, f"{linear.weight}/scales"),
            graph.add_constant(rows.zero, np.uint8, "input_zero"),
        ]
        product = graph.add("MatMulIntegerToFloat", inputs, f"{name}/product", domain=MS_DOMAIN)
        node = graph.producer(name)
        assert node is not None
        graph.remove(node)
        if bias is None:
            graph.add("Mul", [product, rows.scales], name, output=name)
            return
        scaled = graph.add("Mul", [product, rows.scales], f"{name}/scaled")
        graph.add("Add", [scaled, graph.add_constant(bias, np.float32, f"{name}/bias")], name, output=name)
