"""fp16: weights and arithmetic in half precision, inputs and outputs unchanged. Meant for CUDA.

Inputs and outputs stay as they are (float32); weights become float16, and every value does but those that
would overflow or lose what matters there:

- sums of squares and exponentials: softmax, powers, roots, reductions. Layer normalization takes and
  gives float16 and computes its statistics in float32 itself (`stash_type` 1);
- what follows an output of the graph: pooling over any number of tokens, normalization, scores; and
  the last sums of logits, which BigBird masks with a million;
- what its name says (`onnxgraph.graph.FULL`);
- what ends in an angle, a logarithm or an integer: positions, of which float16 knows 2,048 apart.

Masks of -3.4e38 become -65504, the lowest number of float16: of infinities, sums make NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from bertonnx.exporters.onnxgraph.attentions import OPERATOR
from bertonnx.exporters.onnxgraph.graph import FULL, Graph, branches, reads
from bertonnx.exporters.onnxgraph.probe import float_values
from bertonnx.exporters.onnxgraph.step import Step, need, run
from bertonnx.wording import Message, Option

__all__ = ["RoundToHalf", "ToHalf", "round_to_half"]

_LARGEST = float(np.finfo(np.float16).max)

_STAYS_FLOAT32 = frozenset(
    {"Softmax", "LogSoftmax", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Pow", "Sqrt"}
    | {"Exp", "Log", "CumSum", "Range", "Constant"}
)
"""`Constant`: what is left of them holds no tensor (`_constants_to_weights`)."""

_LAST_SUMS = frozenset(
    {"Add", "Sub", "Mul", "Div", "Where", "Split", "Squeeze", "Unsqueeze", "Reshape", "Cast"}
)
_FULL_INPUT = frozenset({"Sin", "Cos", "Log", "Ceil", "Floor", "Round"})
"""Operators that need all digits of their input: they and all that leads to them stay float32."""


class ToHalf(Step):
    """Arithmetic in half precision.

    Requires: an fp32 graph without branches around its attention (before `exporters.steps.unmasked`), for
    what holds a branch stays float32. Ensures: inputs and outputs of the types they had.
    """

    name = "fp16"
    remedy = Message("export without {option}", option=Option("precision", "fp16"))

    def requires(self, graph: Graph) -> None:
        """No attention stands in a branch."""
        hidden = (
            child.op_type == OPERATOR for node in graph.nodes for way in branches(node) for child in way.node
        )
        need(not any(hidden), "attention stands in a branch, which would stay float32")

    def apply(self, graph: Graph) -> int:
        """Convert; returns how many nodes compute in float16."""
        return _Conversion(graph, emulate=False).run()


class RoundToHalf(ToHalf):
    """Arithmetic in float32, with every value rounded as `ToHalf` holds it.

    ONNX Runtime's CPU has no float16 kernel for most operators, and computes whole stretches of such
    a graph in float32: what overflows on a GPU does not there. Rounded in so many words, it does.

    Requires: as `ToHalf`. Ensures: nothing in float16 but between two casts.
    """

    name = "fp16 rounding"

    def apply(self, graph: Graph) -> int:
        """Add what rounds; returns how many nodes are rounded."""
        return _Conversion(graph, emulate=True).run()

    def ensures(self, graph: Graph) -> None:
        """Weights are float32, rounded."""
        half = [t.name for t in graph.proto.initializer if t.data_type == TensorProto.FLOAT16]
        need(not half, f"the weights {', '.join(half)} are float16")


def round_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the model after `RoundToHalf`; the model stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    run([RoundToHalf()], graph)
    return graph.model


class _Conversion:
    """The rewriting of one graph; `emulate` rounds to float16 and back instead of staying there."""

    def __init__(self, graph: Graph, *, emulate: bool) -> None:
        _constants_to_weights(graph)
        graph.finish()  # nothing dead, for what is read decides what stays float32
        self._graph = graph
        self._emulate = emulate
        self._weights = {
            tensor.name: tensor
            for tensor in self._graph.proto.initializer
            if tensor.data_type == TensorProto.FLOAT
        }
        self._outputs = {output.name for output in self._graph.proto.output}
        self._floats = {*float_values(graph.model), *self._outputs}
        full = _full_nodes(self._graph, self._floats)
        # As they are before the first edit: casts that are put in are not to be converted.
        self._nodes = [(node, node.output[0] in full) for node in self._graph.nodes]
        self._half = {
            value for node, stays in self._nodes if not stays for value in node.output
        } & self._floats
        self._made: dict[tuple[str, int], str] = {}

    def run(self) -> int:
        for node, stays in self._nodes:
            if stays:
                self._read_float32(node)
            else:
                self._read_float16(node)
                self._convert_attributes(node)
        for node, stays in self._nodes:
            if not stays:
                self._deliver(node)
        self._graph.finish()
        return sum(not stays for _, stays in self._nodes)

    def _read_float16(self, node: onnx.NodeProto) -> None:
        for place, name in enumerate(node.input):
            if name in self._weights:
                self._graph.set_input(node, place, self._weight(name))
            elif name in self._floats and name not in self._half:
                half = self._cast(name, TensorProto.FLOAT16)
                read = self._cast(half, TensorProto.FLOAT) if self._emulate else half
                self._graph.set_input(node, place, read)

    def _read_float32(self, node: onnx.NodeProto) -> None:
        # Rounded values are float32 already.
        if self._emulate:
            return
        for name in reads(node):
            if name in self._half and name not in self._outputs:
                self._graph.redirect(node, name, self._cast(name, TensorProto.FLOAT))

    def _weight(self, name: str) -> str:
        """Return the weight in float16, made once for all nodes that read it there."""
        if (name, TensorProto.FLOAT16) not in self._made:
            array = _halved(numpy_helper.to_array(self._weights[name]))
            dtype = np.float32 if self._emulate else np.float16
            made = self._graph.add_constant(array, dtype, f"{name}/float16")
            self._made[name, TensorProto.FLOAT16] = made
        return self._made[name, TensorProto.FLOAT16]

    def _cast(self, name: str, to: int) -> str:
        if (name, to) not in self._made:
            hint = f"{name}/{'float16' if to == TensorProto.FLOAT16 else 'float32'}"
            self._made[name, to] = self._graph.add("Cast", [name], hint, attributes={"to": to})
        return self._made[name, to]

    def _convert_attributes(self, node: onnx.NodeProto) -> None:
        if self._emulate:
            return
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(_halved(numpy_helper.to_array(attribute.t))))

    def _deliver(self, node: onnx.NodeProto) -> None:
        """Give readers what they expect under the value's name: float16, and outputs float32."""
        for place, name in enumerate(node.output):
            if name not in self._half or not (self._emulate or name in self._outputs):
                continue
            inner = f"{name}/{'unrounded' if self._emulate else 'float16'}"
            self._graph.rename_output(node, place, inner)
            node.name = f"{inner}/{node.op_type}"  # the Cast below may need its name
            if self._emulate:
                inner = self._cast(inner, TensorProto.FLOAT16)
            self._graph.add("Cast", [inner], name, attributes={"to": TensorProto.FLOAT}, output=name)


