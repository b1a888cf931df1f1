"""Fuse scaled dot-product attention into ONNX Runtime's `MultiHeadAttention`, whatever the family.

Attention is spelled out in the graph (`attn_implementation="eager"`). The pattern starts at the softmax and
needs nothing of how a family names, splits or rotates its queries and keys: those stay outside. Shapes are
not guessed from the graph, they are read off one small run. Operator: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from bertonnx.exporters.onnxgraph.attentions import OPERATOR, require_attentions
from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph
from bertonnx.exporters.onnxgraph.probe import shapes_of, tells_axes_apart
from bertonnx.exporters.onnxgraph.step import Step, need

__all__ = ["Attention", "FuseAttention"]


@dataclass(frozen=True)
class Attention:
    """One attention as spelled out in the graph.

    Attributes:
        query, key, value: names of values of shape (batch, heads, tokens, size); the key as it
            enters the product, (batch, heads, size, tokens).
        scale: factor on the products before the biases.
        biases: values added to the products, each with the factor on it.
        output: name of the product of probabilities and values, (batch, heads, tokens, size).
    """

    query: str
    key: str
    value: str
    scale: float
    biases: tuple[tuple[str, float], ...]
    output: str


@dataclass(frozen=True, eq=False)
class FuseAttention(Step):
    """Every `Softmax(Q K^T * scale + bias) V` becomes one node.

    Requires: inputs from which shapes can be read. Ensures: the same outputs but for rounding; the bias
    (padding mask, relative positions, sliding window) is the node's `attention_bias`.

    Attributes:
        feeds: inputs of a small run, int64 of shape (batch, tokens), without padding.
    """

    name = "attention"
    feeds: Mapping[str, npt.NDArray[np.int64]]

    def requires(self, graph: Graph) -> None:  # noqa: ARG002
        """Shapes of the small run tell texts from tokens."""
        need(tells_axes_apart(self.feeds), "the small run is padded, or of as many texts as tokens")

    def apply(self, graph: Graph) -> int:
        """Fuse; returns how many attentions there were."""
        found = [match for node in graph.nodes if (match := _match(graph, node)) is not None]
        if not found:
            return 0
        # One-element biases aside, everything is asked of one run.
        names = [name for match in found for name in (match.query, match.key, match.value)]
        names += [bias for match in found for bias, _ in match.biases]
        shapes = shapes_of(graph.model, self.feeds, names)
        fused = [match for match in found if _fits(match, shapes)]
        masks = _Masks(graph, shapes)
        for match in fused:
            _fuse(graph, match, shapes, masks)
        graph.finish()
        return len(fused)

    def ensures(self, graph: Graph) -> None:
        """What reads attention later finds it as it expects it."""
        require_attentions(graph)


def _match(graph: Graph, node: onnx.NodeProto) -> Attention | None:
    if node.op_type != "Softmax":
        return None
    reader = graph.only_reader(node.output[0], "MatMul")
    if reader is None or reader.input[0] != node.output[0]:
        return None
    scores = _scores(graph, node.input[0], 1.0, ())
    if scores is None:
        return None
    product, scale, biases = scores
    query, query_scale = _unscaled(graph, product.input[0])
    key, key_scale = _unscaled(graph, product.input[1])
    return Attention(query, key, reader.input[1], scale * query_scale * key_scale, biases, reader.output[0])


def _scores(
    graph: Graph, value: str, factor: float, biases: tuple[tuple[str, float], ...]
) -> tuple[onnx.NodeProto, float, tuple[tuple[str, float], ...]] | None:
    """Walk up from the softmax to the product of queries and keys; return it, its factor, the biases."""
    node = graph.producer(value, "MatMul", "Mul", "Div", "Add", "Where")
    # Who asks only for the scores' shape (to expand a mask to it) does not need the scores.
    readers = [reader for reader in graph.readers(value) if reader.op_type != "Shape"]
    if node is None or len(readers) != 1:
        return None
    if node.op_type == "MatMul":
        weights = [graph.constant(name) is not None for name in node.input]
        return None if any(weights) else (node, factor, biases)
    if node.op_type in ("Mul", "Div"):
        scaled = _scaled(graph, node)
        return None if scaled is None else _scores(graph, scaled[0], factor * scaled[1], biases)
    if node.op_type == "Where":
        return _masked_scores(graph, node, factor, biases)
    for inner, bias in (tuple(node.input), tuple(reversed(node.input))):
        found = _scores(graph, inner, factor, (*biases, (bias, factor)))
        if found is not None:
            return found
    return None


def _masked_scores(
    graph: Graph, node: onnx.NodeProto, factor: float, biases: tuple[tuple[str, float], ...]
) -> tuple[onnx.NodeProto, float, tuple[tuple[str, float], ...]] | None:
    """Read `Where(mask, -huge, scores)` as scores plus a bias of -huge or 0: equal after the softmax."""
    condition, first, second = node.input
    for fill, inner, first_is_fill in ((first, second, True), (second, first, False)):
        number = graph.scalar(fill)
        # Less than -1e4 is what makes masking and adding the same in float32's softmax.
        if number is None or number > -1e4:
            continue
        found = _scores(graph, inner, factor, biases)
        if found is None:
            continue
        # An infinite bias would give NaN where it meets another; the lowest number does not.
        low = graph.add_constant(max(number, float(np.finfo(np.float32).min)), np.float32, "mask_fill")
        zero = graph.add_constant(0.0, np.float32, "mask_keep")
        branches = [low, zero] if first_is_fill else [zero, low]
        bias = graph.add("Where", [_unexpanded(graph, condition), *branches], "mask_bias")
        return found[0], found[1], (*found[2], (bias, 1.0))
    return None


def _unexpanded(graph: Graph, condition: str) -> str:
    """Step over an expansion of the mask to the shape of the scores; the operator broadcasts itself."""
    expand = graph.producer(condition, "Expand")
    if expand is None or graph.producer(expand.input[1], "Shape") is None:
        return condition
    return str(expand.input[0])


def _scaled(graph: Graph, node: onnx.NodeProto) -> tuple[str, float] | None:
    """Return the value and the factor of a product or quotient with a number."""
    right = graph.scalar(node.input[1])
    if right is not None:
        return node.input[0], right if node.op_type == "Mul" else 1.0 / right
    left = graph.scalar(node.input[0])
    return (node.input[1], left) if left is not None and node.op_type == "Mul" else None


def _unscaled(graph: Graph, value: str) -> tuple[str, float]:
    """Step over numbers multiplied onto a value, so that the operator's own scale takes them in."""
    node = graph.producer(value, "Mul", "Div")
    scaled = None if node is None else _scaled(graph, node)
    if scaled is None:
        return value, 1.0
    inner, factor = _unscaled(graph, scaled[0])
    return inner, factor * scaled[1]


