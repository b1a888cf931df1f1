"""Inputs of records with separated fields and a header: CSV and TSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from bertonnx.errors import InputError, RowError
from bertonnx.runtime.io.inputs import Choice, Input, choose_columns
from bertonnx.runtime.io.lines import LineInput, Lines, TooLong, lines_of, open_lines
from bertonnx.runtime.rows import Row
from bertonnx.wording import Option

__all__ = ["open_csv", "open_tsv", "read_table"]

LONGEST_RECORD = 64 << 20
"""Bytes over which a quoted field may spread before the quote counts as one never closed. Each line counts
for `_A_LINE` more, which is what it takes in memory however short it is."""

_A_LINE = 100

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are not UTF-8


def open_csv(choice: Choice) -> Input:
    """Open a file of comma-separated values, with quotes as in RFC 4180."""
    return open_lines(choice, _TableRows)


def open_tsv(choice: Choice) -> Input:
    """Open a file of tab-separated values."""
    return open_lines(choice, _TabRows)


def read_table(path: str) -> list[list[str] | RowError]:
    """Return all records of a file, the first line's among them, with all their fields.

    For labelled texts and the like, which are read whole. A record with more or fewer fields than the first
    is an error in its place.

    Raises:
        InputError: the file cannot be read.
    """
    tabs = path.lower().endswith(".tsv")
    lines = lines_of(path)
    try:
        records = _Records(lines, delimiter="\t" if tabs else ",", literal=tabs)
        header = records.first()
        if header is None:
            return []
        return [header, *(_whole(records, record, number) for number, record in records)]
    finally:
        lines.close()


def _whole(records: _Records, record: list[str] | RowError, number: int) -> list[str] | RowError:
    if isinstance(record, RowError):
        return record
    return records.checked(record, number) or _not_utf8(record, number) or record


class _QuoteError(Exception):
    """A quoted field that does not follow the rules."""


class _Record:
    """Splits one record into fields, fed with its lines one by one.

    Not the `csv` module: its limit on fields is global, it refuses a lone CR (and in Python 3.10
    a NUL), and it can neither say where a record began nor go back there.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._open: list[str] | None = None
        self.fields: list[str] = []

    def feed(self, line: str, end_before: str = "\n") -> bool:
        """Take a line, and how the line before it ended; return whether the record is complete.

        Raises:
            _QuoteError: there is text behind a closing quote.
        """
        position = 0
        if self._open is not None:
            self._open.append(end_before)
            position = self._quoted(line, 0)
        while self._open is None and position <= len(line):
            if line.startswith('"', position):
                self._open = []
                position = self._quoted(line, position + 1)
            else:
                end = line.find(self._delimiter, position)
                end = len(line) if end < 0 else end
                self.fields.append(line[position:end])
                position = end + 1
        return self._open is None

    def _quoted(self, line: str, position: int) -> int:
        """Read on inside quotes; return where the next field begins, past the end if there is none."""
        assert self._open is not None
        while (end := line.find('"', position)) >= 0:
            self._open.append(line[position:end])
            position = end + 1
            if not line.startswith('"', position):
                return self._closed(line, position)
            self._open.append('"')
            position += 1
        self._open.append(line[position:])
        return len(line) + 1

    def _closed(self, line: str, position: int) -> int:
        if position < len(line) and line[position] != self._delimiter:
            raise _QuoteError("there is text behind a closing quote; a quote inside quotes must be doubled")
        assert self._open is not None
        self.fields.append("".join(self._open))
        self._open = None
        return position + 1


