"""Outputs of numbers alone: NumPy's `.npy`, float32, or the integers that embeddings were encoded in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.runtime.io.columns import Result, vector_of
from bertonnx.runtime.io.outputs import FRAME_BYTES, Done, SpoolWriter, Writer, has_other_columns, not_ours
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item
from bertonnx.wording import Option

__all__ = ["Numbers", "classification_numbers", "embedding_numbers", "open_npy", "ranking_numbers"]

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Numbers:
    """What a row of a `.npy` file holds.

    Attributes:
        width: how many numbers.
        of: takes them out of an item: an array or list of `width` numbers, or the only one.
        dtype: their type.
    """

    width: int
    of: Callable[[Item], Any]
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype("<f4"))

    @property
    def missing(self) -> float:
        """What a row that failed is filled with: NaN, or 0 where the type has no NaN."""
        return np.nan if self.dtype.kind == "f" else 0


def embedding_numbers(card: Card, decode: DecodeOptions) -> Numbers:
    """Return what takes the embedding.

    Raises:
        UsageError: a text may have several.
    """
    if decode.chunks:
        raise UsageError(
            "{asked} gives several embeddings to a text, and a .npy file says of none which it is of; write "
            ".jsonl, .csv or .parquet",
            asked=Option("chunks", True),
        )
    length, dtype = vector_of(card, decode)
    return Numbers(length, lambda item: item["embedding"], dtype.newbyteorder("<"))


def classification_numbers(card: Card, decode: DecodeOptions) -> Numbers:
    """Return what takes the score of each label, or the only score of regression."""
    labels = decode.labels or card.labels
    if decode.labels:
        return Numbers(len(labels), lambda item: list(item["scores"].values()))
    if not labels or (card.problem_type == "regression" and len(labels) == 1):
        return Numbers(1, lambda item: item["score"])
    return Numbers(len(labels), lambda item: [item["scores"].get(label, np.nan) for label in labels])


def ranking_numbers(card: Card, decode: DecodeOptions) -> Numbers:  # noqa: ARG001
    """Return what takes the score."""
    return Numbers(1, lambda item: item["score"])


def _numbers_of(card: Card, decode: DecodeOptions) -> Numbers:
    # A row of a fixed number of numbers is all that the format can hold.
    row = card.row(decode.task)
    if decode.query is not None:
        # Whatever a document is compared by, it gets one score.
        return ranking_numbers(card, decode)
    place = row.numbers
    if not place:
        raise UsageError(
            ".npy holds numbers, and the results of {task} are more than that; "
            "write .jsonl, .csv, .tsv, .parquet or .arrow",
            task=row.name,
        )
    return cast("Numbers", resolve(place)(card, decode))


def open_npy(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:
    """Open a `.npy` file.

    Raises:
        UsageError: the results of the model's task are more than numbers.
    """
    return _NpyWriter(path, _numbers_of(card, decode), resume=resume)


class _NpyWriter(SpoolWriter):
    """NumPy's format. A part of the spool is a row and one number more: 0 fine, 1 truncated, 2 failed."""

    def __init__(self, path: Path, numbers: Numbers, *, resume: bool) -> None:
        self._numbers = numbers
        self._width, self._dtype = numbers.width, numbers.dtype
        self._size = (self._width + 1) * self._dtype.itemsize
        super().__init__(path, resume=resume)

    def _begin(self) -> None:
        pass

    def _write(self, index: int, result: Result) -> None:  # noqa: ARG002  (the place says the row)
        record = np.full(self._width + 1, self._numbers.missing, self._dtype)
        if isinstance(result, RowError):
            record[-1] = 2
        else:
            record[:-1] = self._numbers.of(result)
            record[-1] = bool(result.get("truncated", False))
        self._put(record.tobytes())

    def _scan(self, parts: Iterator[bytes]) -> Done:
        done = Done(0, 0, 0)
        for records in self._chunks(parts):
            flags = records[:, -1]
            done = done.plus(len(records), int((flags == 2).sum()), int((flags == 1).sum()))
        return done

    def _chunks(self, parts: Iterator[bytes]) -> Iterator[npt.NDArray[Any]]:
        """The records of the spool, a quarter of a megabyte at a time."""
        many = max(_CHUNK_BYTES // self._size, 1)
        while some := list(islice(parts, many)):
            if any(len(part) != self._size for part in some):
                raise has_other_columns(self.spool)
            yield np.frombuffer(b"".join(some), self._dtype).reshape(-1, self._width + 1)

    def _assemble(self, parts: Iterator[bytes], target: BinaryIO) -> None:
        assert self._file is not None
        frame = self._size + FRAME_BYTES
        shape = (os.fstat(self._file.fileno()).st_size // frame, self._width)
        # Version 1.0, which all readers know, with the number of rows that only the end can tell.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(target, header)
        for records in self._chunks(parts):
            target.write(np.ascontiguousarray(records[:, :-1]).tobytes())

    def _scan_finished(self) -> Done:
        # Mapped: the file may be larger than memory.
        try:
            array = np.lib.format.open_memmap(self.path, mode="r")
        except (ValueError, EOFError) as error:
            raise not_ours(self.path) from error
        if array.dtype != self._dtype or array.shape[1:] != (self._width,):
            raise not_ours(self.path)
        step = max(_CHUNK_BYTES // self._size, 1)
        parts = (array[i : i + step] for i in range(0, len(array), step))
        return Done(len(array), sum(map(self._failed, parts)), 0)

    def _failed(self, rows: npt.NDArray[Any]) -> int:
        """Count the rows that failed, by what they are filled with: no embedding of some length is all 0."""
        missing = np.isnan(rows) if self._dtype.kind == "f" else rows == 0
        return int(missing.all(axis=1).sum())