def _fits(match: Attention, shapes: dict[str, tuple[int, ...]]) -> bool:
    query, key, value = (shapes[name] for name in (match.query, match.key, match.value))
    return (
        len(query) == len(key) == len(value) == 4
        and query[:2] == key[:2] == value[:2]
        and query[3] == key[2]
        and key[3] == value[2]
        and all(len(shapes[bias]) == 4 for bias, _ in match.biases)
    )


class _Masks:
    """Biases in the shape that the operator takes: (batch or 1, heads or 1, tokens, tokens)."""

    def __init__(self, graph: Graph, shapes: dict[str, tuple[int, ...]]) -> None:
        self._graph = graph
        self._shapes = shapes
        self._made: dict[tuple[tuple[str, float], ...], str] = {}

    def bias(self, terms: tuple[tuple[str, float], ...], query: str) -> str:
        """Return the sum of the terms, made once for all layers that share them; "" for none."""
        terms = tuple(sorted(terms))
        if terms and terms not in self._made:
            self._made[terms] = self._sum(terms, query)
        return self._made.get(terms, "")

    def _sum(self, terms: tuple[tuple[str, float], ...], query: str) -> str:
        graph = self._graph
        total = ""
        for name, factor in terms:
            if factor != 1.0:
                name = graph.add("Mul", [name, graph.add_constant(factor, np.float32, "bias_scale")], "bias")
            total = graph.add("Add", [total, name], "attention_bias") if total else name
        if any(self._shapes[name][2] == self._shapes[query][2] for name, _ in terms):
            return total
        # The operator wants a row for every query, where Hugging Face's mask has one for all.
        length = graph.add("Shape", [query], "length", attributes={"start": 2, "end": 3})
        one = graph.add_constant([1], np.int64, "one")
        shape = graph.add("Concat", [one, one, length, one], "bias_shape", attributes={"axis": 0})
        return graph.add("Expand", [total, shape], "attention_bias")


