"""What a model file is made of: every message of ONNX read once, to the deepest branch, or refused.

ONNX Runtime and this module must see the same file. So everything that protobuf would merge, skip or let
the last of win is damage here: a field that is there twice, and one of another wire type than its own.

Source: onnx.proto3 of ONNX 1.23; fields that it does not have are passed over, as protobuf does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bertonnx.runtime.modelfile.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Readable,
    Span,
    number_at,
    typed,
)

__all__ = ["Structure", "Value", "structure_of"]

_DEEPEST = 100
"""Messages inside each other, as protobuf allows; each branch of an `If` takes four."""


@dataclass(frozen=True)
class _Field:
    """A field of a message.

    Attributes:
        kinds: wire types that it may have; a list of numbers is packed or is not.
        message: what it holds, where that is looked into.
        once: whether it may be there once only.
    """

    kinds: tuple[int, ...]
    message: str = ""
    once: bool = True


_NUMBER, _BYTES, _FLOAT = _Field((VARINT,)), _Field((LENGTH,)), _Field((FIXED32,))
_TEXTS = _Field((LENGTH,), once=False)
_NUMBERS = _Field((VARINT, LENGTH), once=False)
_FLOATS = _Field((FIXED32, LENGTH), once=False)
_DOUBLES = _Field((FIXED64, LENGTH), once=False)


def _one(message: str) -> _Field:
    return _Field((LENGTH,), message)


def _many(message: str) -> _Field:
    return _Field((LENGTH,), message, once=False)


_MESSAGES: Mapping[str, Mapping[int, _Field]] = {
    "model": {
        **{1: _NUMBER, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _NUMBER, 6: _BYTES, 7: _one("graph")},
        **{8: _many("opset"), 14: _many("entry"), 20: _many("training"), 25: _many("function"), 26: _TEXTS},
    },
    "opset": {1: _BYTES, 2: _NUMBER},
    "entry": {1: _BYTES, 2: _BYTES},
    "training": {1: _one("graph"), 2: _one("graph"), 3: _many("entry"), 4: _many("entry")},
    "graph": {
        **{1: _many("node"), 2: _BYTES, 5: _many("tensor"), 10: _BYTES, 11: _many("value")},
        **{12: _many("value"), 13: _many("value"), 14: _TEXTS, 15: _many("sparse"), 16: _many("entry")},
    },
    "function": {
        **{1: _BYTES, 4: _TEXTS, 5: _TEXTS, 6: _TEXTS, 7: _many("node"), 8: _BYTES, 9: _many("opset")},
        **{10: _BYTES, 11: _many("attribute"), 12: _many("value"), 13: _BYTES, 14: _many("entry")},
    },
    "node": {
        **{1: _TEXTS, 2: _TEXTS, 3: _BYTES, 4: _BYTES, 5: _many("attribute"), 6: _BYTES, 7: _BYTES},
        **{8: _BYTES, 9: _many("entry"), 10: _TEXTS},
    },
    "attribute": {
        **{1: _BYTES, 2: _FLOAT, 3: _NUMBER, 4: _BYTES, 5: _one("tensor"), 6: _one("graph"), 7: _FLOATS},
        **{8: _NUMBERS, 9: _TEXTS, 10: _many("tensor"), 11: _many("graph"), 13: _BYTES, 14: _BYTES},
        **{15: _TEXTS, 20: _NUMBER, 21: _BYTES, 22: _one("sparse"), 23: _many("sparse")},
    },
    "tensor": {
        **{1: _NUMBERS, 2: _NUMBER, 3: _BYTES, 4: _FLOATS, 5: _NUMBERS, 6: _TEXTS, 7: _NUMBERS, 8: _BYTES},
        **{9: _BYTES, 10: _DOUBLES, 11: _NUMBERS, 12: _BYTES, 13: _many("entry"), 14: _NUMBER},
        **{16: _many("entry")},
    },
    "sparse": {1: _one("tensor"), 2: _one("tensor"), 3: _NUMBERS},
    "value": {1: _BYTES, 2: _one("type"), 3: _BYTES, 4: _many("entry")},
    # Of types only tensors are looked into: no text becomes a sequence or a map.
    "type": {1: _one("tensor type"), 4: _BYTES, 5: _BYTES, 6: _BYTES, 8: _BYTES, 9: _BYTES},
    "tensor type": {1: _NUMBER, 2: _one("shape")},
    "shape": {1: _many("dimension")},
    "dimension": {1: _NUMBER, 2: _BYTES, 3: _BYTES},
}

_EXTERNAL_KEYS = frozenset(("location", "offset", "length", "checksum"))
"""Others, such as ONNX Runtime's `prepacked_...`, make it read more of a file than is checked here."""


