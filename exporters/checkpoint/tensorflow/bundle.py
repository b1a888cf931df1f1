"""TensorFlow's tensor bundle: `X.index` says what lies where in `X.data-00000-of-0000N`.

Source: tensorflow/core/protobuf/tensor_bundle.proto and tensorflow/core/util/tensor_bundle/tensor_bundle.h.
Both forms of checkpoints are such bundles, and so are the variables of a SavedModel.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow import object_graph
from bertonnx.exporters.checkpoint.tensorflow.crc32c import crc32c, masked
from bertonnx.exporters.checkpoint.tensorflow.sstable import DamagedError, entries, varint
from bertonnx.exporters.checkpoint.tensorflow.stored import Stored
from bertonnx.runtime.modelfile.wire import fields, number_at

__all__ = ["data_files", "read_bundle"]

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

_DTYPES: Mapping[int, str] = {
    **{1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string"},
    **{9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64"},
}
"""Numbers of tensorflow/core/framework/types.proto."""


class SlicedError(Exception):
    """A variable lies in slices; the argument is its name."""


@dataclass(frozen=True)
class _Entry:
    key: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_bundle(prefix: Path) -> list[Stored]:
    """Return the tensors of a checkpoint, by the name that each variable has, in the order of the keys.

    The numbers of each are compared with their checksum when they are read.

    Args:
        prefix: the path before `.index`.

    Raises:
        CheckpointError: a file is missing, cut short or damaged, or a variable lies in slices.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        shards, found = _entries(index.read_bytes())
    except SlicedError as error:
        raise CheckpointError(
            "{index} is of a checkpoint whose variable {name} lies in slices, as it was partitioned when it "
            "was saved; restore it in TensorFlow without a partitioner, and save it whole",
            index=index,
            name=error,
        ) from error
    except (DamagedError, IndexError, ValueError, OSError) as error:
        raise CheckpointError(
            "{index} cannot be read as the index of a TensorFlow checkpoint: {why}; copy the checkpoint's "
            "files again",
            index=index,
            why=error,
        ) from error
    # Mapped, not read: the optimizer's slots, two thirds of a training checkpoint, cost nothing then.
    paths = data_files(prefix, shards)
    files = _opened(paths)
    stored = [_stored(entry, files, prefix) for entry in found]
    names = _full_names(stored, found, index)

    def named(one: Stored, entry: _Entry) -> Stored:
        label = names.get(one.key, one.key)
        raw = files[entry.shard][entry.offset : entry.offset + entry.size]
        checked = _checked(one.read, raw, _Sum(entry, label, paths[entry.shard]))
        return replace(one, name=label, label=label, read=checked)

    return [named(one, entry) for one, entry in zip(stored, found, strict=True) if one.key != _GRAPH]


@dataclass(frozen=True)
class _Sum:
    """What is said where numbers and checksum of an entry do not agree.

    Attributes:
        entry: of the index.
        label: the variable's name.
        path: the file of its numbers.
    """

    entry: _Entry
    label: str
    path: Path

    def require(self, raw: npt.NDArray[np.uint8]) -> None:
        """Compare.

        Raises:
            CheckpointError: they differ.
        """
        found = _sum_of_texts(raw, self.entry) if self.entry.dtype == "string" else crc32c(raw)
        if masked(found) != self.entry.crc:
            raise CheckpointError(
                "{path} is damaged: the checksum of {label} is wrong; copy the checkpoint's files again",
                path=self.path,
                label=self.label,
            )


def _checked(
    read: Callable[[], npt.NDArray[Any]], raw: npt.NDArray[np.uint8], check: _Sum
) -> Callable[[], npt.NDArray[Any]]:
    done = False

    def checked() -> npt.NDArray[Any]:
        nonlocal done
        if not done:
            check.require(raw)
            done = True
        return read()

    return checked


def _sum_of_texts(raw: npt.NDArray[np.uint8], entry: _Entry) -> int:
    """Return the sum of a tensor of texts: of their lengths as fixed numbers, the lengths' sum, the texts."""
    data, place, found = raw.tobytes(), 0, 0
    for _ in range(math.prod(entry.shape)):
        length, place = varint(data, place)
        found = crc32c(length.to_bytes(4 if length < 1 << 32 else 8, "little"), found)
    return crc32c(data[place:], found)


def data_files(prefix: Path, shards: int) -> list[Path]:
    """Return the files of a checkpoint's numbers.

    Raises:
        CheckpointError: one is not there.
    """
    paths = [prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{shards:05d}") for number in range(shards)]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise CheckpointError(
            "{prefix} is a TensorFlow checkpoint in {shards} files of numbers, and {absent} is not there; "
            "copy all its files into one folder",
            prefix=prefix,
            shards=shards,
            absent=", ".join(absent),
        )
    return paths


def _entries(data: bytes) -> tuple[int, list[_Entry]]:
    shards, found = 0, []
    for number, (key, value) in enumerate(entries(data)):
        if number == 0:
            if key:
                raise DamagedError("it does not begin with the header of a checkpoint")
            shards = _header(value)
            continue
        # What a partitioned variable is cut into has keys that are no texts, behind its own entry.
        if key[:1] == b"\x00":
            continue
        found.append(_entry(key.decode("utf-8"), value))
    if not 0 < shards <= 99999:
        raise DamagedError(f"its header says that its numbers lie in {shards} files")
    return shards, found


