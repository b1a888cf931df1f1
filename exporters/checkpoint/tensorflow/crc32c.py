"""CRC-32C, by which TensorFlow's checkpoints tell damage, with NumPy alone: a gigabyte in about a second.

Sources: RFC 3720, appendix B.4, for the sum; tensorflow/core/lib/hash/crc32c.h for its masked form.

The sum is linear, so that many parts of a text can be worked on side by side: each of N columns takes every
Nth word of it, and a step moves all columns on by N words at once, with two look-ups for each. What is left
in the columns is a short text with the same sum.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["crc32c", "masked"]

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78
_ALL = 0xFFFFFFFF
_COLUMNS = (4096, 64)
"""Two stages: the first for speed, in the caches of a core, the second for what it leaves."""


def crc32c(data: bytes | Bytes, before: int = 0) -> int:
    """Return the sum of bytes.

    Args:
        data: the bytes.
        before: the sum of what comes before them.
    """
    start = before ^ _ALL
    if len(data) < 4 * _COLUMNS[-1]:
        return _plain(bytes(data), start) ^ _ALL
    array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    # What the sum begins with acts as if the first four bytes were others.
    first = np.array([int.from_bytes(array[:4].tobytes(), "little") ^ start], "<u4").view(np.uint8)
    rest = array[4:]
    for columns in _COLUMNS:
        if rest.size >= 4 * columns:
            first, rest = np.empty(0, np.uint8), _folded(first, rest, columns)
    return _plain(first.tobytes() + rest.tobytes(), 0) ^ _ALL


def masked(crc: int) -> int:
    """Return a sum as it is stored: a file that holds sums has a sum itself, which would be weak."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL


def _folded(first: Bytes, rest: Bytes, columns: int) -> Bytes:
    """Return so many words that have the sum of two texts, one behind the other, where sums begin with 0."""
    width = 4 * columns
    # Zeros in front change nothing where a sum begins with 0; so only the first row is a copy.
    taken = (first.size + rest.size) % width - first.size
    taken += width if taken < 0 else 0
    lead = np.concatenate([first, rest[:taken]])
    rows = np.concatenate([np.zeros(-lead.size % width, np.uint8), lead])
    words = np.zeros(columns, "<u4")
    halves = words.view("<u2")
    low, high = _steps(columns)
    for part in (rows, rest[taken:]):
        for start in range(0, part.size, width):
            moved = low.take(halves[0::2])
            moved ^= high.take(halves[1::2])
            np.bitwise_xor(moved, part[start : start + width].view("<u4"), out=words)
    return words.view(np.uint8)


@cache
def _table() -> tuple[int, ...]:
    numbers = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_POLYNOMIAL if number & 1 else 0)
        numbers.append(number)
    return tuple(numbers)


def _plain(data: bytes, state: int) -> int:
    table = _table()
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state


@cache
def _steps(columns: int) -> tuple[Words, Words]:
    """Return what each lower and each upper half of a word becomes, moved on by so many words."""
    bits = [_plain(bytes(4), 1 << bit) for bit in range(32)]
    # As many words are a power of two, moving by twice as many is moving twice.
    for _ in range(columns.bit_length() - 1):
        bits = [_moved(bits, word) for word in bits]
    return _spanned(bits[:16]), _spanned(bits[16:])


def _moved(bits: list[int], word: int) -> int:
    moved = 0
    for bit, became in enumerate(bits):
        moved ^= became if word >> bit & 1 else 0
    return moved


def _spanned(bits: list[int]) -> Words:
    table = np.zeros(1, np.uint32)
    for bit in bits:
        table = np.concatenate([table, table ^ np.uint32(bit)])
    return table
