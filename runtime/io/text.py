"""Outputs of text, appended to the file itself row by row: JSON Lines, CSV and TSV."""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.columns import Column, Result, columns, message, parts_of, values
from bertonnx.runtime.io.files import is_same, open_in_place
from bertonnx.runtime.io.floats import floats_text, shortest
from bertonnx.runtime.io.outputs import Done, Mark, Writer, gone, has_other_columns, not_ours
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item
from bertonnx.wording import Option

__all__ = [
    "json_line",
    "open_csv",
    "open_json",
    "open_lines",
    "open_safe_csv",
    "open_safe_tsv",
    "open_standard_output",
    "open_tsv",
]

# What JSON leaves as it is, and terminals and some readers do not: C1 controls, line ends of Unicode.
_LINE_BREAKS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}
_FORMULAS = tuple("=+-@\t\r\n＝＋－＠")
_SPECIAL = re.compile('[",\t\r\n]')


def open_standard_output() -> Writer:
    """Open standard output for JSON Lines."""
    return open_lines(None)


def open_lines(path: Path | None) -> Writer:
    """Open a file of JSON Lines, or standard output, whose lines no model's task decides on."""
    return _LineWriter(path, _JsonForm(), resume=False)


def open_json(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:  # noqa: ARG001
    """Open a file of JSON Lines."""
    return _LineWriter(path, _JsonForm(), resume=resume, several=decode.chunks)


def open_csv(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:
    """Open a file of comma-separated values."""
    return _LineWriter(path, _TableForm(",", columns(card, decode)), resume=resume, several=decode.chunks)


def open_safe_csv(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:
    """Open a file of comma-separated values in which a spreadsheet finds no formulas."""
    form = _TableForm(",", columns(card, decode), safe=True)
    return _LineWriter(path, form, resume=resume, several=decode.chunks)


def open_safe_tsv(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:
    """Open a file of tab-separated values in which a spreadsheet finds no formulas."""
    form = _TableForm("\t", columns(card, decode), safe=True)
    return _LineWriter(path, form, resume=resume, several=decode.chunks)


def open_tsv(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:
    """Open a file of tab-separated values."""
    return _LineWriter(path, _TableForm("\t", columns(card, decode)), resume=resume, several=decode.chunks)


def json_line(index: int, result: Result) -> str:
    """Return the JSON line of one row, without its end."""
    if isinstance(result, RowError):
        text = _json({"row": index, "error": {"type": result.kind, "message": message(result)}})
    elif any(isinstance(value, np.ndarray) for value in result.values()):
        fields = {"row": index, **_truncated_last(result)}
        text = "{" + ", ".join(f"{_json(name)}: {_fast(value)}" for name, value in fields.items()) + "}"
    else:
        text = _json({"row": index, **_truncated_last(result)})
    # Readers that split at every Unicode line end must not find one inside a line.
    return text if text.isascii() and "\x7f" not in text else text.translate(_LINE_BREAKS)


def _fast(value: Any) -> str:
    # A vector has hundreds of numbers, which the JSON encoder would take one by one.
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return f"[{_joined(value)}]"
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return f"[{', '.join(map(_fast, value))}]"
    return _json(value)


def _joined(vector: npt.NDArray[Any], separator: str = ", ") -> str:
    whole = vector.dtype.kind in "iu"
    return separator.join(map(str, vector.tolist())) if whole else floats_text(vector, separator)


def _truncated_last(item: Item) -> Item:
    rest = {name: value for name, value in item.items() if name != "truncated"}
    return {**rest, "truncated": True} if item.get("truncated") else rest


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return the value with every float shortened, and without NumPy."""
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return shortest(float(value))
    return value.item() if isinstance(value, np.generic) else value


class _Form(Protocol):
    """How rows become text, and what a whole record of a file holds."""

    @property
    def header(self) -> str: ...

    @property
    def quoted(self) -> bool:
        """Whether a line end can stand inside quotes."""
        ...

    def text(self, index: int, result: Result) -> str: ...

    def number(self, record: bytes) -> int | None: ...

    def failed(self, record: bytes) -> bool: ...

    def truncated(self, record: bytes) -> bool: ...


class _JsonForm:
    """JSON Lines, and how to know what a line of it holds."""

    header = ""
    quoted = False
    _number = re.compile(rb'\{"row": (\d+), ')
    _error = re.compile(rb'\{"row": \d+, "error": ')

    def text(self, index: int, result: Result) -> str:
        return json_line(index, result) + "\n"

    def number(self, record: bytes) -> int | None:
        match = self._number.match(record)
        return int(match[1]) if match else None

    def failed(self, record: bytes) -> bool:
        return bool(self._error.match(record))

    def truncated(self, record: bytes) -> bool:
        return record.endswith(b'"truncated": true}\n')


class _TableForm:
    """CSV or TSV.

    Args:
        delimiter: what stands between cells.
        table: the columns.
        safe: whether texts are written so that a spreadsheet runs none of them.
    """

    quoted = True
    _number = re.compile(rb"(\d+)[,\t]")

    def __init__(self, delimiter: str, table: tuple[Column, ...], *, safe: bool = False) -> None:
        self._delimiter = delimiter
        self._text = _harmless if safe else _quoted
        self._columns = table
        self._end = (delimiter * 2 + "\n").encode()
        self.header = delimiter.join(map(_quoted, self._names())) + "\n"

    def _names(self) -> Iterator[str]:
        for column in self._columns:
            if _is_vector(column):
                yield from (f"e{i}" for i in range(column.width))
            else:
                yield column.name

    def text(self, index: int, result: Result) -> str:
        row = values(self._columns, index, result)
        cells = (
            self._numbers(value, column) if _is_vector(column) else self._cell(value, column)
            for value, column in zip(row, self._columns, strict=True)
        )
        return self._delimiter.join(cells) + "\n"

    def _numbers(self, vector: npt.NDArray[Any] | None, column: Column) -> str:
        """The cells of a vector, joined."""
        if vector is None:
            return self._delimiter * (column.width - 1)
        return _joined(vector, self._delimiter).replace("null", "")

    def _cell(self, value: Any, column: Column) -> str:
        if value is None:
            return ""
        if column.kind == "text" and column.lists < 2:
            return self._text("|".join(value) if column.lists else value)
        if column.lists == 0 and column.kind == "float":
            number = shortest(value)
            return "" if number is None else repr(number)
        return str(value) if column.lists == 0 and column.kind == "int" else _quoted(_json(value))

    def number(self, record: bytes) -> int | None:
        match = self._number.match(record)
        return int(match[1]) if match else None

    def failed(self, record: bytes) -> bool:
        return not record.endswith(self._end)

    def truncated(self, record: bytes) -> bool:
        return record.endswith(self._delimiter.encode() + b"true" + self._end)


def _quoted(cell: str) -> str:
    # Not csv.writer, which before Python 3.13 leaves a lone CR without quotes.
    if _SPECIAL.search(cell):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _harmless(cell: str) -> str:
    # As OWASP has it: a quote in front of what a spreadsheet takes for a formula, and quotes around each
    # text, or one that takes semicolons for separators finds a formula in the middle.
    guard = "'" if cell.startswith(_FORMULAS) else ""
    return '"' + guard + cell.replace('"', '""') + '"'


def _is_vector(column: Column) -> bool:
    return column.kind == "vector" and not column.lists


class _LineWriter(Writer):
    """Appends lines to the file itself.

    Args:
        path: the file; None for standard output.
        form: how rows become text.
        resume: whether to go on behind what is there.
        several: whether a row of input can have several records.
    """

    def __init__(self, path: Path | None, form: _Form, *, resume: bool, several: bool = False) -> None:
        self.path = path
        self.lasting = path is not None and (path.is_file() or not path.exists())
        self._form = form
        self._several = several
        self._file: BinaryIO | None = None
        self._end = 0
        self._mark = Mark(0, 0)
        if resume and path is not None and path.is_file():
            self.done, self._mark = self._guarded(self._scan_begun)
            self._end = self._mark.size

    def _clear(self) -> None:
        if self.path is not None and self.lasting and not self._end:
            with open_in_place(self.path) as file:
                file.truncate(0)

    def _start(self) -> None:
        if self._file is not None:
            return
        if self.path is None:
            self._file = sys.stdout.buffer
        elif self.lasting:
            self._file = open_in_place(self.path)
            self._file.truncate(self._end)
            self._file.seek(self._end)
        else:
            self._file = self.path.open("wb")
        if not self._end:
            self._put(self._form.header)

    def _put(self, text: str) -> None:
        assert self._file is not None
        data = text.encode()
        # Every row goes to the operating system at once: a flush costs a microsecond or two, a row of
        # inference a hundred times that, and nobody can know how long the next row will take.
        self._file.write(data)
        self._file.flush()
        self._mark = Mark(self._mark.size + len(data), zlib.crc32(data, self._mark.crc))

    def mark(self) -> Mark | None:
        """Return how far the file was written."""
        return self._mark

    def require_there(self) -> None:
        """Check that the file is where its name leads."""
        if self._file is not None and self.path is not None and self.lasting:
            there = not self._file.closed and is_same(self._file, self.path)
            if not there or self.path.stat().st_size != self._mark.size:
                raise gone(self.path)

    def _write(self, index: int, result: Result) -> None:
        # By one call, so that the chunks of a text are there together or cut off together.
        self._put("".join(self._form.text(index, part) for part in parts_of(result)))

    def _flush(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.flush()

    def _finish(self) -> None:
        self._flush()
        self.require_there()
        if self._mark.size and self.path is not None and self.lasting and self._sum() != self._mark:
            raise gone(self.path)
        if self.path is not None and self._file is not None:
            self._file.close()

    def _sum(self) -> Mark:
        """What the file's bytes add up to, as it is there: another program can have written into it."""
        found = Mark(0, 0)
        with self._there.open("rb") as file:
            while data := file.read(1 << 16):
                found = Mark(found.size + len(data), zlib.crc32(data, found.crc))
        return found

    def abort(self) -> None:
        if self._file is not None and self.path is not None:
            with suppress(OSError):
                self._file.close()

    def _scan_finished(self) -> Done:
        done, mark = self._scan()
        if mark.size == 0:
            # Before the first row a kill leaves a part of the header at most.
            with self._there.open("rb") as file:
                header = self._form.header.encode()
                if not header.startswith(file.read(len(header) + 1)):
                    raise not_ours(self._there)
        return done

    def _scan_begun(self) -> tuple[Done, Mark]:
        """Return what the file holds of rows that are whole, and where the last of them ends."""
        *before, last = self._scan_rows()
        # Of a row with several records a kill may have cut some off, and nothing says how many there were.
        return before[-1] if before and self._several else last

    def _scan(self) -> tuple[Done, Mark]:
        """Return what the file holds, and where its last whole record ends."""
        return self._scan_rows()[-1]

    def _scan_rows(self) -> tuple[tuple[Done, Mark], ...]:
        """Return what the file holds with and, before it, without its last row; each with where that ends."""
        done, mark = Done(0, 0, 0), Mark(0, 0)
        before = (done, mark)
        header = self._form.header.encode()
        for record in self._records():
            if mark.size == 0 and header:
                if record != header:
                    raise has_other_columns(self._there)
                before = (done, Mark(len(record), zlib.crc32(record)))
            elif self._several and done.rows and self._form.number(record) == done.rows - 1:
                pass  # another chunk of the same text
            else:
                # Rows are written in order, each by one call: a gap is somebody else's deed.
                if self._form.number(record) != done.rows:
                    raise UsageError(
                        "{path} does not hold one row of results for each row of input; "
                        "run without {resume} to replace it",
                        path=self.path,
                        resume=Option("resume"),
                    )
                before = (done, mark)
                done = done.plus(1, self._form.failed(record), self._form.truncated(record))
            mark = Mark(mark.size + len(record), zlib.crc32(record, mark.crc))
        return before, (done, mark)

    @property
    def _there(self) -> Path:
        assert self.path is not None  # standard output is never read
        return self.path

    def _records(self) -> Iterator[bytes]:
        parts: list[bytes] = []
        quotes = 0
        with self._there.open("rb") as file:
            for line in file:
                parts.append(line)
                # A line end inside quotes ends no record; quotes come in pairs, doubled ones too.
                quotes += line.count(b'"') if self._form.quoted else 0
                if line.endswith(b"\n") and quotes % 2 == 0:
                    yield b"".join(parts)
                    parts, quotes = [], 0