class _Records:
    """The records of a table, one after the other.

    Attributes:
        width: fields of the first record, 0 before it was read.
    """

    def __init__(self, lines: Lines, *, delimiter: str, literal: bool) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._literal = literal
        self.width = 0

    def __iter__(self) -> Iterator[tuple[int, list[str] | RowError]]:
        """Yield the records, each with the number of its first line."""
        while True:
            number = self._lines.number + 1
            record = self.read()
            if record is None:
                return
            yield number, record

    def first(self) -> list[str] | None:
        """Read the record that names the columns; None where there is none.

        Raises:
            InputError: it cannot be split, or lines end in CR alone.
        """
        header = self.read()
        if isinstance(header, RowError):
            raise InputError(
                "the first line of {path} does not name its columns: {why}", path=self._lines.path, why=header
            )
        raw = self._lines.raw
        # Of such a file, all rows would be one header.
        if b"\r" in raw.rstrip(b"\r\n") and b'"' not in raw:
            raise InputError(
                "the lines of {path} end in CR alone, and LF or CR LF is read; convert it with: "
                "tr '\\r' '\\n' < '{path}' > '{better}'",
                path=self._lines.path,
                better=Path(self._lines.path).with_suffix(".lf" + Path(self._lines.path).suffix),
            )
        self.width = len(header or ())
        return header

    def read(self) -> list[str] | RowError | None:
        """Read one record; one whose quotes are wrong costs its first line alone."""
        line = self._lines.read()
        if line is None:
            return None
        if isinstance(line, TooLong):
            return line.error(self._lines.number)
        text = line.decode("utf-8", "surrogateescape")
        if '"' not in text:
            return text.split(self._delimiter)
        number = self._lines.number
        record = _Record(self._delimiter)
        more: list[bytes] = []
        try:
            if record.feed(text) or self._read_on(record, text, more):
                return record.fields
            problem = "the quote is never closed"
        except _QuoteError as error:
            problem = str(error)
        # The lines behind are records of their own: one wrong quote costs one record.
        self._lines.put_back(more)
        if self._literal:
            return text.split(self._delimiter)
        return RowError(
            "malformed-row", "the record on line {line} cannot be split: {why}", line=number, why=problem
        )

    def _read_on(self, record: _Record, first: str, more: list[bytes]) -> bool:
        """Feed a record that is open at the end of its first line; return whether it was closed."""
        # In TSV, a line that has all its fields is a record, whatever its quotes.
        if self._literal and first.count(self._delimiter) + 1 == max(self.width, 1):
            return False
        size = _cost(first)
        end = "\r\n" if self._lines.raw.endswith(b"\r\n") else "\n"
        while size <= LONGEST_RECORD and (line := self._lines.read()) is not None:
            more.append(self._lines.raw)
            if isinstance(line, TooLong):
                return False
            size += _cost(line)
            if record.feed(line.decode("utf-8", "surrogateescape"), end):
                return True
            end = "\r\n" if self._lines.raw.endswith(b"\r\n") else "\n"
        return False

    def checked(self, fields: list[str], number: int) -> RowError | None:
        """Return what is wrong with a record that was split; None where nothing is."""
        if len(fields) == self.width:
            return None
        return RowError(
            "ragged-row",
            "the record on line {line} has {fields} fields, and the first line has {expected}",
            line=number,
            fields=len(fields),
            expected=self.width,
        )


class _TableRows(LineInput):
    """Separated values with a header."""

    delimiter = ","
    literal = False

    def __init__(self, lines: Lines, choice: Choice) -> None:
        super().__init__(lines, choice)
        self._records = _Records(lines, delimiter=self.delimiter, literal=self.literal)
        header = self._records.first()
        if header is None:
            self._places: tuple[int, ...] = (0,)
            return
        # Places, not names: of a record only the cells that are asked for are looked at.
        names = choose_columns(header, choice)
        if choice.options.column is None:
            _require_separated(header, self.delimiter, choice)
        self._places = tuple(header.index(name) for name in names if name is not None)

    def skip(self, count: int) -> int:
        return sum(1 for _ in islice(iter(self._records.read, None), count))

    def __iter__(self) -> Iterator[Row | RowError]:
        for number, record in self._records:
            yield record if isinstance(record, RowError) else self._of_record(record, number)

    def _of_record(self, fields: list[str], number: int) -> Row | RowError:
        wrong = self._records.checked(fields, number)
        if wrong is not None:
            return wrong
        texts = [fields[place] for place in self._places]
        return _not_utf8(texts, number) or Row(*texts)


def _require_separated(header: Sequence[str], delimiter: str, choice: Choice) -> None:
    """Refuse a table of one column whose name looks like several: each text would be a whole record.

    Raises:
        InputError: another separator stands between words of the only name, as in "text;label".
    """
    for other, called in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        parts = header[0].split(other) if len(header) == 1 and other != delimiter else []
        # After a separator of fields there is no blank, as there is in "Comments; please be honest".
        if len(parts) > 1 and all(part.strip() and part == part.strip() for part in parts):
            raise InputError(
                "{path} has one column, {name!r}, which looks like several with {called} between them; save "
                "it with {usual}, or if it is one column say {say}",
                path=choice.path,
                name=header[0],
                called=called,
                usual="tabs between fields" if delimiter == "\t" else "commas between fields",
                say=Option("column", repr(header[0])),
            )


def _not_utf8(fields: Sequence[str], number: int) -> RowError | None:
    """Return the error of a record that was not UTF-8 in the file; None where it was."""
    if any(not text.isascii() and _NOT_UTF8.search(text) for text in fields):
        return RowError("invalid-text", "the record on line {line} is not valid UTF-8", line=number)
    return None


def _cost(line: bytes | str) -> int:
    return len(line) + _A_LINE


class _TabRows(_TableRows):
    """Tab-separated values, where a quote that does not enclose a whole field is a character."""

    delimiter = "\t"
    literal = True
