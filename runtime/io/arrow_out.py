"""Parquet and Arrow IPC as outputs, and the record batches that they consist of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bertonnx.errors import BertonnxError
from bertonnx.models.card import Card
from bertonnx.runtime.io.arrow import require_parquet, require_pyarrow
from bertonnx.runtime.io.arrow_arrays import array_of
from bertonnx.runtime.io.columns import Column, Result, columns, parts_of, values
from bertonnx.runtime.io.outputs import Done, SpoolWriter, Writer, has_other_columns, not_ours
from bertonnx.runtime.options import DecodeOptions

__all__ = ["open_ipc", "open_parquet", "schema_of", "to_batch"]

ROWS_WRITTEN = 8192
"""Rows of a batch or row group in a finished file, whatever the batches in which they came."""

_COUNTED = ("row", "truncated", "error_type")

ROWS_SPOOLED = 1024
SECONDS_SPOOLED = 1.0
"""Rows are handed to the spool at either, so that a kill costs little."""


def open_parquet(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:
    """Open a Parquet file."""
    return _ArrowWriter(path, card, decode, parquet=True, resume=resume)


def open_ipc(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:
    """Open an Arrow IPC file."""
    return _ArrowWriter(path, card, decode, parquet=False, resume=resume)


def schema_of(card: Card, decode: DecodeOptions) -> Any:
    """Return the Arrow schema of a model's results: the columns of `columns.columns`.

    Floats are float32, whole numbers int64, a vector is a FixedSizeList of its numbers' type.
    """
    pa = require_pyarrow()
    return pa.schema([(column.name, _type(pa, column)) for column in columns(card, decode)])


def _type(pa: Any, column: Column) -> Any:
    scalars = {"int": pa.int64(), "bool": pa.bool_(), "text": pa.string(), "float": pa.float32()}
    if column.kind == "vector":
        kind = pa.list_(pa.from_numpy_dtype(np.dtype(column.dtype)), column.width)
    elif column.kind == "struct":
        kind = pa.struct([(name, scalars[scalar]) for name, scalar in column.fields.items()])
    else:
        kind = scalars[column.kind]
    for _ in range(column.lists):
        kind = pa.list_(kind)
    return kind


def to_batch(card: Card, results: list[tuple[int, Result]], decode: DecodeOptions) -> Any:
    """Return a RecordBatch with a row for every (row number, result)."""
    pa = require_pyarrow()
    schema = schema_of(card, decode)
    names = columns(card, decode)
    # With the schema given, a column whose every cell is None has its type all the same.
    table = list(zip(*(values(names, index, result) for index, result in results), strict=True))
    arrays = [
        array_of(pa, cells, field.type)
        for cells, field in zip(table or [()] * len(schema), schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _ArrowWriter(SpoolWriter):
    """Parquet or Arrow IPC. The parts of the spool are the messages of an IPC stream without its end."""

    def __init__(self, path: Path, card: Card, decode: DecodeOptions, *, parquet: bool, resume: bool) -> None:
        self._pa = require_pyarrow()
        self._schema = schema_of(card, decode)
        self._card, self._decode = card, decode
        self._parquet = parquet
        self._waiting: list[tuple[int, Result]] = []
        self._since = time.monotonic()
        super().__init__(path, resume=resume)

    def _write(self, index: int, result: Result) -> None:
        # All of a text's chunks, so that a part of the spool holds whole rows of input.
        self._waiting += [(index, part) for part in parts_of(result)]
        if len(self._waiting) >= ROWS_SPOOLED or time.monotonic() - self._since >= SECONDS_SPOOLED:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and self._file is not None and not self._file.closed:
            self._put(bytes(to_batch(self._card, waiting, self._decode).serialize()))
        self._since = time.monotonic()

    def _begin(self) -> None:
        self._put(bytes(self._schema.serialize()))

    def _scan(self, parts: Iterator[bytes]) -> Done:
        return _counted(self._batches(parts))

    def _batches(self, parts: Iterator[bytes]) -> Iterator[Any]:
        """The batches of a spool; their bytes are those that were written, as their checksums say."""
        schema = None
        for part in parts:
            if schema is None:
                schema = self._pa.ipc.read_schema(self._pa.py_buffer(part))
                if not schema.equals(self._schema):
                    raise has_other_columns(self.spool)
            else:
                yield self._pa.ipc.read_record_batch(self._pa.py_buffer(part), schema)

    def _tables(self, parts: Iterator[bytes]) -> Iterator[Any]:
        """The spool's rows as tables of ROWS_WRITTEN rows, the last one shorter."""
        held: list[Any] = []
        for batch in self._batches(parts):
            held.append(batch)
            while sum(b.num_rows for b in held) >= ROWS_WRITTEN:
                table = self._pa.Table.from_batches(held).combine_chunks()
                yield table.slice(0, ROWS_WRITTEN)
                held = table.slice(ROWS_WRITTEN).to_batches()
        if held:
            yield self._pa.Table.from_batches(held).combine_chunks()

    def _assemble(self, parts: Iterator[bytes], target: BinaryIO) -> None:
        if self._parquet:
            opened = require_parquet().ParquetWriter(target, self._schema)
        else:
            opened = self._pa.ipc.new_file(target, self._schema)
        with opened:
            for table in self._tables(parts):
                opened.write_table(table)

    def _scan_finished(self) -> Done:
        try:
            return _counted(self._finished_parquet() if self._parquet else self._finished_ipc())
        except BertonnxError:
            raise
        except Exception as error:
            # With a number it is the system's, and says that the file could not be read at all; the rest is
            # about what the file holds, which can be anything.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise not_ours(self.path) from error

    def _finished_parquet(self) -> Iterator[Any]:
        with require_parquet().ParquetFile(self.path) as file:
            self._must_be_ours(file.schema_arrow)
            yield from file.iter_batches(columns=list(_COUNTED))

    def _finished_ipc(self) -> Iterator[Any]:
        with self._pa.OSFile(str(self.path)) as file:
            self._must_be_ours(self._pa.ipc.open_file(file).schema)
            fields = [self._schema.get_field_index(name) for name in _COUNTED]
            options = self._pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
            reader = self._pa.ipc.open_file(file, options=options)
            for batch in map(reader.get_batch, range(reader.num_record_batches)):
                batch.validate(full=True)
                yield batch

    def _must_be_ours(self, schema: Any) -> None:
        if not schema.equals(self._schema):
            raise not_ours(self.path)


def _counted(batches: Iterator[Any]) -> Done:
    """Return how many rows of input there are, of which several rows with one number are one."""
    done, last = Done(0, 0, 0), None
    for batch in batches:
        for row, cut, error in zip(*(batch.column(name).to_pylist() for name in _COUNTED), strict=True):
            if row != last:
                done = done.plus(1, error is not None, bool(cut))
            last = row
    return done
