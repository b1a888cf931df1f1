"""Input files as rows, one after the other, whatever their size.

===================  ==========================================================================
`.txt`               One text a line. An empty line is a row with an empty text.
`.csv` `.tsv`        The first line names the columns. In `.csv`, quotes work as in RFC 4180: a
                     quoted field may hold commas and line ends, and a quote in it is doubled. In
                     `.tsv`, a quote that does not enclose a whole field is a character like any
                     other, since many programs write such files without quoting.
`.jsonl` `.ndjson`   One JSON object a line, or one JSON string a line.
`.parquet`           Parquet.
`.arrow` `.feather`  Arrow IPC, as a file or as a stream.
`-`                  Standard input: one text a line; with `--column`, one JSON object a line.
===================  ==========================================================================

Text is UTF-8, with or without a byte order mark. A line ends at ``\\n`` or ``\\r\\n``, and nowhere
else. What is wrong with one row becomes a `RowError` in that row's place; what is wrong with the
file raises `InputError`.

Without `--column`, the only column is taken, or `text`, or `sentence`. Where the model reads pairs,
the first of these that the file has: `question` and `context`, `text` and `text_pair`, `sentence1`
and `sentence2`, `premise` and `hypothesis`, `query` and `passage`.
"""

from __future__ import annotations

import json
import re
import sys
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.runtime.io.inputs import Choice, RowSource, choose_columns
from bertonnx.runtime.rows import Row, as_rows

__all__ = ["ENDINGS", "open_rows"]

ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")

LONGEST_RECORD = 64 << 20
"""Bytes over which a quoted field may spread before the quote counts as one never closed."""

_PEEK = 1000
_PEEK_BYTES = 8 << 20
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are not UTF-8


def open_rows(
    path: str | Path,
    *,
    column: str | None = None,
    pair_column: str | None = None,
    needs_pair: bool,
    skip: int = 0,
) -> RowSource:
    """Open an input; the format follows from the ending, `-` is standard input.

    Args:
        path: the file.
        column: the column, or JSON field, that holds the text.
        pair_column: the one that holds the second text of a pair.
        needs_pair: whether the model cannot do without a second text.
        skip: rows to pass over, because an earlier run has done them.

    Raises:
        InputError: the file cannot be read, or does not have the columns.
        UsageError: `column` for a format that has no columns.
        MissingDependencyError: the format needs pyarrow.
    """
    choice = Choice(str(path), column, pair_column, needs_pair)
    source = _open(choice)
    try:
        source.skipped = source.skip(skip)
    except BaseException:
        source.close()
        raise
    return source


def _open(choice: Choice) -> RowSource:
    if choice.path == "-":
        lines = _Lines(sys.stdin.buffer, "-", None)
        return _JsonRows(lines, choice) if choice.column is not None else _TextRows(lines, choice)
    ending = Path(choice.path).suffix.lower()
    _check(Path(choice.path), ending)
    if ending in (".parquet", ".arrow", ".feather"):
        from bertonnx.runtime.io.arrow import open_arrow_rows

        return open_arrow_rows(choice, parquet=ending == ".parquet")
    try:
        file = Path(choice.path).open("rb")  # noqa: SIM115  (the source that is returned closes it)
        lines = _Lines(file, choice.path, _size(Path(choice.path)))
    except OSError as error:
        raise _unreadable(choice.path, error) from error
    try:
        return _READERS[ending](lines, choice)
    except BaseException:
        lines.close()
        raise


def _check(path: Path, ending: str) -> None:
    if path.is_dir():
        raise InputError(
            f"the input {path} is a folder; give one file, or: cat {path}/*.txt | bertonnx run MODEL -"
        )
    if ending not in ENDINGS:
        raise InputError(
            f"the ending of {path} does not say how to read it; files that end in {' '.join(ENDINGS)} are "
            "read, and - is standard input (one text a line)"
        )
    if not path.exists():
        raise InputError(f"there is no file {path}; give an existing file, or - for standard input")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(f"the input {path} cannot be read: {error.strerror or error}")


