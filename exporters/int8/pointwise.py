"""Make linear layers of convolutions over one token: SqueezeBERT's layers, and one of ConvBERT's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from bertonnx.exporters.int8.remedy import WITHOUT_INT8
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import Step, need
from bertonnx.runtime.rows import Array

__all__ = ["ConvolutionsToRows"]

_SWAP = [0, 2, 1]
_TO_TOKENS, _FROM_TOKENS = [0, 3, 1, 2], [0, 2, 3, 1]
"""(batch, heads, size, tokens) to (batch, tokens, heads, size), and back."""

_ONE_BY_ONE = ("Gelu", "FastGelu", "Relu", "Tanh")

_LEAST_SIDE = 16
"""A group with a side below this stays a convolution: as a product it would be no linear layer for INT8."""


class ConvolutionsToRows(Step):
    """Every convolution of kernel 1 over (batch, width, tokens) becomes a product of rows.

    One for each group, as other families have it, so that INT8 finds it (`exporters.onnxgraph.linear`).
    Transpositions between such layers go; where something else reads or makes the other layout, one stays.

    Requires: an fp32 graph after attention fusion. Ensures: the same outputs but for rounding; no such
    convolution is left.
    """

    name = "convolutions"
    remedy = WITHOUT_INT8

    def apply(self, graph: Graph) -> int:
        """Replace the convolutions; returns how many there were."""
        convolutions = [node for node in graph.nodes if _weights(graph, node)]
        rows = _Rows(graph)
        # Products first: what can be shortened is known by the rows that they make.
        for node in convolutions:
            rows.parts(node.output[0])
        for node in list(graph.nodes):
            if _transposes(node, _SWAP):
                rows.shorten(node, node.input[0])
            elif _merges_heads(graph, node):
                rows.shorten(node, _before(graph, node, 3))
        # Last: of these transpositions `finish` drops those that nothing reads any more.
        for node in convolutions:
            rows.swap_back(node)
        graph.finish()
        return len(convolutions)

    def ensures(self, graph: Graph) -> None:
        """None is left."""
        need(not any(_weights(graph, node) for node in graph.nodes), "a convolution over one token is left")


class _Rows:
    """Values of shape (batch, width, tokens) as (batch, tokens, width), in even parts along the width."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._made: dict[str, list[str]] = {}
        self._joined: dict[str, str] = {}

    def parts(self, value: str, count: int = 0) -> list[str]:
        """Return the rows of `value` in `count` parts; 0 for as many as they have."""
        made = self._known(value)
        if made is None:
            made = [self._graph.add("Transpose", [value], f"{value}/rows", attributes={"perm": _SWAP})]
            self._made[value] = made
        return made if count in (0, len(made)) else self._split(value, count)

    def shorten(self, node: onnx.NodeProto, value: str) -> None:
        """Let `node`, whose output is the rows of `value`, take them from here where they are known."""
        graph, output = self._graph, node.output[0]
        if self._known(value) is None or self._whole(value) == output:
            return
        # A Reshape to the shape that it has, which copies no data, keeps the name for what reads it.
        shape = graph.add_constant([0, 0, -1], np.int64, "same_rows")
        graph.remove(node)
        graph.add("Reshape", [self._whole(value), shape], output, output=output)

    def swap_back(self, node: onnx.NodeProto) -> None:
        """Make the convolution's own output of its rows, for those that still read it."""
        output = node.output[0]
        whole = self._whole(output)
        self._graph.remove(node)
        self._graph.add("Transpose", [whole], output, attributes={"perm": _SWAP}, output=output)

    def _known(self, value: str) -> list[str] | None:
        """Return the rows of `value` where they can be had without a transposition."""
        if value not in self._made:
            made = self._make(value)
            if made is None:
                return None
            self._made[value] = made
        return self._made[value]

    def _make(self, value: str) -> list[str] | None:
        graph, node = self._graph, self._graph.producer(value)
        if node is None:
            return None
        if _weights(graph, node):
            return self._products(node)
        if _transposes(node, _SWAP):
            return [str(node.input[0])]
        if _splits_heads(graph, node):
            return [_before(graph, node, 3)]
        if node.op_type in _ONE_BY_ONE and node.input[0] in self._made:
            made = self._made[node.input[0]]
            return [graph.add(node.op_type, [part], f"{value}/rows", domain=node.domain) for part in made]
        return self._sum(node) if node.op_type == "Add" else None

    def _sum(self, node: onnx.NodeProto) -> list[str] | None:
        terms = [self._term(value) for value in node.input]
        known = [term for term in terms if term is not None]
        return [self._graph.add("Add", known, f"{node.output[0]}/rows")] if len(known) == len(terms) else None

    def _term(self, value: str) -> str | None:
        constant = self._graph.constant(value)
        if constant is None:
            return None if self._known(value) is None else self._whole(value)
        # Anything but (width, 1) differs from token to token, or is no bias.
        if constant.shape[-1:] != (1,) or constant.size != max(constant.shape):
            return None
        return self._graph.add_constant(constant.reshape(-1), np.float32, f"{value}/rows")

    def _products(self, node: onnx.NodeProto) -> list[str]:
        graph, output = self._graph, node.output[0]
        weights = _weights(graph, node)
        sources = self.parts(node.input[0], len(weights))
        bias = graph.constant(node.input[2]) if len(node.input) > 2 else None
        offsets = [None] * len(weights) if bias is None else np.split(bias, len(weights))
        parts = []
        for source, weight, offset in zip(sources, weights, offsets, strict=True):
            name = graph.add_constant(weight, np.float32, f"{node.input[1]}/rows")
            part = graph.add("MatMul", [source, name], f"{output}/product")
            if offset is not None:
                added = graph.add_constant(offset, np.float32, f"{node.input[2]}/rows")
                part = graph.add("Add", [part, added], f"{output}/rows")
            parts.append(part)
        return parts

    def _whole(self, value: str) -> str:
        made = self._made[value]
        if len(made) == 1:
            return made[0]
        if value not in self._joined:
            self._joined[value] = self._graph.add("Concat", made, f"{value}/rows", attributes={"axis": -1})
        return self._joined[value]

    def _split(self, value: str, count: int) -> list[str]:
        """Return the rows of `value` in parts, made once; the layers of one input share them."""
        key = f"{value} in {count}"
        if key not in self._made:
            graph, whole = self._graph, self._whole(value)
            shape = graph.add_constant([0, 0, count, -1], np.int64, "split_width")
            apart = graph.add("Reshape", [whole, shape], f"{value}/apart")
            places = [graph.add_constant(place, np.int64, "place") for place in range(count)]
            self._made[key] = [
                graph.add("Gather", [apart, place], f"{value}/part", attributes={"axis": 2})
                for place in places
            ]
        return self._made[key]


