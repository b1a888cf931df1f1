"""Parquet and Arrow IPC as inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bertonnx.errors import BertonnxError, InputError, RowError
from bertonnx.runtime.io.arrow import (
    holds_text,
    longest,
    require_parquet,
    require_pyarrow,
    require_sound,
    text_bytes,
    texts_of,
)
from bertonnx.runtime.io.inputs import Choice, Input, choose_columns
from bertonnx.runtime.rows import Row, as_rows
from bertonnx.wording import Option

__all__ = ["open_ipc", "open_parquet"]

ROWS_READ = 1024
BYTES_READ = 32 << 20
"""Rows that become Python objects at a time, and the bytes that they may have."""

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
    # Of a broken file pyarrow raises its own errors, KeyError, UnicodeDecodeError and more.
    except Exception as error:
        raise InputError(
            "{path} cannot be read as {format}: {why}", path=choice.path, format=make.name, why=_why(error)
        ) from error
    try:
        return _ArrowRows(pa, choice, file)
    except BaseException:
        file.close()
        raise


def _why(error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, OSError) or type(error).__module__.startswith("pyarrow")
        else repr(error)
    )


class _Parquet:
    """A Parquet file; its parts are its row groups."""

    name, part = "Parquet", "row group"

    def __init__(self, pa: Any, path: str) -> None:
        self._pa, self._source = pa, pa.OSFile(path)
        self._file = self._opened([])
        self.schema = self._file.schema_arrow
        self.names = list(self.schema.names)
        self._rows = self._file.metadata.num_rows

    def _opened(self, dictionaries: list[str]) -> Any:
        # Without a buffer, pyarrow reads the columns of a whole row group at once.
        return require_parquet().ParquetFile(
            self._source,
            read_dictionary=dictionaries,
            buffer_size=1 << 20,
            pre_buffer=False,
            page_checksum_verification=True,
        )

    def parts(self, names: list[str]) -> Iterator[_Part]:
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows

            def load(group: int = group, rows: int = rows) -> Iterator[Any]:
                for batch in self._file.iter_batches(
                    self._at_once(group, names), row_groups=[group], columns=names, use_threads=False
                ):
                    rows -= batch.num_rows
                    yield batch
                if rows:
                    raise ValueError("it does not hold as many rows as it says")

            yield rows, load

    def _at_once(self, group: int, names: list[str]) -> int:
        """Return how many rows of a row group are read at a time, so that long texts take no gigabytes."""
        facts = self._file.metadata.row_group(group)
        columns = [facts.column(place) for place in range(facts.num_columns)]
        size = sum(one.total_uncompressed_size for one in columns if one.path_in_schema in names)
        most = size // max(facts.num_rows, 1)
        # Of a dictionary, a thousand rows can point to one text of megabytes, which is in the file once. Only
        # its first row is read like this: the further, the longer that takes.
        batches = self._opened(names).iter_batches(1, row_groups=[group], columns=names, use_threads=False)
        first = next(batches, None)
        for column in () if first is None else first.columns:
            if self._pa.types.is_dictionary(column.type):
                most = max(most, longest(column.dictionary))
        return max(1, min(ROWS_READ, int(BYTES_READ // max(most, 1))))

    def done(self, rows: int) -> float:
        return float(rows / self._rows) if self._rows else 1.0

    def close(self) -> None:
        self._file.close()
        self._source.close()


class _Ipc:
    """An Arrow IPC file or stream; its parts are its batches, of which the columns are read that are used.

    Not mapped: a file that is cut while it is mapped ends the process, and one that is written to
    changes behind the checks.
    """

    name, part = "Arrow IPC", "batch"

    def __init__(self, pa: Any, path: str) -> None:
        self._pa = pa
        self._file = pa.OSFile(path)
        self._size = max(Path(path).stat().st_size, 1)
        self._count: int | None = None
        try:
            self.schema = pa.ipc.open_file(self._file).schema
            self._is_stream = False
        except pa.ArrowInvalid:
            # A stream has no footer, which is how the two are told apart; both end in .arrow.
            self._file.seek(0)
            self.schema = pa.ipc.open_stream(self._file).schema
            self._is_stream = True
        self.names = list(self.schema.names)
        self._read = 0

    def parts(self, names: list[str]) -> Iterator[_Part]:
        for batch in self._batches(names):
            batch.validate()
            self._read += 1
            yield batch.num_rows, partial(_slices, batch)

    def _batches(self, names: list[str]) -> Iterator[Any]:
        fields = sorted(self.names.index(name) for name in names)
        options = self._pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        self._file.seek(0)
        if self._is_stream:
            yield from self._pa.ipc.open_stream(self._file, options=options)
            return
        reader = self._pa.ipc.open_file(self._file, options=options)
        self._count = reader.num_record_batches
        yield from map(reader.get_batch, range(self._count))

    def done(self, rows: int) -> float:  # noqa: ARG002
        if self._count is None:
            return 0.0 if self._file.closed else float(self._file.tell() / self._size)
        return self._read / max(self._count, 1)

    def close(self) -> None:
        self._file.close()


def _slices(batch: Any) -> Iterator[Any]:
    """Views of a batch: only so many rows at a time become Python objects."""
    for name in batch.schema.names:
        # All of it and once, since a view of a few rows does not show where the others lead.
        require_sound(batch.column(name))
    step, size = ROWS_READ, sum(map(text_bytes, batch.columns))
    if size > BYTES_READ:
        step = max(1, min(step, batch.num_rows * BYTES_READ // size))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


class _ArrowRows(Input):
    def __init__(self, pa: Any, choice: Choice, file: _Parquet | _Ipc) -> None:
        self._pa, self._choice, self._file = pa, choice, file
        column, pair = choose_columns(file.names, choice)
        for name in (column, pair):
            if name is not None:
                _check_type(choice.path, name, file.schema.field(name).type)
        self._column, self._pair = column, pair
        names = list(dict.fromkeys(n for n in (column, pair) if n))
        self._parts = self._reading(file.parts(names), parts=True)
        self._part = 0
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
            texts = self._texts(batch, self._column)
            pairs = None if self._pair is None else self._texts(batch, self._pair)
            for row in as_rows(texts, pairs):
                # Row by row, since a progress bar should not stand still for a whole batch.
                self._rows_done += 1
                yield row

    def _texts(self, batch: Any, name: str) -> list[Any]:
        try:
            require_sound(batch.column(name))
            return texts_of(batch.column(name))
        except Exception as error:
            raise self._broken(error) from error

    def _reading(self, things: Iterator[Any], *, parts: bool = False) -> Iterator[Any]:
        try:
            for thing in things:
                yield thing
                self._part += parts
        except BertonnxError:
            raise
        except Exception as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> InputError:
        return InputError(
            "{path} cannot be read on as {format}: {part} {number} of it: {why}",
            path=self._choice.path,
            format=self._file.name,
            part=self._file.part,
            number=self._part,
            why=_why(error),
        )

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
