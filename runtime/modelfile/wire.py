"""Protobuf's wire format, as much of it as model files need, read over a memory map.

Source: https://protobuf.dev/programming-guides/encoding/; field numbers from onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

__all__ = [
    "Readable",
    "Span",
    "extents",
    "fields",
    "message",
    "number_at",
    "number_field",
    "numbers_at",
    "typed",
]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types

PRODUCER, GRAPH, METADATA = (2, 3), 7, 14  # ModelProto; the first are its name and version
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12  # GraphProto
NODE_OUTPUT = 2  # NodeProto
DATA_TYPE, NAME, RAW, DOC, EXTERNAL, LOCATION = 2, 8, 9, 12, 13, 14  # TensorProto

Readable = mmap.mmap | bytes
"""A file in memory, or mapped into it."""

Span = tuple[int, int]
"""Where a field's content starts and ends in the file, in bytes."""


def fields(data: Readable, span: Span) -> Iterator[tuple[int, Span]]:
    """Yield number and content of every field of a message; of a varint, the bytes it takes.

    As strict as protobuf's own parsers and stricter: what they read in another way than this one (keys of
    more than 32 bits, groups) or that no writer makes (keys and lengths with needless bytes) is damage. A
    file must not say one thing to who checks it and another to who runs it.

    Raises:
        ValueError: the message is damaged or cut off.
        IndexError: likewise.
    """
    return ((number, content) for number, _, content in typed(data, span))


def typed(data: Readable, span: Span) -> Iterator[tuple[int, int, Span]]:
    """Yield number, wire type and content of every field of a message, as `fields`."""
    place, end = span
    while place < end:
        # Nearly all keys and most lengths take one byte, of which there is but one way to read it.
        key = data[place]
        if key < 0x80:
            start = place = place + 1
        else:
            key, start = _plain_varint(data, place, end, 32)
            place = start
        number, kind = key >> 3, key & 7
        if kind == LENGTH:
            length = data[place] if place < end else 0x80
            if length < 0x80:
                start = place + 1
            else:
                length, start = _plain_varint(data, place, end, 63)
            place = start + length
        elif kind == VARINT:
            _, place = _varint(data, place, end)
        elif kind in (FIXED64, FIXED32):
            place += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"byte {place} starts no field")
        if place > end or number == 0:
            raise ValueError(f"a field at byte {start} ends after its message")
        yield number, kind, (start, place)


def extents(data: Readable, span: Span) -> Iterator[tuple[int, Span, Span]]:
    """Yield number, extent with its key, and content of every field of a message."""
    place = span[0]
    for number, content in fields(data, span):
        yield number, (place, content[1]), content
        place = content[1]


def number_at(data: Readable, span: Span) -> int:
    """Return the number that a varint's bytes stand for, at least 0 and under 2**64."""
    return _varint(data, *span)[0]


def numbers_at(data: Readable, span: Span) -> list[int]:
    """Return numbers of a field, be they packed or one alone: a number ends with a byte under 128."""
    found, start = [], span[0]
    for place in range(*span):
        if data[place] < 0x80:
            found.append(number_at(data, (start, place + 1)))
            start = place + 1
    return found


def _plain_varint(data: Readable, place: int, end: int, bits: int) -> tuple[int, int]:
    """Return a varint of so many bits at most, without needless bytes, and where it ends."""
    value, after = _varint(data, place, end)
    if value >> bits or (after - place > 1 and not data[after - 1]):
        raise ValueError(f"byte {place} starts a number that no writer makes")
    return value, after


def _varint(data: Readable, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            if value >> 64:
                break
            return value, place
        shift += 7
        if shift > 63:
            break
    else:
        raise ValueError("a number is cut off at the end")
    raise ValueError(f"byte {place} is part of no number")


def message(number: int, content: bytes) -> bytes:
    """Return a field that holds a message, text or bytes."""
    return header(number, len(content)) + content


def header(number: int, size: int) -> bytes:
    """Return what stands before a field's message, text or bytes, which are `size` bytes long."""
    return _written(number << 3 | 2) + _written(size)


def number_field(number: int, value: int) -> bytes:
    """Return a field that holds a number, at least 0."""
    return _written(number << 3) + _written(value)


def _written(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
