"""Writes TensorFlow's checkpoints by hand, well or badly; independent of what reads them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["DTYPES", "crc32c", "table", "write_bundle"]

DTYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "float16": 19,
}
MAGIC = 0xDB4775248B80FB57


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def _eight(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


TABLE = tuple(map(_eight, range(256)))


def crc32c(data: bytes) -> int:
    """Return the masked sum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(pairs: Sequence[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    body = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in pairs)
    body += struct.pack("<II", 0, 1) + bytes([compression])
    return body + struct.pack("<I", crc32c(body))


def table(pairs: Sequence[tuple[bytes, bytes]], *, compression: int = 0, magic: int = MAGIC) -> bytes:
    """Return a table of one block."""
    data = block(pairs, compression)
    meta = block([])
    index = block([(pairs[-1][0] + b"\xff", varint(0) + varint(len(data) - 5))])
    handles = (
        varint(len(data)) + varint(len(meta) - 5) + varint(len(data) + len(meta)) + varint(len(index) - 5)
    )
    return data + meta + index + handles.ljust(40, b"\0") + struct.pack("<Q", magic)


def entry(
    dtype: int,
    shape: Sequence[int],
    offset: int,
    size: int,
    *,
    shard: int = 0,
    crc: int = 0,
    more: bytes = b"",
) -> bytes:
    sizes = b"".join(field(2, field(1, each)) for each in shape)
    placed = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, dtype) + field(2, sizes) + placed + b"\x35" + struct.pack("<I", crc) + more


def write_bundle(
    prefix: Path,
    variables: Mapping[str, Any],
    *,
    shards: int = 1,
    compression: int = 0,
    entries: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint; `entries` are of the index, in place of those of its variables.

    A value is an array, or `(dtype, uint16 array)` for bfloat16.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    data, index = b"", {}
    for name, value in sorted(variables.items()):
        kind, array = value if isinstance(value, tuple) else (value.dtype.name, value)
        raw = np.ascontiguousarray(array).tobytes()
        index[name] = entry(DTYPES[kind], array.shape, len(data), len(raw), crc=crc32c(raw))
        data += raw
    index |= entries or {}
    header = field(1, shards) + field(3, field(1, 1))
    pairs = [(b"", header), *sorted((name.encode(), value) for name, value in index.items())]
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(pairs, compression=compression))
    prefix.with_name(f"{prefix.name}.data-00000-of-{shards:05d}").write_bytes(data)
    return prefix
