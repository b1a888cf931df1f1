"""The sorted table of LevelDB, in which TensorFlow keeps the index of a checkpoint.

Source: https://github.com/google/leveldb/blob/main/doc/table_format.md. A block is entries that share the
beginnings of their keys, then a byte for its compression and a checksum; a footer of 48 bytes says where the
index of blocks lies.
"""

from __future__ import annotations

from collections.abc import Iterator

from bertonnx.exporters.checkpoint.tensorflow.crc32c import crc32c, masked

__all__ = ["DamagedError", "entries"]

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5
_COMPRESSIONS = {1: "snappy", 2: "zstd", 4: "zlib"}
_LONGEST = 64 << 20
"""More bytes than any index has: that of 10,000 tensors takes one megabyte."""


class DamagedError(Exception):
    """A file is not what it has to be; the argument says in which way."""


def entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a table, in the order of the keys.

    Raises:
        DamagedError: it is no such table, is cut short, was changed, or its blocks are compressed.
    """
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise DamagedError("its last bytes are not those of a checkpoint's index, or were cut off")
    if len(data) > _LONGEST:
        raise DamagedError(f"it takes {len(data)} bytes, more than an index has")
    place = len(data) - _FOOTER
    # The first block is of metadata, such as filters, of which TensorFlow writes none.
    _, place = _handle(data, place)
    index, _ = _handle(data, place)
    last = b""
    for _, value in _block(data, index):
        handle, end = _handle(value, 0)
        if end != len(value):
            raise DamagedError("an entry of its index has bytes too many")
        for key, content in _block(data, handle):
            # TensorFlow writes keys in order, each once; the very first is the empty one.
            if key <= last and last:
                raise DamagedError("its keys are out of order, or one is there twice")
            last = key
            yield key, content


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = varint(data, place)
    size, place = varint(data, place)
    return (offset, size), place


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    offset, size = handle
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER or size < 4:
        raise DamagedError("a block of it reaches beyond its end")
    kind = data[end]
    if kind:
        name = _COMPRESSIONS.get(kind, f"method {kind}")
        raise DamagedError(
            f"its blocks are compressed ({name}), which TensorFlow's own checkpoints are not; save it again "
            "with TensorFlow: tf.train.Checkpoint or tf.compat.v1.train.Saver"
        )
    content = data[offset:end]
    # TensorFlow checks it too; a flipped bit in a shape or an offset would give other weights.
    wanted = int.from_bytes(data[end + 1 : end + _TRAILER], "little")
    if masked(crc32c(data[offset : end + 1])) != wanted:
        raise DamagedError("the checksum of a block is wrong, so it was damaged")
    restarts = int.from_bytes(content[-4:], "little")
    limit = len(content) - 4 - 4 * restarts
    if restarts < 1 or limit < 0:
        raise DamagedError("a block of it has no beginning")
    yield from _pairs(content, limit)


def _pairs(content: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
    # Keys are sorted, so that most begin as the one before: only what differs is written.
    place, key = 0, b""
    while place < limit:
        shared, place = varint(content, place)
        own, place = varint(content, place)
        length, place = varint(content, place)
        if shared > len(key) or place + own + length > limit:
            raise DamagedError("an entry of it reaches beyond its block")
        key = key[:shared] + content[place : place + own]
        place += own
        yield key, content[place : place + length]
        place += length


def varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of up to 64 bits at a place, and where it ends.

    Raises:
        DamagedError: it is cut off, or longer than ten bytes.
    """
    value = 0
    for count in range(10):
        if place + count >= len(data):
            raise DamagedError("a number in it is cut off")
        byte = data[place + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if value >> 64:
                break
            return value, place + count + 1
    raise DamagedError("a number in it takes more than 64 bits")
