"""A graph that takes texts of several lengths in one batch, without padding and with the same bits.

A few short texts of different lengths make batches of one text, and each of them reads all weights. What
reads weights does the same to every token, whatever text it is of. So the tokens of all texts come one
after the other, as those of one long text, and only what mixes tokens runs for each length by itself:
attention, positions, and what makes one row of a text (`Loop`). It has exactly the shapes there that it
would have alone, and nothing else can change a bit.

The graph is made from the file's when a session is opened; the file keeps its own. What is not known to do
the same to every token is taken as mixing them, so a graph that is not understood gives None, never another
result. Source of the idea: https://www.tensorflow.org/guide/ragged_tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.mixing import ATTENTION, Graph, UnknownGraphError, for_all_tokens
from bertonnx.runtime.modelfile.nodes import (
    BOOL,
    FLOAT,
    INT64,
    Branch,
    Node,
    branch_of,
    inside,
    integer_attribute,
    made,
    tensor_type,
    used,
    value,
)
from bertonnx.runtime.modelfile.wire import Span, extents, fields, message, number_at, number_field

__all__ = ["GROUPS", "groups_of", "one_group", "ragged_form"]

GROUPS = "groups"
"""The input that says which tokens make which texts, int64 of shape (groups, 5); see `groups_of`."""

_GROUPS = GROUPS.encode()
_COUNT, _SINGLE, _SHAPE = b"ragged/count", b"ragged/single", b"ragged/shape"
_START, _END, _SIZE, _WHOLE = b"group/start", b"group/end", b"group/size", b"group/whole"
_AXIS_0, _AXIS_1, _FLAT, _FLAT_IDS = b"ragged/axis 0", b"ragged/axis 1", b"ragged/flat", b"ragged/flat ids"
_PARTS, _FIRST, _ONE = b"ragged/parts", b"ragged/first", b"ragged/one"
_NUMBER, _GO, _GOES = b"group/number", b"group/go", b"group/goes"

_DIMENSIONS = 1  # TensorProto

_MOST_LOOKUPS = 8
"""Encoders have positions, and segments that no text says; each goes through all nodes."""

_SEQUENCE, _ELEMENT = 4, 1  # TypeProto, TypeProto.Sequence


def groups_of(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the input `GROUPS` for texts of so many tokens, those of equal length side by side.

    A row says where a group begins and ends, in tokens from the first on, how many texts it has, how many
    tokens each of them, and 0: what shape its tokens have, as ONNX's Reshape takes it.
    """
    found: list[tuple[int, int, int, int, int]] = []
    start = place = 0
    while place < len(lengths):
        length, first = lengths[place], place
        while place < len(lengths) and lengths[place] == length:
            place += 1
        end = start + length * (place - first)
        found.append((start, end, place - first, length, 0))
        start = end
    return np.array(found, np.int64)


def one_group(texts: int, tokens: int) -> npt.NDArray[np.int64]:
    """Return the input `GROUPS` for so many texts of so many tokens each."""
    return np.array([[0, texts * tokens, texts, tokens, 0]], np.int64)


def ragged_form(model: bytes) -> bytes | None:
    """Return the model with the input `GROUPS`; None where it is not known how.

    All inputs have the shape (1, tokens) then, or (texts, tokens) where there is but one group. Outputs
    that have numbers of every token come in the same shape; others have a row for each text.

    Args:
        model: the bytes of a `ModelProto`, its large weights elsewhere (`mapped.without_weights`).
    """
    for number, whole, span in extents(model, (0, len(model))):
        if number == wire.GRAPH:
            try:
                nodes = _nodes(Graph(model, span))
            except UnknownGraphError:
                return None
            graph = b"".join([*_others(model, span), *_constants(), *nodes])
            return model[: whole[0]] + message(wire.GRAPH, graph) + model[whole[1] :]
    return None