class _Lines:
    """The lines of a binary file, without their ends; only LF and CR LF end a line."""

    def __init__(self, file: BinaryIO, path: str, size: int | None) -> None:
        self._file = file
        self.path = path
        self.size = size
        self.done = 0
        self.number = 0
        self.raw = b""
        self._again: deque[bytes] = deque()

    def __iter__(self) -> Iterator[bytes]:
        while (line := self.read()) is not None:
            yield line

    def read(self) -> bytes | None:
        """Return the next line, None at the end.

        `number` is then its number, from 1, and `raw` the line with its end.
        """
        raw = self._again.popleft() if self._again else self._next()
        if not raw:
            return None
        self.number += 1
        self.raw = raw
        return raw.removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw

    def put_back(self, raws: Sequence[bytes]) -> None:
        """Let the lines that were read last come again; given with their ends."""
        self._again.extendleft(reversed(raws))
        self.number -= len(raws)

    def _next(self) -> bytes:
        try:
            raw = self._file.readline()
        except OSError as error:
            raise _unreadable(self.path, error) from error
        first = self.done == 0
        self.done += len(raw)
        return self._without_mark(raw) if first else raw

    def close(self) -> None:
        if self.path != "-":
            self._file.close()

    def _without_mark(self, raw: bytes) -> bytes:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
            wide = raw.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"))
            raise InputError(_iconv(self.path, "UTF-32" if wide else "UTF-16"))
        # Without a mark, Latin text in UTF-16 has a NUL in every other byte, and nothing else has.
        for start, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
            if len(raw) >= 8 and not any(raw[start:-1:2]) and all(raw[1 - start : -1 : 2]):
                raise InputError(_iconv(self.path, encoding))
        return raw.removeprefix(b"\xef\xbb\xbf")


def _iconv(path: str, encoding: str) -> str:
    command = f"iconv -f {encoding} -t UTF-8"
    if path == "-":
        return f"standard input is {encoding}, and UTF-8 is read; put this before it: {command} |"
    better = Path(path).with_suffix(".utf8" + Path(path).suffix)
    return f"{path} is {encoding}, and UTF-8 is read; convert it with: {command} '{path}' > '{better}'"


class _LineSource(RowSource):
    """What the formats that are made of lines share."""

    def __init__(self, lines: _Lines, choice: Choice) -> None:
        self._lines = lines
        self._choice = choice
        self.bytes_total = lines.size

    @property
    def bytes_done(self) -> int:
        return self._lines.done

    def skip(self, count: int) -> int:
        return sum(1 for _ in islice(self._lines, count))

    def close(self) -> None:
        self._lines.close()


class _RowALine(_LineSource):
    """A source where every line is a row."""

    def __iter__(self) -> Iterator[Row | RowError]:
        for line in self._lines:
            yield self._row(line)

    @abstractmethod
    def _row(self, line: bytes) -> Row | RowError: ...


