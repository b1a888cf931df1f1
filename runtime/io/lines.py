"""Inputs that are made of lines: one text a line, or one JSON value a line."""

from __future__ import annotations

import json
import sys
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.runtime.io.inputs import Choice, Input, choose_columns
from bertonnx.runtime.rows import Row, as_rows
from bertonnx.wording import Option, Options

__all__ = [
    "LineInput",
    "Lines",
    "TooLong",
    "json_value",
    "lines_of",
    "open_json",
    "open_lines",
    "open_text",
]

LONGEST_LINE = 64 << 20
"""Bytes of a line that are held; a longer one is its row's error, and is passed over a piece at a time."""

_PIECE = 1 << 20

_PEEK = 1000
_PEEK_BYTES = 8 << 20
"""What is looked at of JSON lines to know their fields, whichever comes first."""


def open_text(choice: Choice) -> Input:
    """Open a file, or standard input, of one text a line."""
    return open_lines(choice, _TextRows)


def open_json(choice: Choice) -> Input:
    """Open a file, or standard input, of one JSON object or string a line."""
    return open_lines(choice, _JsonRows)


def open_lines(choice: Choice, make: Callable[[Lines, Choice], Input]) -> Input:
    """Open a file, or standard input, and return what `make` makes of its lines.

    Raises:
        InputError: the file cannot be read, or `make` cannot use it.
    """
    lines = lines_of(choice.path)
    try:
        return make(lines, choice)
    except BaseException:
        lines.close()
        raise


def lines_of(path: str) -> Lines:
    """Open a file, or standard input for "-".

    Raises:
        InputError: the file cannot be read.
    """
    if path == "-":
        return Lines(sys.stdin.buffer, "-", None)
    file = Path(path)
    try:
        # A pipe or a device has no size.
        return Lines(file.open("rb"), path, file.stat().st_size if file.is_file() else None)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError("the input {path} cannot be read: {why}", path=path, why=error.strerror or str(error))


class TooLong(bytes):
    """Stands for a line of more than `LONGEST_LINE` bytes, of which nothing is kept."""

    def error(self, number: int) -> RowError:
        """Return the error of the row."""
        return RowError(
            "too-large",
            "line {line} is longer than {limit} MiB, the most that is read of a line",
            line=number,
            limit=LONGEST_LINE >> 20,
        )


class Lines:
    """The lines of a binary file, without their ends; only LF and CR LF end a line.

    Of a file of known size no more is read than that, so that a run reads what was there when it began.
    """

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
        """Return the next line, None at the end; a `TooLong` for one that is too long.

        `number` is then its number, from 1, and `raw` the line with its end.
        """
        raw = self._again.popleft() if self._again else self._next()
        if not raw and not isinstance(raw, TooLong):
            return None
        self.number += 1
        self.raw = raw
        if isinstance(raw, TooLong):
            return raw
        return raw.removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw

    def put_back(self, raws: Sequence[bytes]) -> None:
        """Let the lines that were read last come again; given with their ends."""
        self._again.extendleft(reversed(raws))
        self.number -= len(raws)

    def _next(self) -> bytes:
        first = self.done == 0
        raw = self._read(LONGEST_LINE + 1)
        if first:
            raw = self._without_mark(raw)
        if len(raw) <= LONGEST_LINE or raw.endswith(b"\n"):
            return raw
        while (piece := self._read(_PIECE)) and not piece.endswith(b"\n"):
            pass
        return TooLong()

    def _read(self, limit: int) -> bytes:
        """Read a line up to so many bytes, and no further than the file went when it was opened."""
        # Files that the system makes up say that they are empty.
        left = self.size - self.done if self.size else limit
        try:
            raw = self._file.readline(min(limit, left))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        self.done += len(raw)
        return raw

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.path != "-":
            self._file.close()

    def _without_mark(self, raw: bytes) -> bytes:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
            wide = raw.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"))
            raise _wide(self.path, "UTF-32" if wide else "UTF-16")
        # Without a mark, Latin text in UTF-16 has a NUL in every other byte, and nothing else has.
        for start, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
            if len(raw) >= 8 and not any(raw[start:-1:2]) and all(raw[1 - start : -1 : 2]):
                raise _wide(self.path, encoding)
        return raw.removeprefix(b"\xef\xbb\xbf")


def _wide(path: str, encoding: str) -> InputError:
    if path == "-":
        return InputError(
            "standard input is {encoding}, and UTF-8 is read; put this before it: "
            "iconv -f {encoding} -t UTF-8 |",
            encoding=encoding,
        )
    better = Path(path).with_suffix(".utf8" + Path(path).suffix)
    return InputError(
        "{path} is {encoding}, and UTF-8 is read; convert it with: "
        "iconv -f {encoding} -t UTF-8 '{path}' > '{better}'",
        path=path,
        encoding=encoding,
        better=better,
    )