def _nodes(graph: Graph) -> Iterator[bytes]:
    """Return the nodes of the other form, as fields of the graph.

    Raises:
        UnknownGraphError: too little of the graph is known.
    """
    # What runs for each length by itself gains nothing.
    attentions = [node for node in graph.nodes if any(map(_attends, node.branches.values()))]
    if not graph.attentions or 2 * len(graph.attentions) < len(attentions):
        raise UnknownGraphError
    if len(graph.lookups) > _MOST_LOOKUPS or any(map(_is_ours, graph.names)):
        raise UnknownGraphError
    ends = []
    for name, info in graph.outputs.items():
        by_token = graph.kind(name).of == "tokens"
        if by_token != _has_tokens(info) or _element_type(info) != FLOAT:
            raise UnknownGraphError
        if not by_token:
            ends.append(name)
    nodes = _prepared(graph.inputs[0])
    for node in graph.nodes:
        if node.outputs[0] in graph.attentions:
            nodes.append(_by_length(node))
        elif not set(ends).intersection(node.outputs):
            nodes.append(node)
        if node.outputs[0] in graph.lookups:
            nodes += _looked_up(graph, node)
    nodes += _ended(graph, ends)
    # What several loops read is made by each of them, in the same way.
    first: dict[bytes, Node] = {}
    for node in nodes:
        first.setdefault(node.outputs[0], node)
    return (message(wire.NODE, node.written()) for node in used(first.values(), graph.outputs))


def _is_ours(name: bytes) -> bool:
    return name == _GROUPS or name.startswith((b"ragged/", b"group/"))


def _others(model: bytes, graph: Span) -> Iterator[bytes]:
    for number, whole, _ in extents(model, graph):
        if number != wire.NODE:
            yield model[slice(*whole)]


def _constants() -> Iterator[bytes]:
    """Yield what the nodes read, and the input."""
    for name, number in (
        (_AXIS_0, [0]),
        (_AXIS_1, [1]),
        (_FLAT, [1, -1, 0]),
        (_FLAT_IDS, [1, -1]),
        (_PARTS, [1, 1, 2, 1]),
        (_FIRST, 0),
        (_ONE, 1),
    ):
        array = np.array(number, "<i8")
        sizes = b"".join(number_field(_DIMENSIONS, size) for size in array.shape)
        kind = number_field(wire.DATA_TYPE, INT64)
        raw = message(wire.RAW, array.tobytes())
        yield message(wire.INITIALIZER, sizes + kind + message(wire.NAME, name) + raw)
    yield message(wire.INPUT, value(_GROUPS, tensor_type(INT64)))


def _prepared(ids: bytes) -> list[Node]:
    """Return the nodes that others read: how many groups there are, and the shape of the inputs."""
    return [
        made(b"Shape", [_GROUPS], b"ragged/groups"),
        made(b"Gather", [b"ragged/groups", _FIRST], _COUNT),
        made(b"Equal", [_COUNT, _ONE], _SINGLE),
        made(b"Shape", [ids], _SHAPE),
    ]


def _looked_up(graph: Graph, node: Node) -> list[Node]:
    """Return what takes rows of a table for all tokens, by numbers that each group has of its own."""
    table, ids = node.inputs

    def then(name: bytes, result: bytes) -> list[Node]:
        # Positions may be the same for all texts, and there but once.
        every = name + b"/of every text"
        return [made(b"Expand", [name, _SIZE], every), made(b"Reshape", [every, _FLAT_IDS], result)]

    numbers = ids + b"/of groups"
    shaped = made(b"Reshape", [_joined(ids), _SHAPE], numbers)
    found = _looped(graph, [ids], then, kind=INT64, axis=1)
    looked_up = replace(node, inputs=[table, numbers], outputs=[for_all_tokens(node.outputs[0])], raw=b"")
    return [*found, shaped, looked_up]


def _by_length(node: Node) -> Node:
    """Return attention as it is where there is one group, else for each group by itself."""
    then = node.branches[b"then_branch"]
    (inner,) = then.nodes
    (output,) = inner.outputs
    body = _of_group()
    names = {output: b"group/" + output}
    for name in dict.fromkeys(inner.inputs):
        names[name] = b"group/" + name
        body += _cut(name, names[name], _WHOLE)
    result, alone = b"group/result/" + output, output + b"/alone"
    body += [inner.renamed(names), made(b"Reshape", [names[output], _FLAT], result)]
    floats = tensor_type(FLOAT)
    by_count = {
        b"then_branch": branch_of([inner.renamed({output: alone})], [], [value(alone, floats)]),
        b"else_branch": branch_of(
            _loop([output], [result], body, kind=FLOAT, axis=1), [], [value(_joined(output), floats)]
        ),
    }
    chosen = Node(b"If", [_SINGLE], [output], branches=by_count)
    branches = {**node.branches, b"then_branch": Branch([chosen], then.own, then.others)}
    return replace(node, branches=branches, raw=b"")


