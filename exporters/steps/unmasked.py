"""Let attention run without a mask where there is no padding.

Where every entry of `attention_mask` is 1, attention gets no bias and so runs ONNX Runtime's flash kernel; a
padded batch of another program still gets its bias. Both ways share the weights. A bias that is more than
padding (relative positions, a sliding window) is left alone: whether it is, is measured at the model's
longest input, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bertonnx.exporters.onnxgraph.attentions import BIAS, OPERATOR, require_attentions
from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph, reads
from bertonnx.exporters.onnxgraph.probe import open_values
from bertonnx.exporters.onnxgraph.step import Step

__all__ = ["Unmask"]


@dataclass(frozen=True)
class Unmask(Step):
    """Every attention whose bias is only padding gets a second way without it.

    Requires: fused attention, in float32 or in float16 (`exporters.fp16.half`).
    Ensures: the same outputs; both ways attend to the same queries, keys and values.

    Attributes:
        max_length: the longest input in tokens, at which a bias must be all zero.
    """

    name = "unmasked"
    max_length: int

    def requires(self, graph: Graph) -> None:
        """Attention is fused as `FuseAttention` does it."""
        require_attentions(graph)

    def apply(self, graph: Graph) -> int:
        """Branch; returns how many attentions got a second way."""
        graph.finish()  # nothing dead: what only a bias needs is told by who reads it
        nodes = [node for node in graph.nodes if node.op_type == OPERATOR and len(node.input) > BIAS]
        biases = {node.input[BIAS] for node in nodes}
        padding_only = _padding_only(graph, biases, self.max_length)
        chosen = [node for node in nodes if node.input[BIAS] in padding_only]
        if not chosen:
            return 0
        condition = _no_padding(graph)
        late = {
            bias: _compute_when_padded(graph, bias, condition, dtype)
            for bias, dtype in sorted(padding_only.items(), key=lambda item: item[0])
        }
        for node in chosen:
            bias = node.input[BIAS]
            _branch(graph, node, condition, late[bias], padding_only[bias])
        graph.finish()
        return len(chosen)

    def ensures(self, graph: Graph) -> None:
        """Both ways of an attention are one attention."""
        require_attentions(graph)


def _padding_only(graph: Graph, biases: set[str], max_length: int) -> dict[str, np.dtype[Any]]:
    """Return biases, with their types, that are zero when nothing is padded, whatever the text."""
    remaining = {bias: np.dtype(np.float32) for bias in biases if not _reads_text(graph, bias)}
    if not remaining:
        return {}
    asked = sorted(remaining)
    session = open_values(graph.model, asked)
    for length in {2, max_length}:
        # The text is nothing but zeros: ones would be no segment where a model has only one.
        feeds = {value.name: np.zeros((1, length), dtype=np.int64) for value in graph.proto.input}
        feeds["attention_mask"] = np.ones((1, length), dtype=np.int64)
        values = dict(zip(asked, session.run(asked, feeds), strict=True))
        remaining = {bias: values[bias].dtype for bias in remaining if not np.any(values[bias])}
    return remaining


def _reads_text(graph: Graph, value: str) -> bool:
    """Say whether a value depends on more of the inputs than the mask and their shape."""
    waiting = [value]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in ("input_ids", "token_type_ids"):
            return True
        node = graph.producer(name)
        if node is not None and node.op_type != "Shape":
            waiting.extend(reads(node))
    return False


def _no_padding(graph: Graph) -> str:
    least = graph.add("ReduceMin", ["attention_mask"], "mask_minimum", attributes={"keepdims": 0})
    one = graph.add_constant(1, np.int64, "mask_one")
    return graph.add("Equal", [least, one], "no_padding")


def _compute_when_padded(graph: Graph, bias: str, condition: str, dtype: np.dtype[Any]) -> str:
    """Move what only the bias needs behind the condition, so that it costs nothing without padding."""
    if any(reader.op_type != OPERATOR for reader in graph.readers(bias)):
        return bias  # another mask is built from it (ModernBERT's sliding window)
    chain = _exclusive(graph, bias)
    element = helper.np_dtype_to_tensor_dtype(dtype)
    padded = helper.make_graph(chain, "padded", [], [helper.make_tensor_value_info(bias, element, None)])
    nothing = f"{bias}/none"
    zero = helper.make_node(
        "Constant", [], [nothing], value=numpy_helper.from_array(np.zeros((1, 1, 1, 1), dtype=dtype))
    )
    unpadded = helper.make_graph(
        [zero], "unpadded", [], [helper.make_tensor_value_info(nothing, element, None)]
    )
    return graph.add(
        "If",
        [condition],
        f"{bias}/if_padded",
        attributes={"then_branch": unpadded, "else_branch": padded},
    )


def _exclusive(graph: Graph, value: str) -> list[onnx.NodeProto]:
    """Return copies of the nodes that nothing but `value` needs, in the order of the graph."""
    members: dict[str, onnx.NodeProto] = {}
    for node in reversed(graph.nodes):
        outputs = [output for output in node.output if output]
        readers = [reader for output in outputs for reader in graph.readers(output)]
        if value in outputs or (readers and all(reader.output[0] in members for reader in readers)):
            if any(graph.is_output(output) for output in outputs):
                continue
            members[node.output[0]] = node
    chain = []
    for node in reversed(members.values()):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        chain.append(copy)
    return chain


def _branch(graph: Graph, node: onnx.NodeProto, condition: str, bias: str, dtype: np.dtype[Any]) -> None:
    output, element = node.output[0], helper.np_dtype_to_tensor_dtype(dtype)
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    branches: dict[str, onnx.GraphProto] = {}
    for branch, inputs in (
        ("then_branch", list(node.input[:3])),
        ("else_branch", [*node.input[:BIAS], bias]),
    ):
        inner = f"{output}/{branch}"
        attention = helper.make_node(OPERATOR, inputs, [inner], domain=MS_DOMAIN, **attributes)
        branches[branch] = helper.make_graph(
            [attention], branch, [], [helper.make_tensor_value_info(inner, element, None)]
        )
    graph.remove(node)
    graph.add("If", [condition], output, attributes=dict(branches), output=output)