def _fuse(graph: Graph, match: Attention, shapes: dict[str, tuple[int, ...]], masks: _Masks) -> None:
    heads, width = shapes[match.value][1], shapes[match.value][1] * shapes[match.value][3]
    inputs = [
        _tokens_first(graph, match.query, (0, 2, 1, 3)),
        _tokens_first(graph, match.key, (0, 3, 1, 2)),
        _tokens_first(graph, match.value, (0, 2, 1, 3)),
    ]
    bias = masks.bias(match.biases, match.query)
    if bias:
        inputs += ["", "", bias]
    fused = graph.add(
        OPERATOR,
        inputs,
        f"{match.output}/attention",
        domain=MS_DOMAIN,
        attributes={"num_heads": heads, "scale": float(match.scale)},
    )
    _deliver(graph, match.output, fused, heads, width)


def _tokens_first(graph: Graph, value: str, order: tuple[int, ...]) -> str:
    """Return `value` as (batch, tokens, width), given the order that puts tokens before heads.

    Where the family made its heads with a reshape and a transpose, both vanish.
    """
    node = graph.producer(value, "Transpose")
    base = value
    while node is not None:
        inner = [int(axis) for axis in node.attribute[0].ints]
        order = tuple(inner[axis] for axis in order)
        base = node.input[0]
        node = graph.producer(base, "Transpose")
    reshape = graph.producer(base, "Reshape")
    if order == (0, 1, 2, 3) and reshape is not None and _splits_last(graph, reshape):
        return str(reshape.input[0])
    if order != (0, 1, 2, 3):
        base = graph.add("Transpose", [base], f"{value}/tokens_first", attributes={"perm": list(order)})
    shape = graph.add_constant([0, 0, -1], np.int64, "merge_heads")
    return graph.add("Reshape", [base, shape], f"{value}/merged")


def _splits_last(graph: Graph, reshape: onnx.NodeProto) -> bool:
    """Say whether a reshape to four dimensions comes from (batch, tokens, width)."""
    source = graph.producer(reshape.input[0])
    # (batch, tokens, width) is what a linear layer puts out: a product with a weight, and its bias.
    while source is not None and source.op_type in ("Add", "Mul", "Div"):
        parts = [name for name in source.input if graph.constant(name) is None]
        source = graph.producer(parts[0]) if len(parts) == 1 else None
    if source is None or source.op_type != "MatMul":
        return False
    weight = graph.constant(source.input[1])
    return weight is not None and weight.ndim == 2


def _deliver(graph: Graph, old: str, fused: str, heads: int, width: int) -> None:
    """Hand (batch, tokens, width) to what read (batch, heads, tokens, size)."""
    transpose = graph.only_reader(old, "Transpose")
    if transpose is not None and list(transpose.attribute[0].ints) == [0, 2, 1, 3]:
        reshape = graph.only_reader(transpose.output[0], "Reshape")
        # Readers of the shape alone (batch and tokens) are not counted: they stay on the transpose.
        if reshape is None:
            reshape = _merging(graph, transpose.output[0])
        if reshape is not None and _merges(graph, reshape, width):
            graph.replace(reshape.output[0], fused)
            if not graph.readers(transpose.output[0]) or not _outlives(graph, transpose, reshape):
                return
    shape = graph.add_constant([0, 0, heads, -1], np.int64, "split_heads")
    split = graph.add("Reshape", [fused, shape], f"{old}/split")
    graph.replace(
        old, graph.add("Transpose", [split], f"{old}/heads_first", attributes={"perm": [0, 2, 1, 3]})
    )


def _merging(graph: Graph, value: str) -> onnx.NodeProto | None:
    readers = [node for node in graph.readers(value) if node.op_type == "Reshape" and node.input[0] == value]
    return readers[0] if len(readers) == 1 else None


def _merges(graph: Graph, reshape: onnx.NodeProto, width: int) -> bool:
    target = graph.constant(reshape.input[1])
    if target is not None:
        return target.size == 3 and int(target.ravel()[-1]) in (width, -1)
    concat = graph.producer(reshape.input[1], "Concat")
    return concat is not None and len(concat.input) == 3 and graph.scalar(concat.input[2]) in (width, -1)


def _outlives(graph: Graph, transpose: onnx.NodeProto, reshape: onnx.NodeProto) -> bool:
    """Say whether something but the shape of the bypassed reshape still reads the transpose."""
    readers = [node for node in graph.readers(transpose.output[0]) if node is not reshape]
    return bool(readers)
