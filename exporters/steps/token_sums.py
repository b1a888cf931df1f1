"""Sum a text's token vectors by a product with its mask.

Some heads add token vectors up themselves: `(hidden * mask.unsqueeze(-1)).sum(dim=1)`. ONNX Runtime's sum
over tokens adds in another order when the batch is one text, so that a text's bits would depend on whether it
came alone; a product does not (as in `exporters.steps.heads.pool_mean`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto

from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import Step, need

__all__ = ["TokenSums"]

_TOKENS, _LAST = 1, 2


class TokenSums(Step):
    """Every sum over tokens of vectors that were multiplied with the mask becomes one product.

    Requires: nothing. Ensures: the same outputs, but for rounding; no such sum is left.
    """

    name = "token sums"

    def apply(self, graph: Graph) -> int:
        """Put products in their place; returns how many there were."""
        found = list(_masked_sums(graph))
        for node, mask, vectors in found:
            # The mask becomes (batch, 1, tokens), and its product with the vectors is (batch, 1, width).
            rows = graph.add("Transpose", [mask], "mask_rows", attributes={"perm": [0, _LAST, _TOKENS]})
            sums = graph.add("MatMul", [rows, vectors], "token_sums")
            if not _keeps_axis(node):
                axis = graph.add_constant([_TOKENS], np.int64, "token_axis")
                sums = graph.add("Squeeze", [sums, axis], "token_sum")
            graph.replace(node.output[0], sums)
        if found:
            graph.finish()
        return len(found)

    def ensures(self, graph: Graph) -> None:
        """None is left."""
        need(not any(_masked_sums(graph)), "a sum over masked tokens is left")


def _masked_sums(graph: Graph) -> Iterator[tuple[NodeProto, str, str]]:
    """Yield sums over tokens, with the mask (batch, tokens, 1) and the vectors (batch, tokens, width)."""
    for node in list(graph.nodes):
        if node.op_type != "ReduceSum" or len(node.input) < 2 or not _is(graph, node.input[1], _TOKENS):
            continue
        product = graph.producer(node.input[0], "Mul")
        if product is None:
            continue
        first, second = product.input
        for mask, vectors in ((second, first), (first, second)):
            if _is_column(graph, mask) and not _is_column(graph, vectors):
                yield node, mask, vectors
                break


def _is_column(graph: Graph, value: str) -> bool:
    """Tell whether a value is one number for each token, as `attention_mask.unsqueeze(-1)`."""
    node = graph.producer(value, "Cast", "Unsqueeze")
    while node is not None and node.op_type == "Cast":
        node = graph.producer(node.input[0], "Cast", "Unsqueeze")
    if node is None:
        return False
    source = node.input[0]
    while (cast := graph.producer(source, "Cast")) is not None:
        source = cast.input[0]
    is_mask = source in {given.name for given in graph.proto.input}
    return is_mask and (_is(graph, node.input[1], -1) or _is(graph, node.input[1], _LAST))


def _is(graph: Graph, value: str, number: int) -> bool:
    return graph.scalar(value) == number


def _keeps_axis(node: NodeProto) -> bool:
    return next((bool(item.i) for item in node.attribute if item.name == "keepdims"), True)
