"""Parquet and Arrow IPC, in and out. The only module that imports pyarrow, and only when called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from bertonnx.errors import InputError, MissingDependencyError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.columns import Column, Result, columns, values, width
from bertonnx.runtime.io.inputs import Choice, RowSource, choose_columns
from bertonnx.runtime.io.outputs import Done, SpoolWriter
from bertonnx.runtime.io.writers import not_ours
from bertonnx.runtime.rows import Row, as_rows

__all__ = [
    "ArrowWriter",
    "Streams",
    "open_arrow_rows",
    "predict_batch",
    "require_pyarrow",
    "schema_of",
    "to_batch",
]

ROWS_READ = 1024
ROWS_WRITTEN = 8192
"""Rows of a batch or row group in a finished file, whatever the batches in which they came."""

ROWS_SPOOLED = 1024
SECONDS_SPOOLED = 1.0

_TEXT_TYPES = ("string", "large_string", "string_view", "null")


def require_pyarrow() -> Any:
    """Import pyarrow and return it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            'Parquet and Arrow files need pyarrow; install it with: pip install "bertonnx[arrow]"'
        ) from error
    return pyarrow


# A part of a file (a row group or a batch): its rows, and what reads them.
_Part = tuple[int, Callable[[], Iterator[Any]]]


def open_arrow_rows(choice: Choice, *, parquet: bool) -> RowSource:
    """Open a Parquet or Arrow IPC file.

    Raises:
        InputError: not such a file, or without the columns, or they do not hold text.
        MissingDependencyError: pyarrow is not installed.
    """
    pa = require_pyarrow()
    what = "Parquet" if parquet else "Arrow IPC"
    try:
        file = _Parquet(pa, choice.path) if parquet else _Ipc(pa, choice.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{choice.path} cannot be read as {what}: {error}") from error
    try:
        return _ArrowRows(pa, choice, file, what)
    except BaseException:
        file.close()
        raise


class _Parquet:
    """A Parquet file; its parts are its row groups."""

    def __init__(self, pa: Any, path: str) -> None:
        # Without a buffer, pyarrow reads the columns of a whole row group at once.
        self._file = pa.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        self.schema = self._file.schema_arrow
        self._rows = self._file.metadata.num_rows

    def parts(self, names: list[str]) -> Iterator[_Part]:
        for group in range(self._file.num_row_groups):

            def load(group: int = group) -> Iterator[Any]:
                yield from self._file.iter_batches(
                    ROWS_READ, row_groups=[group], columns=names, use_threads=False
                )

            yield self._file.metadata.row_group(group).num_rows, load

    def done(self, rows: int) -> float:
        return float(rows / self._rows) if self._rows else 1.0

    def close(self) -> None:
        self._file.close()


class _Ipc:
    """An Arrow IPC file or stream; its parts are its batches. Mapped, so that only what is used is read."""

    def __init__(self, pa: Any, path: str) -> None:
        self._map = pa.memory_map(path)
        self._size = max(Path(path).stat().st_size, 1)
        try:
            self._reader = pa.ipc.open_file(self._map)
            self._count: int | None = self._reader.num_record_batches
        except pa.ArrowInvalid:
            self._map.seek(0)
            self._reader = pa.ipc.open_stream(self._map)
            self._count = None
        self.schema = self._reader.schema
        self._read = 0

    def parts(self, names: list[str]) -> Iterator[_Part]:
        for batch in self._batches():
            self._read += 1
            yield batch.num_rows, partial(_slices, batch.select(names))

    def _batches(self) -> Iterator[Any]:
        if self._count is None:
            yield from self._reader
        else:
            yield from map(self._reader.get_batch, range(self._count))

    def done(self, rows: int) -> float:  # noqa: ARG002
        if self._count is None:
            return float(self._map.tell() / self._size)
        return self._read / max(self._count, 1)

    def close(self) -> None:
        self._map.close()


def _slices(batch: Any) -> Iterator[Any]:
    """Views of a batch: only so many rows at a time become Python objects."""
    for start in range(0, batch.num_rows, ROWS_READ):
        yield batch.slice(start, ROWS_READ)


class _ArrowRows(RowSource):
    def __init__(self, pa: Any, choice: Choice, file: _Parquet | _Ipc, what: str) -> None:
        self._pa, self._choice, self._file, self._what = pa, choice, file, what
        column, pair = choose_columns(file.schema.names, choice)
        for name in (column, pair):
            if name is not None:
                _check_type(choice.path, name, file.schema.field(name).type)
        self._column, self._pair = column, pair
        self._parts = self._reading(file.parts(list(dict.fromkeys(n for n in (column, pair) if n))))
        self._begun: Iterator[Any] = iter(())
        self._rows_done = 0
        self.bytes_total = Path(choice.path).stat().st_size

    @property
    def bytes_done(self) -> int:
        return int((self.bytes_total or 0) * self._file.done(self._rows_done))

    def skip(self, count: int) -> int:
        passed = 0
        while passed < count and (part := next(self._parts, None)) is not None:
            rows, load = part
            if passed + rows > count:
                self._begun = self._without(self._reading(load()), count - passed)
            passed = min(passed + rows, count)
        self._rows_done = passed
        return passed

    def _without(self, batches: Iterator[Any], rows: int) -> Iterator[Any]:
        for batch in batches:
            yield batch.slice(min(rows, batch.num_rows))
            rows -= min(rows, batch.num_rows)

    def __iter__(self) -> Iterator[Row | RowError]:
        rest = chain.from_iterable(self._reading(load()) for _, load in self._parts)
        for batch in chain(self._begun, rest):
            texts = _texts(batch.column(self._column))
            pairs = None if self._pair is None else _texts(batch.column(self._pair))
            for row in as_rows(texts, pairs):
                self._rows_done += 1
                yield row

    def _reading(self, things: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from things
        except (self._pa.ArrowException, OSError) as error:
            raise InputError(f"{self._choice.path} cannot be read on as {self._what}: {error}") from error

    def close(self) -> None:
        self._file.close()


def _texts(column: Any) -> list[Any]:
    pa = require_pyarrow()
    try:
        texts: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        texts = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
    return texts


def _decoded(value: bytes | None) -> object:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _holds_text(kind: Any) -> bool:
    inner = kind.value_type if str(kind).startswith("dictionary") else kind
    return str(inner) in _TEXT_TYPES


def _check_type(path: str, name: str, kind: Any) -> None:
    if not _holds_text(kind):
        raise InputError(
            f"the column {name!r} of {path} holds {kind}, and text is needed; choose with --column"
        )


def schema_of(card: Card, *, top_k: int = 1) -> Any:
    """Return the Arrow schema of a model's results: the columns of `columns.columns`.

    Floats are float32, `row`, `start` and `end` int64, an embedding is a FixedSizeList.
    """
    pa = require_pyarrow()
    return pa.schema([(column.name, _type(pa, column, card)) for column in columns(card, top_k=top_k)])


def _type(pa: Any, column: Column, card: Card) -> Any:
    if column.kind == "embedding":
        return pa.list_(pa.float32(), width(card))
    text, number, real = pa.string(), pa.int64(), pa.float32()
    entity = {"entity": text, "text": text, "score": real, "start": number, "end": number}
    best = {"label": text, "score": real}
    answer = {"answer": text, "score": real, "start": number, "end": number}
    candidate = {"token": text, "token_id": number, "score": real, "sequence": text}
    return {
        "int": number,
        "bool": pa.bool_(),
        "text": text,
        "float": real,
        "labels": pa.list_(text),
        "entities": pa.list_(pa.struct(list(entity.items()))),
        "top": pa.list_(pa.struct(list(best.items()))),
        "answers": pa.list_(pa.struct(list(answer.items()))),
        "masks": pa.list_(pa.list_(pa.struct(list(candidate.items())))),
    }[column.kind]


def to_batch(card: Card, results: list[tuple[int, Result]], *, top_k: int = 1) -> Any:
    """Return a RecordBatch with a row for every (row number, result)."""
    pa = require_pyarrow()
    schema = schema_of(card, top_k=top_k)
    names = columns(card, top_k=top_k)
    table = list(zip(*(values(names, index, result) for index, result in results), strict=True))
    arrays = [
        _embeddings(pa, cells, field.type)
        if pa.types.is_fixed_size_list(field.type)
        else pa.array(cells, field.type)
        for cells, field in zip(table or [()] * len(schema), schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class Streams(Protocol):
    """What `predict_batch` needs of a model."""

    @property
    def card(self) -> Card:
        """The model's card."""
        ...

    def stream(self, rows: Iterable[Row | RowError]) -> Iterator[Result]:
        """Yield one result a row, in their order."""
        ...


def predict_batch(model: Streams, batch: Any) -> Any:
    """Return the RecordBatch of predictions for a RecordBatch of texts, a row for a row.

    The columns are chosen among those that hold text, as for a file without `--column`; where the
    model may read pairs, `text` and `pair` are taken together.

    Raises:
        InputError: nothing says which column holds the text, or the pair.
    """
    card = model.card
    names = [field.name for field in batch.schema if _holds_text(field.type)]
    if card.pairs is not False and {"text", "pair"} <= set(names):
        column, pair = "text", "pair"
    else:
        needs_pair = card.task == "question-answering" or card.pairs is True
        choice = Choice("the record batch", None, None, needs_pair)
        column, pair = choose_columns(names, choice)  # type: ignore[assignment]
    texts = _texts(batch.column(column))
    rows = as_rows(texts, None if pair is None else _texts(batch.column(pair)))
    return to_batch(card, list(enumerate(model.stream(rows))))


def _embeddings(pa: Any, cells: tuple[Any, ...], kind: Any) -> Any:
    flat = np.zeros((len(cells), kind.list_size), np.float32)
    missing = np.array([cell is None for cell in cells], dtype=bool)
    for place, cell in enumerate(cells):
        if cell is not None:
            flat[place] = cell
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=kind, mask=mask)


class ArrowWriter(SpoolWriter):
    """Parquet or Arrow IPC. The spool is an Arrow IPC stream without its end."""

    def __init__(self, path: Path, card: Card, *, top_k: int, parquet: bool, resume: bool) -> None:
        self._pa = require_pyarrow()
        self._schema = schema_of(card, top_k=top_k)
        self._top_k = top_k
        self._card = card
        self._parquet = parquet
        self._waiting: list[tuple[int, Result]] = []
        self._since = time.monotonic()
        super().__init__(path, resume=resume)

    def _write(self, index: int, result: Result) -> None:
        self._waiting.append((index, result))
        if len(self._waiting) >= ROWS_SPOOLED or time.monotonic() - self._since >= SECONDS_SPOOLED:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and self._file is not None and not self._file.closed:
            self._file.write(to_batch(self._card, waiting, top_k=self._top_k).serialize())
            self._file.flush()
        self._since = time.monotonic()

    def _begin(self, file: BinaryIO) -> None:
        file.write(self._schema.serialize())

    def _scan(self) -> tuple[Done, int]:
        """Read the spool as far as it is whole."""
        done, end = Done(0, 0, 0), 0
        with self._pa.OSFile(str(self.spool)) as file:
            try:
                schema = self._pa.ipc.read_schema(self._pa.ipc.read_message(file))
                self._check_schema(schema)
                end = file.tell()
                while True:
                    batch = self._pa.ipc.read_record_batch(self._pa.ipc.read_message(file), schema)
                    done, end = done.plus(*_counts(batch)), file.tell()
            except (EOFError, OSError, self._pa.ArrowInvalid):
                return done, end

    def _check_schema(self, schema: Any) -> None:
        if not schema.equals(self._schema):
            raise UsageError(f"{self.spool} has other columns than this model's; run without --resume")

    def _spooled(self) -> Iterator[Any]:
        """The spool's rows as tables of ROWS_WRITTEN rows, the last one shorter."""
        held: list[Any] = []
        with self._pa.OSFile(str(self.spool)) as file:
            reader = self._pa.ipc.open_stream(file)
            for batch in reader:
                held.append(batch)
                while sum(b.num_rows for b in held) >= ROWS_WRITTEN:
                    table = self._pa.Table.from_batches(held).combine_chunks()
                    yield table.slice(0, ROWS_WRITTEN)
                    held = table.slice(ROWS_WRITTEN).to_batches()
        if held:
            yield self._pa.Table.from_batches(held).combine_chunks()

    def _assemble(self, target: BinaryIO) -> None:
        if self._parquet:
            sink = self._pa.parquet.ParquetWriter(target, self._schema)
        else:
            sink = self._pa.ipc.new_file(target, self._schema)
        with sink:
            for table in self._spooled():
                sink.write_table(table)

    def _scan_finished(self) -> Done:
        done = Done(0, 0, 0)
        try:
            for batch in self._finished_parquet() if self._parquet else self._finished_ipc():
                done = done.plus(*_counts(batch))
        except self._pa.ArrowException as error:
            raise not_ours(self.path) from error
        except OSError as error:
            if error.errno is not None:
                raise
            # Without a number it is pyarrow's, about what the file holds.
            raise not_ours(self.path) from error
        return done

    def _finished_parquet(self) -> Iterator[Any]:
        with self._pa.parquet.ParquetFile(self.path) as file:
            self._must_be_ours(file.schema_arrow)
            yield from file.iter_batches(columns=["truncated", "error_type"])

    def _finished_ipc(self) -> Iterator[Any]:
        with self._pa.memory_map(str(self.path)) as file:
            reader = self._pa.ipc.open_file(file)
            self._must_be_ours(reader.schema)
            yield from map(reader.get_batch, range(reader.num_record_batches))

    def _must_be_ours(self, schema: Any) -> None:
        if not schema.equals(self._schema):
            raise not_ours(self.path)


def _counts(batch: Any) -> tuple[int, int, int]:
    errors = batch.num_rows - batch.column("error_type").null_count
    return batch.num_rows, errors, sum(filter(None, batch.column("truncated").to_pylist()))
