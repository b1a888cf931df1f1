"""Compute only what the head reads: the first token's row of the last layer.

Where a head reads only the
first token (most classifiers), the last layer's queries, its attention, its output projection and
its feed-forward are computed for that token alone; keys and values still for all. For a model of
six layers that is about a seventh of the work, and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from bertonnx.exporters.onnxgraph.attentions import BIAS, OPERATOR, attentions, require_attentions
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import shapes_of, tells_axes_apart
from bertonnx.exporters.onnxgraph.step import Step, need

__all__ = ["KeepFirstToken"]

_PER_TOKEN = frozenset(
    {"Gelu", "FastGelu", "Relu", "Tanh", "Erf", "Sigmoid", "Identity", "LayerNormalization", "MatMul"}
    | {"Add", "Sub", "Mul", "Div"}
)
"""Operators that treat every token by itself, under the conditions of `_per_token_inputs`."""


@dataclass(frozen=True, eq=False)
class KeepFirstToken(Step):
    """The last layer is computed for the first token alone, where no head reads another.

    Requires: fused attention, in one way or in two (`exporters.steps.unmasked`), and inputs from which shapes
    can be read. Ensures: the same outputs but for rounding; attention stands as it did.

    Attributes:
        feeds: inputs of a small run, int64 of shape (batch, tokens), without padding.
    """

    name = "first token"
    feeds: Mapping[str, npt.NDArray[np.int64]]

    def requires(self, graph: Graph) -> None:
        """Attention is fused as `FuseAttention` does it, and shapes tell texts from tokens."""
        require_attentions(graph)
        need(tells_axes_apart(self.feeds), "the small run is padded, or of as many texts as tokens")

    def apply(self, graph: Graph) -> int:
        """Rebuild the last layer; returns how many attentions were made smaller."""
        graph.finish()  # nothing dead: a dead reader of all tokens would keep them
        heads = [node for node in graph.nodes if _takes_first(graph, node)]
        if not heads:
            return 0
        tokens = _token_values(graph, self.feeds)
        demanded = _first_only(graph, heads, tokens)
        smaller = [node for node in graph.nodes if node.output[0] in demanded and _query(node) is not None]
        # Without an attention there is nothing to save but a few rows of the head.
        if not smaller:
            return 0
        rebuilt = _rebuild(graph, demanded, tokens)
        for head in heads:
            graph.set_input(head, 0, rebuilt.get(head.input[0], head.input[0]))
        graph.finish()
        return len(smaller)

    def ensures(self, graph: Graph) -> None:
        """The rebuilt attention reads what attention reads."""
        require_attentions(graph)


def _takes_first(graph: Graph, node: onnx.NodeProto) -> bool:
    """Say whether a node is `hidden[:, 0]`."""
    if node.op_type != "Gather" or all(item.name != "axis" or item.i != 1 for item in node.attribute):
        return False
    index = graph.constant(node.input[1])
    return index is not None and index.shape == () and int(index) == 0


def _token_values(graph: Graph, feeds: Mapping[str, npt.NDArray[np.int64]]) -> set[str]:
    """Return the names of the values of shape (batch, tokens, width)."""
    made = [value for node in graph.nodes for value in node.output if value]
    leading = next(iter(feeds.values())).shape
    shapes = shapes_of(graph.model, feeds, made)
    return {name for name, shape in shapes.items() if len(shape) == 3 and shape[:2] == leading}


def _first_only(graph: Graph, heads: list[onnx.NodeProto], tokens: set[str]) -> set[str]:
    """Return the values of which nothing but the first token is ever read."""
    demanded: set[str] = set()
    head_names = {head.output[0] for head in heads}
    for node in reversed(graph.nodes):
        for value in node.output:
            readers = graph.readers(value)
            if value not in tokens or graph.is_output(value) or not readers:
                continue
            if all(
                reader.output[0] in head_names
                or (reader.output[0] in demanded and value in _per_token_inputs(graph, reader, tokens))
                for reader in readers
            ):
                demanded.add(value)
    return demanded


def _per_token_inputs(graph: Graph, node: onnx.NodeProto, tokens: set[str]) -> set[str]:
    """Return the inputs of which a node needs, for the first token of its output, the first token."""
    query = _query(node)
    if query is not None:
        return {query} - _keys_and_values(node)
    if node.op_type not in _PER_TOKEN:
        return set()
    inputs = [value for value in node.input if value]
    others = [graph.constant(value) for value in inputs if value not in tokens]
    if any(other is None or (other.ndim > 2 and other.shape[-2] != 1) for other in others):
        return set()
    if node.op_type == "MatMul" and (len(others) != 1 or inputs[0] not in tokens):
        return set()
    if node.op_type == "LayerNormalization" and any(
        item.name == "axis" and item.i not in (-1, 2) for item in node.attribute
    ):
        return set()
    # A (tokens, width) constant, such as a table of positions, would not follow the first token.
    if node.op_type in ("Add", "Sub", "Mul", "Div") and any(o is not None and o.ndim == 2 for o in others):
        return set()
    return {value for value in inputs if value in tokens}


def _query(node: onnx.NodeProto) -> str | None:
    found = attentions(node)
    return str(found[0].input[0]) if found else None


def _keys_and_values(node: onnx.NodeProto) -> set[str]:
    return {value for attention in attentions(node) for value in attention.input[1:]}


def _rebuild(graph: Graph, demanded: set[str], tokens: set[str]) -> dict[str, str]:
    """Add a copy for the first token of every node in `demanded`; return the new names by the old."""
    rebuilt: dict[str, str] = {}
    index = graph.add_constant([0], np.int64, "first_token")

    def first(value: str) -> str:
        """Return the first token's row of a value, taken out of the whole where it was not rebuilt."""
        if value not in rebuilt:
            rebuilt[value] = graph.add("Gather", [value, index], f"{value}/first", attributes={"axis": 1})
        return rebuilt[value]

    for node in [node for node in graph.nodes if node.output[0] in demanded]:
        query = _query(node)
        if not _per_token_inputs(graph, node, tokens):
            continue
        if query is None:
            inputs = [first(value) if value in tokens else value for value in node.input]
            rebuilt[node.output[0]] = _copied(graph, node, inputs)
        else:
            rebuilt[node.output[0]] = _smaller_attention(graph, node, first(query), index)
    return rebuilt


