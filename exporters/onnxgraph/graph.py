"""Reading and editing one ONNX graph: who makes a value, who reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from bertonnx.exporters.onnxgraph.files import hollow_weights, is_large

__all__ = ["FULL", "MS_DOMAIN", "Graph", "branches", "reads"]

FULL = "full/"
"""What the name of a value begins with that stays float32 in fp16, whatever makes it."""

MS_DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

Attribute = int | float | str | Sequence[int] | onnx.GraphProto


class Graph:
    """An index over `model.graph` that stays true while the graph is edited.

    Edits go through the methods here; `finish` removes what nothing reads any more and puts the
    nodes in an order that ONNX accepts. Hold a large model by its `Graph` alone: gigabytes then go as
    soon as a step has made another (`take`).

    Attributes:
        model: the model.
        proto: its main graph.
        steps: names of the steps that it went through (`exporters.onnxgraph.step`).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.steps: list[str] = []
        self.take(model)

    def take(self, model: onnx.ModelProto) -> None:
        """Hold another model from now on, and let the one before go."""
        self.model = model
        self.proto = model.graph
        self._producers: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._names = {item.name for item in (*self.proto.input, *self.proto.initializer)}
        self._reindex()

    def adopt(self, shell: onnx.ModelProto) -> None:
        """Hold the nodes of another model from now on, with the large weights that this one has.

        Args:
            shell: made of this model (`files.without_large_weights`, `files.with_large_inputs`); what it
                reads of the large weights stays where it is, for a copy takes gigabytes.
        """
        own = {tensor.name for tensor in self.proto.initializer if is_large(tensor)}
        hollow = {*hollow_weights(shell), *(value.name for value in shell.graph.input)}
        read = {value for node in shell.graph.node for value in reads(node)}
        kept = own & hollow & (read | {output.name for output in shell.graph.output})
        weights = self.proto.initializer
        for place in reversed(range(len(weights))):
            if weights[place].name not in kept:
                del weights[place]
        weights.extend(tensor for tensor in shell.graph.initializer if tensor.name not in kept)
        inputs = [value for value in shell.graph.input if value.name not in own]
        del shell.graph.initializer[:], shell.graph.input[:]
        shell.graph.input.extend(inputs)
        for content, stays in ((self.proto, "initializer"), (self.model, "graph")):
            for descriptor in content.DESCRIPTOR.fields:
                if descriptor.name != stays:
                    content.ClearField(descriptor.name)
        self.model.MergeFrom(shell)
        self.take(self.model)

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """All nodes of the main graph."""
        nodes: Sequence[onnx.NodeProto] = self.proto.node
        return nodes

    def producer(self, value: str, *op_types: str) -> onnx.NodeProto | None:
        """Return the node that makes `value`, if it is one of `op_types` (any, where none is given)."""
        node = self._producers.get(value)
        return node if node is not None and (not op_types or node.op_type in op_types) else None

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """Return the nodes that read `value`, those that read it in a branch included."""
        return self._readers.get(value, [])

    def only_reader(self, value: str, *op_types: str) -> onnx.NodeProto | None:
        """Return the one node that reads `value`, if it is the only one and of one of `op_types`."""
        readers = self.readers(value)
        # An output has a reader that stands in no graph: the user.
        if len(readers) != 1 or self.is_output(value) or readers[0].op_type not in op_types:
            return None
        return readers[0]

    def is_output(self, value: str) -> bool:
        """Say whether `value` is an output of the graph."""
        return any(output.name == value for output in self.proto.output)

    def constant(self, value: str) -> npt.NDArray[np.generic] | None:
        """Return the array behind `value` where it is a weight or a constant, else None."""
        tensor = self._initializers.get(value)
        if tensor is not None:
            return numpy_helper.to_array(tensor)
        node = self.producer(value, "Constant")
        if node is None or node.attribute[0].name != "value":
            return None
        return numpy_helper.to_array(node.attribute[0].t)

    def scalar(self, value: str) -> float | None:
        """Return the number behind `value` where it is a constant of one element, else None."""
        array = self.constant(value)
        return float(array.ravel()[0]) if array is not None and array.size == 1 else None

    def fresh(self, hint: str) -> str:
        """Return a value name that the graph does not use yet."""
        name, number = hint, 0
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def add_constant(self, array: npt.ArrayLike, dtype: type[np.generic], hint: str) -> str:
        """Add a weight and return its name; equal small constants are added once."""
        # Not ascontiguousarray, which makes a scalar one-dimensional, and Gather then keeps the axis.
        values = np.asarray(array, dtype=dtype, order="C")
        small = values.size <= 16
        key = (values.dtype.str, values.shape, values.tobytes() if small else b"")
        if small and key in self._constants:
            return self._constants[key]
        name = self.fresh(hint)
        tensor = numpy_helper.from_array(values, name)
        self.proto.initializer.append(tensor)
        self._initializers[name] = self.proto.initializer[-1]
        if small:
            self._constants[key] = name
        return name

    def add_weight(self, tensor: onnx.TensorProto, name: str) -> None:
        """Add a copy of a tensor as the weight called `name`, which no node makes."""
        weight = self.proto.initializer.add()
        weight.CopyFrom(tensor)
        weight.name = name
        self._initializers[name] = weight
        self._names.add(name)

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        hint: str,
        *,
        attributes: dict[str, Attribute] | None = None,
        domain: str = "",
        output: str | None = None,
    ) -> str:
        """Add a node with one output and return that value's name."""
        name = output if output is not None else self.fresh(hint)
        node = helper.make_node(op_type, list(inputs), [name], name=f"{name}/{op_type}", domain=domain)
        for key, value in (attributes or {}).items():
            node.attribute.append(helper.make_attribute(key, value))
        self.proto.node.append(node)
        self._index(self.proto.node[-1])
        if domain and all(entry.domain != domain for entry in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(domain, 1))
        return name

    def remove(self, node: onnx.NodeProto) -> None:
        """Take a node out; what it made has no producer until another is added."""
        for value in reads(node):
            self._forget_reader(value, node)
        for value in node.output:
            self._producers.pop(value, None)
        self.proto.node.remove(node)

    def set_input(self, node: onnx.NodeProto, place: int, value: str) -> None:
        """Let a node read `value` as its input number `place`, which it has already."""
        before = reads(node)
        node.input[place] = value
        self._follow(node, before)

    def redirect(self, node: onnx.NodeProto, old: str, new: str) -> None:
        """Let a node, and the branches inside it, read `new` where they read `old`.

        A branch that makes a value called `old` itself means its own, and keeps it.
        """
        if _hides(node, old, new):
            # Inside, the name means the branch's own value: the one from outside needs another.
            new = self.add("Identity", [new], f"{new}/outside")
        before = reads(node)
        _rename(node, old, new)
        self._follow(node, before)

    def rename_output(self, node: onnx.NodeProto, place: int, value: str) -> None:
        """Let a node call its output number `place` by another name; readers stay with the name before."""
        self._producers.pop(node.output[place], None)
        node.output[place] = value
        self._producers[value] = node
        self._names.add(value)

    def replace(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`, those in branches too, and outputs of the graph.

        An output of the graph keeps its name: an Identity carries the new value to it.

        Raises:
            ValueError: `old` is an output that no node makes, so that its name cannot be given to another.
        """
        if old == new:
            return
        for node in list(self.readers(old)):
            self.redirect(node, old, new)
        if self.is_output(old):
            maker = self.producer(old)
            if maker is None:
                raise ValueError(f"{old} is an output of the graph, and no node makes it")
            # Users know an output by its name, so that the node that made it gives the name away.
            self.rename_output(maker, list(maker.output).index(old), self.fresh(f"{old}/replaced"))
            self.add("Identity", [new], old, output=old)

    def extract(self, values: Sequence[str]) -> onnx.ModelProto:
        """Return the smallest model that computes `values`; this one stays as it is."""
        needed = self._needed(values)
        nodes = [node for node in self.nodes if any(value in needed for value in node.output)]
        weights = [tensor for tensor in self.proto.initializer if tensor.name in needed]
        # Without types: ONNX Runtime finds them when it loads, and nobody has to know them here.
        outputs = [onnx.ValueInfoProto(name=value) for value in values]
        part = onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        part.graph.CopyFrom(helper.make_graph(nodes, "part", self.proto.input, outputs, weights))
        Graph(part).finish()
        return part

    def finish(self) -> None:
        """Drop nodes and weights that no output needs, and order the nodes."""
        needed = self._needed([output.name for output in self.proto.output])
        kept = [node for node in self.proto.node if any(value in needed for value in node.output)]
        ordered = list(self._ordered(kept))
        del self.proto.node[:]
        self.proto.node.extend(ordered)
        # In place: protobuf would copy gigabytes, and keep the old ones until the model goes.
        for place in reversed(range(len(self.proto.initializer))):
            if self.proto.initializer[place].name not in needed:
                del self.proto.initializer[place]
        # Shapes noted by an earlier step may describe values that are gone.
        del self.proto.value_info[:]
        # Those kept for sharing may be among the dropped.
        self._constants.clear()
        self._reindex()

    def faults(self) -> Iterator[str]:
        """Yield what is wrong: nodes out of order, names that nothing makes or two make, a false index."""
        made = {item.name for item in (*self.proto.input, *self.proto.initializer)}
        readers: dict[str, int] = {}
        for node in self.nodes:
            for value in reads(node):
                readers[value] = readers.get(value, 0) + 1
                if value not in made:
                    yield f"{node.op_type} reads {value}, which nothing before it makes"
                if not any(reader is node for reader in self.readers(value)):
                    yield f"the index does not know that {node.op_type} reads {value}"
            for value in filter(None, node.output):
                if value in made:
                    yield f"{value} is made twice"
                if self.producer(value) is not node:
                    yield f"the index does not know that {node.op_type} makes {value}"
                made.add(value)
        for value, known in self._readers.items():
            count = readers.get(value, 0)
            if len(known) != count:
                yield f"the index knows {len(known)} readers of {value}, and there are {count}"
        yield from (
            f"nothing makes the output {end.name}" for end in self.proto.output if end.name not in made
        )

    def _needed(self, values: Iterable[str]) -> set[str]:
        needed: set[str] = set()
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            if value in needed:
                continue
            needed.add(value)
            node = self._producers.get(value)
            if node is not None:
                waiting.extend(reads(node))
        return needed

    def _ordered(self, nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        by_output = {value: node for node in nodes for value in node.output}
        entered: set[str] = set()
        done: set[str] = set()
        for output in self.proto.output:
            # No recursion: a chain of nodes through a deep model is longer than Python's limit.
            stack = [(output.name, False)]
            while stack:
                value, ready = stack.pop()
                node = by_output.get(value)
                if node is None or node.output[0] in done:
                    continue
                if ready:
                    done.update(node.output)
                    # A copy, since `finish` empties the list that holds the node before it fills it anew.
                    copy = onnx.NodeProto()
                    copy.CopyFrom(node)
                    yield copy
                elif node.output[0] in entered:
                    raise ValueError(f"the graph has a cycle: {value} is made from itself")
                else:
                    entered.add(node.output[0])
                    stack.append((value, True))
                    stack.extend((read, False) for read in reversed(reads(node)))

    def _index(self, node: onnx.NodeProto) -> None:
        for value in node.output:
            if value:
                self._producers[value] = node
        for value in reads(node):
            self._readers.setdefault(value, []).append(node)
        self._names.update(_names_in(node))

    def _reindex(self) -> None:
        self._producers.clear()
        self._readers.clear()
        self._initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        for node in self.proto.node:
            self._index(node)

    def _follow(self, node: onnx.NodeProto, before: Sequence[str]) -> None:
        """Bring the index up to date with a node that read `before` until now."""
        after = reads(node)
        for value in before:
            if value not in after:
                self._forget_reader(value, node)
        for value in after:
            if value not in before:
                self._readers.setdefault(value, []).append(node)

    def _forget_reader(self, value: str, node: onnx.NodeProto) -> None:
        # Not by ==, with which protobuf compares whole nodes, branches included.
        left = [reader for reader in self.readers(value) if reader is not node]
        if left:
            self._readers[value] = left
        else:
            self._readers.pop(value, None)


def branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a node: the two ways of an `If`, the body of a `Loop`."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node reads, those that its branches take from outside included."""
    values = [value for value in node.input if value]
    for branch in branches(node):
        inner = _made_in(branch)
        values += [value for child in branch.node for value in reads(child) if value not in inner]
        values += [output.name for output in branch.output if output.name not in inner]
    return list(dict.fromkeys(values))


def _made_in(branch: onnx.GraphProto) -> set[str]:
    """Return the names that mean a branch's own values, whatever they mean outside."""
    made = {value for child in branch.node for value in child.output}
    return made | {tensor.name for tensor in branch.initializer} | {value.name for value in branch.input}


def _names_in(node: onnx.NodeProto) -> Iterator[str]:
    """Yield all names that a node gives to values, in its branches too: ONNX wants them all different."""
    yield from node.output
    for branch in branches(node):
        yield from (tensor.name for tensor in branch.initializer)
        yield from (value.name for value in branch.input)
        for child in branch.node:
            yield from _names_in(child)


def _hides(node: onnx.NodeProto, old: str, new: str) -> bool:
    """Say whether a branch that reads `old` has a value of its own called `new`."""
    for branch in branches(node):
        inner = _made_in(branch)
        readers = [child for child in branch.node if old in reads(child)]
        ends = any(output.name == old for output in branch.output)
        if old in inner or not (readers or ends):
            continue
        if new in inner or any(_hides(child, old, new) for child in readers):
            return True
    return False


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    for place, value in enumerate(node.input):
        if value == old:
            node.input[place] = new
    for branch in branches(node):
        if old in _made_in(branch):
            continue
        for child in branch.node:
            _rename(child, old, new)
        for output in branch.output:
            if output.name == old:
                output.name = new
