"""The nodes of a graph, read from protobuf's wire format and written to it, for forms that the runtime makes.

Source: field numbers from onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.wire import Span, extents, fields, message, number_at, number_field

__all__ = [
    "BOOL",
    "FLOAT",
    "FLOAT16",
    "INT64",
    "Branch",
    "Node",
    "branch_of",
    "inside",
    "integer_attribute",
    "made",
    "read_node",
    "tensor_type",
    "text_at",
    "used",
    "value",
]

FLOAT, INT64, BOOL, FLOAT16 = 1, 7, 9, 10  # TensorProto.DataType

_INPUT, _OUTPUT, _OP, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # NodeProto
_INTEGER, _BRANCH, _KIND = 3, 6, 20  # AttributeProto
_AN_INTEGER, _A_GRAPH = 2, 5  # AttributeProto.AttributeType
_GRAPH_NAME = 2  # GraphProto

_DEEPEST = 8
"""The exporter writes branches in nothing but the graph itself."""


@dataclass(frozen=True)
class Branch:
    """A graph in a node: its nodes, the names that are its own, and its other fields as they are."""

    nodes: list[Node]
    own: set[bytes]
    others: bytes

    def written(self) -> bytes:
        """Return its bytes."""
        return b"".join(message(wire.NODE, node.written()) for node in self.nodes) + self.others

    def renamed(self, names: Mapping[bytes, bytes]) -> Branch:
        """Return it with other names for some values that are not its own."""
        other = {name: new for name, new in names.items() if name not in self.own}
        return Branch([node.renamed(other) for node in self.nodes], self.own, self.others)


@dataclass(frozen=True)
class Node:
    """A node, which nobody changes.

    `plain` are its attributes that are no graphs, as they are; `raw` is the whole as it was read, which must
    not stay where something else of it is replaced.
    """

    op: bytes = b""
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    domain: bytes = b""
    plain: dict[bytes, bytes] = field(default_factory=dict)
    branches: dict[bytes, Branch] = field(default_factory=dict)
    raw: bytes = b""

    def integer(self, name: bytes, default: int) -> int:
        """Return an attribute that is a number."""
        if name not in self.plain:
            return default
        attribute = self.plain[name]
        numbers = (number_at(attribute, span) for n, span in _all(attribute) if n == _INTEGER)
        return next((number - (number >> 63 << 64) for number in numbers), 0)

    def read(self) -> Iterator[bytes]:
        """Yield the names of what it reads, its branches as well."""
        yield from filter(None, self.inputs)
        for branch in self.branches.values():
            for node in branch.nodes:
                yield from (name for name in node.read() if name not in branch.own)

    def renamed(self, names: Mapping[bytes, bytes]) -> Node:
        """Return it with other names for some values."""
        inputs, outputs = ([names.get(name, name) for name in each] for each in (self.inputs, self.outputs))
        branches = {name: branch.renamed(names) for name, branch in self.branches.items()}
        return Node(self.op, inputs, outputs, self.domain, self.plain, branches)

    def written(self) -> bytes:
        """Return its bytes."""
        if self.raw:
            return self.raw
        parts = [message(_INPUT, name) for name in self.inputs]
        parts += [message(_OUTPUT, name) for name in self.outputs]
        parts.append(message(_OP, self.op))
        parts += [message(_ATTRIBUTE, attribute) for attribute in self.plain.values()]
        for name, branch in self.branches.items():
            content = message(1, name) + message(_BRANCH, branch.written()) + number_field(_KIND, _A_GRAPH)
            parts.append(message(_ATTRIBUTE, content))
        return b"".join([*parts, message(_DOMAIN, self.domain)] if self.domain else parts)


def read_node(model: bytes, span: Span, depth: int = 0) -> Node:
    """Return a node.

    Args:
        model: what it lies in.
        span: where.
        depth: in how many other nodes it lies.

    Raises:
        LookupError: a graph in it has inputs, as those of loops have, or lies too deep.
    """
    if depth > _DEEPEST:
        raise LookupError("a branch of a branch of a branch ...")
    op = domain = b""
    inputs, outputs = list[bytes](), list[bytes]()
    plain, branches = dict[bytes, bytes](), dict[bytes, Branch]()
    for number, content in fields(model, span):
        if number == _INPUT:
            inputs.append(model[slice(*content)])
        elif number == _OUTPUT:
            outputs.append(model[slice(*content)])
        elif number == _OP:
            op = model[slice(*content)]
        elif number == _DOMAIN:
            domain = model[slice(*content)]
        elif number == _ATTRIBUTE:
            name = text_at(model, content, 1)
            graph = next((part for n, part in fields(model, content) if n == _BRANCH), None)
            if graph is None:
                plain[name] = model[slice(*content)]
            else:
                branches[name] = _read_branch(model, graph, depth)
    return Node(op, inputs, outputs, domain, plain, branches, model[slice(*span)])


def _read_branch(model: bytes, span: Span, depth: int) -> Branch:
    nodes, own, others = [], set(), []
    for number, whole, content in extents(model, span):
        if number == wire.NODE:
            nodes.append(read_node(model, content, depth + 1))
            own.update(nodes[-1].outputs)
            continue
        if number == wire.INPUT:
            raise LookupError("a loop")
        if number == wire.INITIALIZER:
            own.add(text_at(model, content, wire.NAME))
        others.append(model[slice(*whole)])
    return Branch(nodes, own, b"".join(others))


def made(op: bytes, inputs: Sequence[bytes], output: bytes, *attributes: bytes) -> Node:
    """Return a node of ONNX's own operators with one output."""
    return Node(op, list(inputs), [output], plain={attribute: attribute for attribute in attributes})


def integer_attribute(name: bytes, number: int) -> bytes:
    """Return an attribute that is a number, at least 0."""
    return message(1, name) + number_field(_INTEGER, number) + number_field(_KIND, _AN_INTEGER)


def branch_of(nodes: list[Node], inputs: Iterable[bytes], outputs: Iterable[bytes]) -> Branch:
    """Return a graph for a node; inputs and outputs are as `value` makes them."""
    inputs, outputs = list(inputs), list(outputs)
    own = {name for node in nodes for name in node.outputs}
    own |= {inside(each, 1) for each in inputs}
    others = [message(_GRAPH_NAME, b"branch")]
    others += [message(wire.INPUT, each) for each in inputs]
    others += [message(wire.OUTPUT, each) for each in outputs]
    return Branch(nodes, own, b"".join(others))


def value(name: bytes, kind: bytes) -> bytes:
    """Return a ValueInfoProto."""
    return message(1, name) + message(2, kind)


def tensor_type(kind: int, shape: bytes | None = None) -> bytes:
    """Return a TypeProto of a tensor; a shape of b"" is that of one number, None is any."""
    return message(1, number_field(1, kind) + (b"" if shape is None else message(2, shape)))


def used(nodes: Iterable[Node], outputs: Iterable[bytes]) -> list[Node]:
    """Return the nodes that something comes of, in order."""
    wanted, found = set(outputs), []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.outputs):
            found.append(node)
            wanted.update(node.read())
    return found[::-1]


def text_at(model: bytes, span: Span, number: int) -> bytes:
    """Return a field that is a text; empty where there is none."""
    return next((model[slice(*part)] for n, part in fields(model, span) if n == number), b"")


def inside(content: bytes, *numbers: int) -> bytes:
    """Return a message in a message, by the numbers of its fields; empty where there is none."""
    for number in numbers:
        content = text_at(content, (0, len(content)), number)
    return content


def _all(content: bytes) -> Iterator[tuple[int, Span]]:
    return fields(content, (0, len(content)))