def _weights(graph: Graph, node: onnx.NodeProto) -> list[Array]:
    """Return the weights of each group, (width, features); none where this is no such convolution."""
    weight = graph.constant(node.input[1]) if node.op_type == "Conv" else None
    if weight is None or weight.ndim != 3 or weight.shape[2] != 1 or weight.dtype != np.float32:
        return []
    attributes = _attributes(node)
    # With strides or padding, outputs would not stand for the tokens of their inputs.
    groups = attributes.get("group", 1)
    moved = attributes.get("strides", [1]) != [1] or any(attributes.get("pads", [0, 0]))
    if moved or min(weight.shape[1], weight.shape[0] // groups) < _LEAST_SIDE:
        return []
    return [part[:, :, 0].T.astype(np.float32) for part in np.split(weight, groups)]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _transposes(node: onnx.NodeProto | None, order: list[int]) -> bool:
    return node is not None and node.op_type == "Transpose" and _attributes(node).get("perm") == order


def _merges_heads(graph: Graph, node: onnx.NodeProto) -> bool:
    """Say whether this is the last of: split the width into heads, tokens first, heads together."""
    shape = graph.constant(node.input[1]) if node.op_type == "Reshape" else None
    if shape is None or shape.size != 3 or list(shape[:2]) != [0, 0]:
        return False
    before = graph.producer(node.input[0])
    return _transposes(before, _TO_TOKENS) and graph.producer(_before(graph, node, 2), "Reshape") is not None


def _splits_heads(graph: Graph, node: onnx.NodeProto) -> bool:
    """Say whether this is the last of: split rows into heads, tokens last, heads together."""
    before = graph.producer(node.input[0]) if node.op_type == "Reshape" else None
    if not _transposes(before, _FROM_TOKENS):
        return False
    first = graph.producer(_before(graph, node, 2), "Reshape")
    shape = graph.constant(first.input[1]) if first is not None else None
    return shape is not None and shape.size == 4 and list(shape[:2]) == [0, 0]


def _before(graph: Graph, node: onnx.NodeProto, steps: int) -> str:
    """Return the first input, going back so many nodes by their first inputs."""
    value = str(node.input[0])
    for _ in range(steps - 1):
        maker = graph.producer(value)
        assert maker is not None
        value = str(maker.input[0])
    return value