def _copied(graph: Graph, node: onnx.NodeProto, inputs: list[str]) -> str:
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return graph.add(
        node.op_type, inputs, f"{node.output[0]}/first", attributes=attributes, domain=node.domain
    )


def _smaller_attention(graph: Graph, node: onnx.NodeProto, query: str, index: str) -> str:
    """Add an attention with one query a text, and the bias of that query."""
    if node.op_type == OPERATOR:
        inputs = [query, *node.input[1:]]
        if len(inputs) > BIAS and inputs[BIAS]:
            inputs[BIAS] = graph.add(
                "Gather", [inputs[BIAS], index], f"{inputs[BIAS]}/first", attributes={"axis": 2}
            )
        return _copied(graph, node, inputs)
    branches = {item.name: _smaller_branch(item.g, query, index) for item in node.attribute}
    return graph.add("If", list(node.input), f"{node.output[0]}/first", attributes=dict(branches))


def _smaller_branch(branch: onnx.GraphProto, query: str, index: str) -> onnx.GraphProto:
    smaller = onnx.GraphProto()
    smaller.CopyFrom(branch)
    attention = next(node for node in smaller.node if node.op_type == OPERATOR)
    output = f"{attention.output[0]}/first"
    attention.input[0] = query
    attention.output[0] = smaller.output[0].name = output
    if len(attention.input) > BIAS:
        row = onnx.helper.make_node("Gather", [attention.input[BIAS], index], [f"{output}/bias"], axis=2)
        attention.input[BIAS] = row.output[0]
        smaller.node.insert(0, row)
    return smaller
