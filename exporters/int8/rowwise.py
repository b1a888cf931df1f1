"""Row-wise dynamic INT8: every token has a scale of its own, so no text depends on its neighbors.

Linear layers become `MatMulIntegerToFloat` on INT8 weights; all else (attention's products, norms, heads)
stays in float32. How rows and weights are rounded: `exporters.int8.layers`.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from bertonnx.exporters.int8.layers import Layer, Matrix, Rounded, require_layers
from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph
from bertonnx.exporters.onnxgraph.linear import Linear
from bertonnx.exporters.onnxgraph.step import Step, need

__all__ = ["PutRowwise"]

_ROW_LIMIT, _ROW_ZERO, _ROW_LEVELS = 127, 128, 255

_TINY = 1e-30
"""Stands in for the scale of a row of zeros."""

_PRODUCT = "MatMulIntegerToFloat"


@dataclass(frozen=True, eq=False)
class PutRowwise(Step):
    """Every linear layer takes its INT8 form.

    Requires: layers with rounded weights (`exporters.int8.layers`). Ensures: outputs near what they were;
    each layer as one product of whole numbers.

    Attributes:
        layers: all of the graph.
    """

    name = "rowwise"
    remedy = WITHOUT_INT8
    layers: Sequence[Layer]

    def requires(self, graph: Graph) -> None:
        """The graph makes the outputs of all layers, and their weights are rounded."""
        require_layers(graph, self.layers)
        rounded = all(layer.rounded.keys() == layer.weights.keys() for layer in self.layers)
        need(rounded, "weights are not rounded yet")

    def apply(self, graph: Graph) -> int:
        """Replace the layers; returns how many there were."""
        builder = _Builder(graph)
        for layer in self.layers:
            rows = builder.quantizer(layer)
            for linear in layer.linears:
                name = linear.output
                builder.linear(linear, rows, layer.rounded[name], layer.biases[name])
        graph.finish()
        return sum(len(layer.linears) for layer in self.layers)

    def ensures(self, graph: Graph) -> None:
        """There is one product of whole numbers for each layer."""
        products = sum(node.op_type == _PRODUCT for node in graph.nodes)
        layers = sum(graph.producer(name) is not None for layer in self.layers for name in layer.weights)
        need(products == layers, f"{products} products of whole numbers stand for {layers} linear layers")


@dataclass(frozen=True)
class _Rows:
    """A quantized input: uint8 rows, their scales (..., 1), and their zero point."""

    values: str
    scales: str
    zero: int


class _Builder:
    """Builds the nodes; what all quantizers share is made once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._token_zeros = ""

    def _number(self, value: float, hint: str) -> str:
        return self._graph.add_constant(value, np.float32, hint)

    def quantizer(self, layer: Layer) -> _Rows:
        """Add what quantizes a layer's input."""
        graph, source = self._graph, layer.source
        if layer.multiplier is not None:
            factors = graph.add_constant(layer.multiplier, np.float32, f"{source}/factors")
            source = graph.add("Mul", [source, factors], f"{source}/smooth")
        last = graph.add_constant([-1], np.int64, "minus_one")
        most = graph.add("ReduceMax", [source, last], f"{source}/most", attributes={"keepdims": 1})
        if layer.shift is None:
            return self._around_zero(layer, source, most, last)
        if layer.shift == 0.0:
            return self._from_zero(layer, most, last)
        return self._shifted(layer, most, last, layer.shift)

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
        # Without a zero point QuantizeLinear makes uint8 from 0, as is wanted here.
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
        """Quantize as (rows, width): the operator takes a scale for each row along the first axis only."""
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
        # QuantizeLinear wants as many zero points as scales, though they are all the same.
        zero = graph.add_constant([_ROW_ZERO], np.uint8, "row_zero")
        count = graph.add("Shape", [flat_scales], f"{flat_scales}/count")
        zeros = graph.add("Expand", [zero, count], f"{flat_scales}/zeros")
        if per_token:
            self._token_zeros = zeros
        return zeros

    def linear(self, linear: Linear, rows: _Rows, weight: Rounded, bias: Matrix | None) -> None:
        """Put a layer's INT8 form in its place; None for `bias` adds nothing."""
        graph, name = self._graph, linear.output
        # The operator takes one scale for its whole input, so that each row's own comes after it.
        inputs = [
            rows.values,
            graph.add_constant(weight.numbers, np.int8, f"{linear.weight}/int8"),
            self._number(1.0, "no_scale"),
            graph.add_constant(weight.scales, np.float32, f"{linear.weight}/scales"),
            graph.add_constant(rows.zero, np.uint8, "input_zero"),
        ]
        product = graph.add(_PRODUCT, inputs, f"{name}/product", domain=MS_DOMAIN)
        node = graph.producer(name)
        assert node is not None
        graph.remove(node)
        if bias is None:
            graph.add("Mul", [product, rows.scales], name, output=name)
            return
        scaled = graph.add("Mul", [product, rows.scales], f"{name}/scaled")
        graph.add("Add", [scaled, graph.add_constant(bias, np.float32, f"{name}/bias")], name, output=name)
