"""Parquet and Arrow IPC as inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bertonnx.errors import InputError, RowError
from bertonnx.runtime.io.arrow import holds_text, require_pyarrow, texts_of
from bertonnx.runtime.io.inputs import Choice, Input, choose_columns
from bertonnx.runtime.rows import Row, as_rows
from bertonnx.wording import Option

__all__ = ["open_ipc", "open_parquet"]

ROWS_READ = 1024

# A part of a file (a row group or a batch): its rows, and what reads them.
_Part = tuple[int, Callable[[], Iterator[Any]]]


def open_parquet(choice: Choice) -> Input:
    """Open a Parquet file.

    Raises:
        InputError: not such a file, or without the columns, or they do not hold text.
        MissingDependencyError: pyarrow is not installed.
    """
    return _opened(choice, _Parquet)


def open_ipc(choice: Choice) -> Input:
    """Open an Arrow IPC file or stream; raises as `open_parquet` does."""
    return _opened(choice, _Ipc)


def _opened(choice: Choice, make: type[_Parquet | _Ipc]) -> Input:
    pa = require_pyarrow()
    try:
        file = make(pa, choice.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            "{path} cannot be read as {format}: {why}", path=choice.path, format=make.name, why=str(error)
        ) from error
    try:
        return _ArrowRows(pa, choice, file)
    except BaseException:
        file.close()
        raise


class _Parquet:
    """A Parquet file; its parts are its row groups."""

    name = "Parquet"

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

    name = "Arrow IPC"

    def __init__(self, pa: Any, path: str) -> None:
        self._map = pa.memory_map(path)
        self._size = max(Path(path).stat().st_size, 1)
        try:
            self._reader = pa.ipc.open_file(self._map)
            self._count: int | None = self._reader.num_record_batches
        except pa.ArrowInvalid:
            # A stream has no footer, which is how the two are told apart; both end in .arrow.
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


class _ArrowRows(Input):
    def __init__(self, pa: Any, choice: Choice, file: _Parquet | _Ipc) -> None:
        self._pa, self._choice, self._file = pa, choice, file
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
        # Whole parts are passed over by their number of rows, which the file says, without reading them.
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
            texts = texts_of(batch.column(self._column))
            pairs = None if self._pair is None else texts_of(batch.column(self._pair))
            for row in as_rows(texts, pairs):
                # Row by row, since a progress bar should not stand still for a whole batch.
                self._rows_done += 1
                yield row

    def _reading(self, things: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from things
        except (self._pa.ArrowException, OSError) as error:
            raise InputError(
                "{path} cannot be read on as {format}: {why}",
                path=self._choice.path,
                format=self._file.name,
                why=str(error),
            ) from error

    def close(self) -> None:
        self._file.close()


def _check_type(path: str, name: str, kind: Any) -> None:
    if not holds_text(kind):
        raise InputError(
            "the column {name!r} of {path} holds {kind}, and text is needed; choose with {column}",
            name=name,
            path=path,
            kind=str(kind),
            column=Option("column"),
        )