def _ended(graph: Graph, ends: list[bytes]) -> list[Node]:
    """Return what makes the outputs that have a row for each text."""
    if not ends:
        return []

    def then(name: bytes, result: bytes) -> list[Node]:
        return [made(b"Identity", [name], result)]

    found = _looped(graph, ends, then, kind=FLOAT, axis=0)
    return [*found, *(made(b"Identity", [_joined(name)], name) for name in ends)]


def _looped(
    graph: Graph,
    results: list[bytes],
    then: Callable[[bytes, bytes], list[Node]],
    *,
    kind: int,
    axis: int,
) -> list[Node]:
    """Return nodes that compute values for each group by itself, and put those of all groups together.

    Args:
        graph: the graph.
        results: the values.
        then: what makes a result of each of them: called with its name in the loop, and the result's.
        kind: the data type of the results.
        axis: along which they are put together.
    """
    copied, leaves = graph.copied(results), graph.leaves(results)
    names = {name: b"group/" + name for node in copied for name in node.outputs}
    names |= {name: b"group/" + name for name in leaves}
    before: list[Node] = []
    body = _of_group()
    for name in leaves:
        of, rest = graph.kind(name)
        if of == "rows":
            body.append(made(b"Slice", [name, _START, _END, _AXIS_0], names[name]))
            continue
        flat = name + b"/flat"
        before.append(made(b"Reshape", [name, _FLAT if rest else _FLAT_IDS], flat))
        body += _cut(flat, names[name], _WHOLE if rest else _SIZE)
    body += [node.renamed(names) for node in copied]
    for name in results:
        body += then(names[name], b"group/result/" + name)
    ends = [b"group/result/" + name for name in results]
    return [*before, *_loop(results, ends, body, kind=kind, axis=axis)]


def _of_group() -> list[Node]:
    """Return the nodes of a loop that read which tokens are the group's."""
    return [
        made(b"Gather", [_GROUPS, _NUMBER], b"group/row"),
        Node(b"Split", [b"group/row", _PARTS], [_START, _END, _SIZE, b"group/zero"]),
        made(b"Concat", [_SIZE, b"group/zero"], _WHOLE, integer_attribute(b"axis", 0)),
    ]


def _cut(name: bytes, output: bytes, shape: bytes) -> list[Node]:
    """Return what takes the group's tokens from those of all."""
    part = output + b"/flat"
    return [made(b"Slice", [name, _START, _END, _AXIS_1], part), made(b"Reshape", [part, shape], output)]


def _loop(names: list[bytes], results: list[bytes], body: list[Node], *, kind: int, axis: int) -> list[Node]:
    """Return a loop over all groups and what puts its results together, under `_joined` of the names."""
    sequence = message(_SEQUENCE, message(_ELEMENT, tensor_type(kind)))
    given = [value(_NUMBER, tensor_type(INT64, b"")), value(_GO, tensor_type(BOOL, b""))]
    put = [value(_GOES, tensor_type(BOOL, b""))]
    nodes = [*body, made(b"Identity", [_GO], _GOES)]
    empty, joined = [], []
    starts, ends = [], []
    for name, result in zip(names, results, strict=True):
        before, after = b"group/before/" + name, b"group/after/" + name
        nodes.append(made(b"SequenceInsert", [before, result], after))
        given.append(value(before, sequence))
        put.append(value(after, sequence))
        starts.append(name + b"/no groups")
        ends.append(name + b"/list of groups")
        empty.append(made(b"SequenceEmpty", [], starts[-1], integer_attribute(b"dtype", kind)))
        join = integer_attribute(b"axis", axis)
        joined.append(made(b"ConcatFromSequence", [ends[-1]], _joined(name), join))
    loop = Node(b"Loop", [_COUNT, b"", *starts], ends, branches={b"body": branch_of(nodes, given, put)})
    return [*empty, loop, *joined]


def _joined(name: bytes) -> bytes:
    return name + b"/of all groups"


def _attends(branch: Branch) -> bool:
    return any(node.op == ATTENTION for node in branch.nodes)


def _has_tokens(info: bytes) -> bool:
    """Return whether an output has as many numbers as its text has tokens, by what it says of itself."""
    shape = inside(info, 2, 1, 2)
    sizes = [shape[slice(*span)] for number, span in fields(shape, (0, len(shape))) if number == 1]
    return [inside(size, 2) for size in sizes[1:2]] == [b"sequence_length"]


def _element_type(info: bytes) -> int:
    tensor = inside(info, 2, 1)
    return next((number_at(tensor, span) for n, span in fields(tensor, (0, len(tensor))) if n == 1), 0)