class _TextRows(_RowALine):
    """One text a line."""

    def __init__(self, lines: _Lines, choice: Choice) -> None:
        super().__init__(lines, choice)
        what = "standard input" if choice.path == "-" else choice.path
        if choice.needs_pair or choice.pair_column is not None:
            remedy = (
                "say --column and --pair-column to read JSON lines"
                if choice.path == "-"
                else "give a .csv, .tsv, .jsonl or .parquet file with columns such as question and context"
            )
            raise InputError(f"pairs of texts are needed, and {what} has one text a line; {remedy}")
        if choice.column is not None:
            raise UsageError(f"--column {choice.column}: {what} is read as one text a line, without columns")

    def _row(self, line: bytes) -> Row | RowError:
        try:
            return Row(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return _not_utf8(self._lines.number, error)


def _not_utf8(number: int, error: UnicodeDecodeError) -> RowError:
    byte = error.object[error.start]
    return RowError(
        "invalid-text", f"line {number} is not valid UTF-8 (byte 0x{byte:02x} at position {error.start})"
    )


class _JsonRows(_RowALine):
    """One JSON object, or one JSON string, a line."""

    def __init__(self, lines: _Lines, choice: Choice) -> None:
        super().__init__(lines, choice)
        self._column, self._pair = choice.column, choice.pair_column
        # On standard input nothing is looked at first: that would wait for lines that may be long in coming.
        if choice.path != "-":
            self._look_ahead()
        elif choice.needs_pair and choice.pair_column is None:
            raise InputError("the model reads pairs of texts, and --column names one; add --pair-column NAME")

    def _look_ahead(self) -> None:
        """Choose the fields among those of the first objects, then let their lines come again."""
        seen: list[bytes] = []
        names: dict[str, None] = {}
        size = 0
        while len(seen) < _PEEK and size < _PEEK_BYTES and (line := self._lines.read()) is not None:
            seen.append(self._lines.raw)
            size += len(line)
            value = _json(line)
            names.update(dict.fromkeys(value) if isinstance(value, dict) else ())
        self._lines.put_back(seen)
        if names:
            self._column, self._pair = choose_columns(list(names), self._choice)
        elif seen and self._choice.needs_pair:
            raise InputError(
                f"the model reads pairs of texts, and the lines of {self._choice.path} are no JSON objects; "
                'write them as {"question": "...", "context": "..."}'
            )

    def _row(self, line: bytes) -> Row | RowError:
        number = self._lines.number
        value = _json(line)
        if isinstance(value, UnicodeDecodeError):
            return _not_utf8(number, value)
        if isinstance(value, Exception):
            return RowError("invalid-json", f"line {number} is not JSON: {value}")
        if isinstance(value, str) and self._choice.column is None and not self._choice.needs_pair:
            return next(as_rows([value]))
        if not isinstance(value, dict) or self._column is None:
            wanted = "a JSON string" if self._column is None else "a JSON object"
            return RowError("invalid-json", f"line {number} is not {wanted}")
        return self._of_object(value, number)

    def _of_object(self, value: dict[str, Any], number: int) -> Row | RowError:
        assert self._column is not None
        for kind, name in (("missing-text", self._column), ("missing-pair", self._pair)):
            if name is not None and value.get(name) is None:
                what = "is null" if name in value else "is missing"
                return RowError(kind, f"line {number}: the field {name!r} {what}")
        pairs = None if self._pair is None else [value[self._pair]]
        return next(as_rows([value[self._column]], pairs))


def _json(line: bytes) -> Any:
    """Return the line's value, or the exception that says why it has none."""
    try:
        return json.loads(line.decode("utf-8"))
    except RecursionError:
        return ValueError("too many brackets inside each other")
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are among its children
        return error


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


class _TableRows(_LineSource):
    """Separated values with a header."""

    delimiter = ","
    literal = False

    def __init__(self, lines: _Lines, choice: Choice) -> None:
        super().__init__(lines, choice)
        self._width = 0
        header = self._record()
        if isinstance(header, RowError):
            raise InputError(f"the first line of {choice.path} does not name its columns: {header}")
        if header is None:
            self._places: tuple[int, ...] = (0,)
            return
        self._width = len(header)
        names = choose_columns(header, choice)
        self._places = tuple(header.index(name) for name in names if name is not None)

    def skip(self, count: int) -> int:
        return sum(1 for _ in islice(iter(self._record, None), count))

    def __iter__(self) -> Iterator[Row | RowError]:
        while True:
            number = self._lines.number + 1
            record = self._record()
            if record is None:
                return
            yield record if isinstance(record, RowError) else self._of_record(record, number)

    def _of_record(self, fields: list[str], number: int) -> Row | RowError:
        if len(fields) != self._width:
            counts = f"{len(fields)} fields, and the first line has {self._width}"
            return RowError("ragged-row", f"the record on line {number} has {counts}")
        texts = [fields[place] for place in self._places]
        if any(not text.isascii() and _NOT_UTF8.search(text) for text in texts):
            return RowError("invalid-text", f"the record on line {number} is not valid UTF-8")
        return Row(*texts)

    def _record(self) -> list[str] | RowError | None:
        """Read one record; one whose quotes are wrong costs its first line alone."""
        line = self._lines.read()
        if line is None:
            return None
        text = line.decode("utf-8", "surrogateescape")
        if '"' not in text:
            return text.split(self.delimiter)
        number = self._lines.number
        record = _Record(self.delimiter)
        more: list[bytes] = []
        try:
            if record.feed(text) or self._read_on(record, text, more):
                return record.fields
            problem = "the quote is never closed"
        except _QuoteError as error:
            problem = str(error)
        self._lines.put_back(more)
        if self.literal:
            return text.split(self.delimiter)
        return RowError("malformed-row", f"the record on line {number} cannot be split: {problem}")

    def _read_on(self, record: _Record, first: str, more: list[bytes]) -> bool:
        """Feed a record that is open at the end of its first line; return whether it was closed."""
        if self.literal and first.count(self.delimiter) + 1 == max(self._width, 1):
            return False
        size = len(first)
        end = "\r\n" if self._lines.raw.endswith(b"\r\n") else "\n"
        while size <= LONGEST_RECORD and (line := self._lines.read()) is not None:
            more.append(self._lines.raw)
            size += len(line)
            if record.feed(line.decode("utf-8", "surrogateescape"), end):
                return True
            end = "\r\n" if self._lines.raw.endswith(b"\r\n") else "\n"
        return False


class _TabRows(_TableRows):
    """Tab-separated values, where a quote that does not enclose a whole field is a character."""

    delimiter = "\t"
    literal = True


_READERS: dict[str, Callable[[_Lines, Choice], RowSource]] = {
    ".txt": _TextRows,
    ".csv": _TableRows,
    ".tsv": _TabRows,
    ".jsonl": _JsonRows,
    ".ndjson": _JsonRows,
}