@dataclass(frozen=True)
class Value:
    """An input or output of the graph, as it declares it.

    Attributes:
        name: its name.
        type: TensorProto.DataType of its elements; 0 where it is no tensor, or not known.
        rank: its number of dimensions; None where it is not known.
        width: its last dimension; None where that depends on the input, or is not known.
    """

    name: str
    type: int = 0
    rank: int | None = None
    width: int | None = None


@dataclass
class Structure:
    """What was found in a file.

    Attributes:
        graph: where its graph lies; None where it has none.
        metadata: `metadata_props`.
        inputs: what goes into the graph.
        outputs: what comes out of it.
        operators: domain and name of each operator in it, in all branches and functions.
        external: the external data of each tensor that has any: its entries by their keys.
        functions: number of functions of its own.
        training: number of training graphs.
    """

    graph: Span | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    external: list[dict[str, str]] = field(default_factory=list)
    functions: int = 0
    training: int = 0


def structure_of(data: Readable) -> Structure:
    """Read a model file's structure.

    Raises:
        ValueError: it is no model, or one that ONNX Runtime might read in another way.
        IndexError: likewise.
    """
    found = Structure()
    for number, part in _read(data, "model", (0, len(data)), 0, found):
        if number == 7:
            found.graph = part
        elif number == 14:
            key, text = _entry(data, part)
            # Of two, a reader takes the first and another the last.
            if key in found.metadata:
                raise ValueError(f"the metadata {key} is there twice")
            found.metadata[key] = text
        elif number == 20:
            found.training += 1
        elif number == 25:
            found.functions += 1
    if found.graph is not None:
        for number, part in _parts(data, "graph", found.graph):
            if number in (11, 12):
                (found.inputs if number == 11 else found.outputs).append(_value(data, part))
    return found


def _read(data: Readable, kind: str, span: Span, depth: int, found: Structure) -> list[tuple[int, Span]]:
    """Read a message and all in it; returns its fields."""
    if depth > _DEEPEST:
        raise ValueError("messages lie too deep in each other")
    known = _MESSAGES[kind]
    parts = list(_parts(data, kind, span))
    for number, part in parts:
        if number in known and known[number].message:
            _read(data, known[number].message, part, depth + 1, found)
    if kind == "node":
        texts = {number: data[slice(*part)].decode() for number, part in parts if number in (4, 7)}
        found.operators.add((texts.get(7, ""), texts.get(4, "")))
    elif kind == "tensor":
        _note_external(data, parts, found)
    return parts


def _parts(data: Readable, kind: str, span: Span) -> Iterator[tuple[int, Span]]:
    """Yield the fields of a message, each of the wire type that it must have."""
    known, seen = _MESSAGES[kind], set()
    for number, wire_type, part in typed(data, span):
        expected = known.get(number)
        if expected is not None:
            if wire_type not in expected.kinds:
                raise ValueError(f"field {number} of a {kind} is of another kind")
            if expected.once and number in seen:
                raise ValueError(f"field {number} of a {kind} is there twice")
            seen.add(number)
        yield number, part


def _entry(data: Readable, span: Span) -> tuple[str, str]:
    texts = {number: data[slice(*part)].decode() for number, part in _parts(data, "entry", span)}
    return texts.get(1, ""), texts.get(2, "")


def _note_external(data: Readable, parts: list[tuple[int, Span]], found: Structure) -> None:
    entries = [_entry(data, part) for number, part in parts if number == 13]
    outside = any(number_at(data, part) == 1 for number, part in parts if number == 14)
    if not entries and not outside:
        return
    named = dict(entries)
    if len(named) < len(entries) or not _EXTERNAL_KEYS.issuperset(named):
        raise ValueError(f"external data with the keys {', '.join(key for key, _ in entries)}")
    if outside and any(number in (4, 5, 6, 7, 9, 10, 11) for number, _ in parts):
        raise ValueError("a tensor has its bytes in the file and outside it")
    found.external.append(named)


def _value(data: Readable, span: Span) -> Value:
    parts = dict(_parts(data, "value", span))
    name = data[slice(*parts[1])].decode() if 1 in parts else ""
    kind = dict(_parts(data, "type", parts[2])) if 2 in parts else {}
    tensor = dict(_parts(data, "tensor type", kind[1])) if 1 in kind else {}
    if 1 not in tensor:
        return Value(name)
    type_ = number_at(data, tensor[1])
    if 2 not in tensor:
        return Value(name, type_)
    shape = [dict(_parts(data, "dimension", part)) for _, part in _parts(data, "shape", tensor[2])]
    width = number_at(data, shape[-1][1]) if shape and 1 in shape[-1] else None
    return Value(name, type_, len(shape), width)
