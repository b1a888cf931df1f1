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

from bertonnx.exporters.calibration import Statistics
from bertonnx.exporters.graph import MS_DOMAIN, Graph
from bertonnx.exporters.linear import Linear, Shared
from bertonnx.exporters.pairsafe import quantize_weight
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
        pair_safe: whether weights keep to what can never saturate (`exporters.pairsafe`).
    """
    builder = _Builder(graph, pair_safe=pair_safe)
    for layer in layers:
        builder.replace(layer)


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
    """A quantised input: uint8 rows, their scales (..., 1), and how they were quantised."""

    values: str
    scales: str
    zero: int
    shift: float


def _shift(layer: Layer, least: float) -> float:
    usual = float(layer.statistics.sample.max(axis=1).mean())
    return float(np.float32(max(least, _SHIFT_SHARE * usual)))


class _Builder:
    """Builds the nodes; what all quantisers share is made once."""

    def __init__(self, graph: Graph, *, pair_safe: bool) -> None:
        self._graph = graph
        self._pair_safe = pair_safe
        self._token_zeros = ""

    def replace(self, layer: Layer) -> None:
        rows = self._quantizer(layer)
        for linear in layer.linears:
            self._linear(layer, linear, rows)

    def _number(self, value: float, hint: str) -> str:
        return self._graph.add_constant(value, np.float32, hint)

    def _quantizer(self, layer: Layer) -> _Rows:
        graph, source = self._graph, layer.source
        least = least_output(graph, source)
        if layer.multiplier is not None:
            factors = graph.add_constant(layer.multiplier, np.float32, f"{source}/factors")
            source, least = graph.add("Mul", [source, factors], f"{source}/smooth"), None
        last = graph.add_constant([-1], np.int64, "minus_one")
        most = graph.add("ReduceMax", [source, last], f"{source}/most", attributes={"keepdims": 1})
        if least is None:
            return self._around_zero(layer, source, most, last)
        return self._from_zero(layer, most, last, least)

    def _around_zero(self, layer: Layer, source: str, most: str, last: str) -> _Rows:
        graph = self._graph
        low = graph.add("ReduceMin", [source, last], f"{source}/low", attributes={"keepdims": 1})
        # Two reductions are faster than one over the absolute numbers, which would be written first.
        negated = graph.add("Neg", [low], f"{source}/negated")
        largest = graph.add("Max", [most, negated, self._number(_TINY, "tiny")], f"{source}/largest")
        scales = graph.add("Mul", [largest, self._number(1 / _ROW_LIMIT, "row_step")], f"{source}/scales")
        flat = graph.add("Reshape", [scales, last], f"{source}/flat_scales")
        zeros = self._zeros(flat, per_token=layer.statistics.per_token)
        return _Rows(self._quantize(source, flat, zeros, layer.width), scales, _ROW_ZERO, 0.0)

    def _from_zero(self, layer: Layer, most: str, last: str, least: float) -> _Rows:
        if least > 0.0:
            return self._shifted(layer, most, last, _shift(layer, least))
        graph, source = self._graph, layer.source
        safe = graph.add("Max", [most, self._number(_TINY, "tiny")], f"{source}/largest")
        scales = graph.add("Mul", [safe, self._number(1 / _ROW_LEVELS, "level")], f"{source}/scales")
        flat = graph.add("Reshape", [scales, last], f"{source}/flat_scales")
        return _Rows(self._quantize(source, flat, "", layer.width), scales, 0, 0.0)

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
        return _Rows(self._quantize(source, flat, zeros, layer.width), scales, 0, shift)

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

    def _linear(self, layer: Layer, linear: Linear, rows: _Rows) -> None:
        graph, name = self._graph, linear.output
        weight = layer.weights[name]
        quantized, scales = quantize_weight(weight, layer.statistics.sample, pair_safe=self._pair_safe)
        used = quantized.astype(np.float64) * scales
        # What rounding the weights adds on average, and what the shift adds always, is a constant.
        lost = layer.statistics.mean.astype(np.float64) @ (weight - used)
        bias = layer.biases[name] + lost - rows.shift * used.sum(axis=0)
        inputs = [
            rows.values,
            graph.add_constant(quantized, np.int8, f"{linear.weight}/int8"),
            self._number(1.0, "no_scale"),
            graph.add_constant(scales, np.float32, f"{linear.weight}/scales"),
            graph.add_constant(rows.zero, np.uint8, "input_zero"),
        ]
        product = graph.add("MatMulIntegerToFloat", inputs, f"{name}/product", domain=MS_DOMAIN)
        scaled = graph.add("Mul", [product, rows.scales], f"{name}/scaled")
        node = graph.producer(name)
        assert node is not None
        graph.remove(node)
        graph.add("Add", [scaled, graph.add_constant(bias, np.float32, f"{name}/bias")], name, output=name)