def _header(value: bytes) -> int:
    shards = 0
    for number, span in fields(value, (0, len(value))):
        if number == 1:
            shards = number_at(value, span)
        if number == 2 and number_at(value, span):
            raise DamagedError("its numbers are big-endian, which no machine that we know of writes")
    return shards


def _entry(key: str, value: bytes) -> _Entry:
    found = {1: 0, 3: 0, 4: 0, 5: 0}
    crc = 0
    shape: tuple[int, ...] = ()
    for number, (start, end) in fields(value, (0, len(value))):
        if number in found:
            found[number] = number_at(value, (start, end))
        elif number == 2:
            shape = _shape(value[start:end])
        elif number == 6:
            crc = int.from_bytes(value[start:end], "little")
        elif number == 7:
            raise SlicedError(key)
    dtype = _DTYPES.get(found[1], f"type {found[1]}")
    if dtype not in _DTYPES.values():
        raise DamagedError(f"{key} holds numbers of a kind that no BERT has ({dtype})")
    return _Entry(key, dtype, shape, found[3], found[4], found[5], crc)


def _shape(value: bytes) -> tuple[int, ...]:
    sizes = []
    for number, (start, end) in fields(value, (0, len(value))):
        if number == 3:
            raise DamagedError("a tensor has no known shape")
        if number == 2:
            # A size of 0 is not written.
            inner = value[start:end]
            numbers = [number_at(inner, span) for kind, span in fields(inner, (0, len(inner))) if kind == 1]
            sizes.append(numbers[-1] if numbers else 0)
    if any(size >= 1 << 62 for size in sizes):
        raise DamagedError("a tensor's shape has a negative number")
    return tuple(sizes)


def _opened(paths: list[Path]) -> list[npt.NDArray[np.uint8]]:
    """Map the files into memory: what is not asked for is not read."""
    files: list[npt.NDArray[np.uint8]] = []
    for path in paths:
        # An empty file cannot be mapped.
        if not path.stat().st_size:
            files.append(np.empty(0, np.uint8))
            continue
        with path.open("rb") as stream:
            view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        files.append(np.frombuffer(view, np.uint8))
    return files


def _stored(entry: _Entry, files: list[npt.NDArray[np.uint8]], prefix: Path) -> Stored:
    if entry.shard >= len(files):
        raise CheckpointError(
            "{prefix}.index says that {key} lies in file {shard}, and there are {shards}; copy the "
            "checkpoint's files again",
            prefix=prefix,
            key=entry.key,
            shard=entry.shard + 1,
            shards=len(files),
        )
    file = files[entry.shard]
    if entry.offset + entry.size > file.size:
        raise CheckpointError(
            "{prefix}.data-{shard:05d}-of-{shards:05d} is cut short: {key} ends at byte {end}, and the file "
            "has {size}; copy the checkpoint's files again",
            prefix=prefix,
            shard=entry.shard,
            shards=len(files),
            key=entry.key,
            end=entry.offset + entry.size,
            size=file.size,
        )
    raw = file[entry.offset : entry.offset + entry.size]
    kind = "uint16" if entry.dtype == "bfloat16" else entry.dtype

    def read() -> npt.NDArray[Any]:
        return raw if kind == "string" else raw.view(np.dtype(kind)).reshape(entry.shape)

    found = Stored(entry.key, entry.key, entry.dtype, entry.shape, read)
    if found.numeric and found.bytes != entry.size:
        raise CheckpointError(
            "{prefix}.index gives {key} the shape {shape} of {dtype}, which is {wanted} bytes, and {size} "
            "bytes in the file; copy the checkpoint's files again",
            prefix=prefix,
            key=entry.key,
            shape=entry.shape,
            dtype=entry.dtype,
            wanted=found.bytes,
            size=entry.size,
        )
    return found


def _full_names(stored: list[Stored], found: list[_Entry], index: Path) -> Mapping[str, str]:
    """Return key -> the variable's full name, where the checkpoint keeps a graph of its objects."""
    graphs = [pair for pair in zip(stored, found, strict=True) if pair[0].key == _GRAPH]
    if not graphs:
        return {}
    one, entry = graphs[0]
    try:
        raw = one.read()
        # A changed letter would give a variable another's name.
        if masked(_sum_of_texts(raw, entry)) != entry.crc:
            raise DamagedError("its checksum is wrong")
        return object_graph.full_names(_text(raw.tobytes()))
    except (DamagedError, IndexError, ValueError) as error:
        raise CheckpointError(
            "{index} names its variables in a graph of objects that is damaged ({why}); copy the "
            "checkpoint's files again",
            index=index,
            why=error,
        ) from error


def _text(raw: bytes) -> bytes:
    """Return the one text of a tensor of texts: its length, a checksum, its bytes."""
    length, place = varint(raw, 0)
    if place + 4 + length != len(raw):
        raise DamagedError("its length is not that of its text")
    return raw[place + 4 :]
