"""Protobuf's wire format, as much of it as model files need, read over a memory map.

Source: https://protobuf.dev/programming-guides/encoding/; field numbers from onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

__all__ = ["Span", "extents", "fields", "message", "number_field"]

GRAPH, METADATA = 7, 14  # ModelProto
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12  # GraphProto
NODE_OUTPUT = 2  # NodeProto
DATA_TYPE, NAME, RAW, DOC, EXTERNAL, LOCATION = 2, 8, 9, 12, 13, 14  # TensorProto

Span = tuple[int, int]
"""Where a field's content starts and ends in the file, in bytes."""


def fields(data: mmap.mmap | bytes, span: Span) -> Iterator[tuple[int, Span]]:
    """Yield number and content of every field of a message; of a varint, the bytes it takes.

    Raises:
        ValueError: the message is damaged or cut off.
        IndexError: likewise.
    """
    place, end = span
    while place < end:
        key, place = _varint(data, place, end)
        number, kind = key >> 3, key & 7
        start = place
        if kind == 0:
            _, place = _varint(data, place, end)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, start = _varint(data, place, end)
            place = start + length
        else:
            raise ValueError(f"byte {place} starts no field")
        if place > end or number == 0:
            raise ValueError(f"a field at byte {start} ends after its message")
        yield number, (start, place)


def extents(data: mmap.mmap | bytes, span: Span) -> Iterator[tuple[int, Span, Span]]:
    """Yield number, extent with its key, and content of every field of a message."""
    place = span[0]
    for number, content in fields(data, span):
        yield number, (place, content[1]), content
        place = content[1]


def _varint(data: mmap.mmap | bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(f"byte {place} is part of no number")
    raise ValueError("a number is cut off at the end")


def message(number: int, content: bytes) -> bytes:
    """Return a field that holds a message, text or bytes."""
    return _written(number << 3 | 2) + _written(len(content)) + content


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