def _halved(array: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Bring numbers into float16's range; where that of a weight matters, the comparison with fp32 shows."""
    halved: npt.NDArray[np.float16] = np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
    return halved


def _constants_to_weights(graph: Graph) -> None:
    """Make weights of constant nodes, so that either precision can have its copy."""
    # From the end, since a removal moves the nodes behind it.
    for node in reversed(graph.nodes):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            graph.remove(node)
            graph.add_weight(node.attribute[0].t, node.output[0])


def _full_nodes(graph: Graph, floats: set[str]) -> set[str]:
    """Return the first outputs of the nodes that stay float32."""
    full: set[str] = set()
    outputs = {output.name for output in graph.proto.output}
    after = set(outputs)
    for node in graph.nodes:
        # Nodes stand in order, so that one pass sees all that follows.
        follows = any(value in after for value in reads(node))
        if follows:
            after.update(node.output)
        if follows or node.op_type in _STAYS_FLOAT32 or _has_branches(node) or _to_integer(node, floats):
            full.add(node.output[0])
    named = {node.output[0] for node in graph.nodes if node.output[0].startswith(FULL)}
    full |= named
    seeds = (
        node
        for node in graph.nodes
        # What is named so says itself where float32 begins: the whole model may lead to it.
        if node.output[0] not in named and (node.op_type in _FULL_INPUT or _to_integer(node, floats))
    )
    full |= _leading_to(graph, floats, seeds)
    logits = (graph.producer(value) for value in outputs if "logits" in value)
    full |= _leading_to(graph, floats, (node for node in logits if node is not None), through=_LAST_SUMS)
    for node in graph.nodes:  # the mask that pooling reads
        readers = graph.readers(node.output[0])
        if node.op_type == "Cast" and readers and all(reader.output[0] in full for reader in readers):
            full.add(node.output[0])
    return full


def _leading_to(
    graph: Graph, floats: set[str], seeds: Iterable[onnx.NodeProto], *, through: frozenset[str] | None = None
) -> set[str]:
    """Return the first outputs of nodes and of all whose float32 they need, as far as `through` goes."""
    found: set[str] = set()
    waiting = list(seeds)
    while waiting:
        node = waiting.pop()
        if node.output[0] in found or (through is not None and node.op_type not in through):
            continue
        found.add(node.output[0])
        producers = (graph.producer(value) for value in reads(node) if value in floats)
        waiting.extend(producer for producer in producers if producer is not None)
    return found


def _has_branches(node: onnx.NodeProto) -> bool:
    return next(branches(node), None) is not None


def _to_integer(node: onnx.NodeProto, floats: set[str]) -> bool:
    return node.op_type == "Cast" and node.input[0] in floats and node.output[0] not in floats
