"""How attention stands in a graph once it is fused: one operator, or one in each way of an `If`.

The operator's inputs are queries, keys, values, two that are never used here, and a bias
(`exporters.steps.attention` makes it); the ways are those with and without padding
(`exporters.steps.unmasked`). Operator:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import onnx

from bertonnx.exporters.onnxgraph.graph import Graph, branches
from bertonnx.exporters.onnxgraph.step import need

__all__ = ["BIAS", "OPERATOR", "attention_inputs", "attentions", "require_attentions"]

OPERATOR = "MultiHeadAttention"

BIAS = 5
"""Place of `attention_bias` among the operator's inputs."""


def attentions(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the attention of a node: itself, or the one that makes the output of each of its ways."""
    if node.op_type == OPERATOR:
        return [node]
    ways = list(branches(node))
    inner = [[child for child in way.node if child.op_type == OPERATOR] for way in ways]
    found = [child for children in inner for child in children]
    # A way may compute more than its attention; what leaves the node is then no attention's output.
    return found if [item.output[0] for item in found] == [way.output[0].name for way in ways] else []


def attention_inputs(graph: Graph, context: str) -> tuple[str, str, str] | None:
    """Return the names of queries, keys and values whose attention is `context`, or None."""
    node = graph.producer(context)
    found = {(item.input[0], item.input[1], item.input[2]) for item in attentions(node)} if node else set()
    return found.pop() if len(found) == 1 else None


def require_attentions(graph: Graph) -> None:
    """Make sure that every attention reads queries, keys, values, and at most a bias beside them.

    Raises:
        BrokenContractError: one does not.
    """
    for node in graph.nodes:
        found = attentions(node)
        for item in found:
            given = [bool(value) for value in item.input]
            known = given in ([True] * 3, [*[True] * 3, False, False, True])
            need(known, f"the attention {item.output[0]} reads more than queries, keys, values and a bias")
        same = len({tuple(item.input[:3]) for item in found}) <= 1
        need(same, f"the ways of {node.output[0]} attend to different things")