class LineInput(Input):
    """What the formats that are made of lines share."""

    def __init__(self, lines: Lines, choice: Choice) -> None:
        self._lines = lines
        self._choice = choice
        self.bytes_total = lines.size

    @property
    def bytes_done(self) -> int:
        """How many bytes of the file were read."""
        return self._lines.done

    def skip(self, count: int) -> int:
        """Pass over lines; formats whose rows are more than a line have their own."""
        return sum(1 for _ in islice(self._lines, count))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class _RowALine(LineInput):
    """An input where every line is a row."""

    def __iter__(self) -> Iterator[Row | RowError]:
        for line in self._lines:
            yield self._row(line)

    @abstractmethod
    def _row(self, line: bytes) -> Row | RowError: ...


class _TextRows(_RowALine):
    """One text a line."""

    def __init__(self, lines: Lines, choice: Choice) -> None:
        super().__init__(lines, choice)
        if choice.reads_pair:
            raise _no_pairs(choice)
        if choice.options.column is not None:
            raise UsageError(
                "{given}: {what} is read as one text a line, without columns",
                given=Option("column", choice.options.column),
                what="standard input" if choice.path == "-" else choice.path,
            )

    def _row(self, line: bytes) -> Row | RowError:
        if isinstance(line, TooLong):
            return line.error(self._lines.number)
        try:
            return Row(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return _not_utf8(self._lines.number, error)


def _no_pairs(choice: Choice) -> InputError:
    if choice.path == "-":
        both = Options([Option("column"), Option("pair_column")], last="and")
        return InputError(
            "pairs of texts are needed, and standard input has one text a line; say {say} to read JSON "
            "lines{instead}",
            say=both,
            instead=choice.instead,
        )
    return InputError(
        "pairs of texts are needed, and {path} has one text a line; give a .csv, .tsv, .jsonl or .parquet "
        "file with a column for each{instead}",
        path=choice.path,
        instead=choice.instead,
    )


def _not_utf8(number: int, error: UnicodeDecodeError) -> RowError:
    return RowError(
        "invalid-text",
        "line {line} is not valid UTF-8 (byte 0x{byte:02x} at position {position})",
        line=number,
        byte=error.object[error.start],
        position=error.start,
    )


class _JsonRows(_RowALine):
    """One JSON object, or one JSON string, a line."""

    def __init__(self, lines: Lines, choice: Choice) -> None:
        super().__init__(lines, choice)
        self._column, self._pair = choice.options.column, choice.options.pair_column
        # On standard input nothing is looked at first: that would wait for lines that may be long in coming.
        if choice.path != "-":
            self._look_ahead()
        elif choice.needs_pair and self._pair is None:
            raise InputError(
                "the model reads pairs of texts, and {column} names one; add {pair}",
                column=Option("column"),
                pair=Option("pair_column", "NAME"),
            )

    def _look_ahead(self) -> None:
        """Choose the fields among those of the first objects, then let their lines come again."""
        seen: list[bytes] = []
        names: dict[str, None] = {}
        size = 0
        while len(seen) < _PEEK and size < _PEEK_BYTES and (line := self._lines.read()) is not None:
            seen.append(self._lines.raw)
            size += len(line)
            value = json_value(line)
            names.update(dict.fromkeys(value) if isinstance(value, dict) else ())
        self._lines.put_back(seen)
        # Without any object there is nothing to choose among: the lines may be strings, or all broken.
        if names:
            self._column, self._pair = choose_columns(list(names), self._choice)
        elif seen and self._choice.needs_pair:
            raise InputError(
                "the model reads pairs of texts, and the lines of {path} are no JSON objects; "
                "write them as {example}{instead}",
                path=self._choice.path,
                example='{"question": "...", "context": "..."}',
                instead=self._choice.instead,
            )

    def _row(self, line: bytes) -> Row | RowError:
        number = self._lines.number
        if isinstance(line, TooLong):
            return line.error(number)
        value = json_value(line)
        if isinstance(value, UnicodeDecodeError):
            return _not_utf8(number, value)
        if isinstance(value, Exception):
            return RowError("invalid-json", "line {line} is not JSON: {why}", line=number, why=str(value))
        if isinstance(value, str) and self._choice.options.column is None and not self._choice.needs_pair:
            return next(as_rows([value]))
        if not isinstance(value, dict) or self._column is None:
            wanted = "a JSON string" if self._column is None else "a JSON object"
            return RowError("invalid-json", "line {line} is not {wanted}", line=number, wanted=wanted)
        return self._of_object(value, number)

    def _of_object(self, value: dict[str, Any], number: int) -> Row | RowError:
        assert self._column is not None
        for kind, name in (("missing-text", self._column), ("missing-pair", self._pair)):
            if name is not None and value.get(name) is None:
                what = "is null" if name in value else "is missing"
                return RowError(
                    kind, "line {line}: the field {name!r} {what}", line=number, name=name, what=what
                )
        pairs = None if self._pair is None else [value[self._pair]]
        return next(as_rows([value[self._column]], pairs))


def json_value(line: bytes) -> Any:
    """Return the line's value, or the exception that says why it has none."""
    try:
        text = line.decode("utf-8")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            # A whole number of more digits than Python converts is JSON all the same.
            return json.loads(text, parse_int=float)
    except RecursionError:
        # A line of brackets alone, which would end the whole run.
        return ValueError("too many brackets inside each other")
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are among its children
        return error
