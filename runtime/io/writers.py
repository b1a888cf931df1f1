"""Results as files, one row of output for each row of input, in its order.

============  =================================================================================
`.jsonl`      One JSON object a line (`.ndjson` too, and standard output). Appended to the file
              itself, row by row: `tail -f` works, and what was finished is there after a kill.
`.csv`        The columns below, with a header; appended to the file itself too. Text is quoted
              where it must be; lists and structures are JSON; an embedding is the columns `e0`,
              `e1`, ...; what a row does not have is empty.
`.tsv`        The same with tabs.
`.parquet`    The columns below, typed: float32, int64, lists and structs, an embedding as a
              FixedSizeList. Until the end the rows lie in `OUT.partial`.
`.arrow`      The same as an Arrow IPC file (`.feather` too).
`.npy`        float32: embeddings of shape (rows, width), or the scores of text classification
              of shape (rows, labels). A row with an error is NaN. Until the end the rows lie in
              `OUT.partial`.
============  =================================================================================

Columns: `row`, then by task

- feature-extraction: `embedding`;
- text-classification: `label`, `score`, and a `score_LABEL` for each label; multi-label: `labels`
  (in `.csv` and `.tsv` joined with `|`) and a `score_LABEL` each; regression: `score`, or a
  `score_LABEL` for each of several outputs; with `--top-k` over 1 also `top` (not for regression);
- token-classification: `entities`;
- question-answering: `answer`, `score`, `start`, `end`; with `--top-k` over 1 also `answers`;
- fill-mask: `masks`;

then `truncated`, `error_type`, `error_message`.

A float is written as the shortest decimal text that reads back as the same float32. JSON has no
NaN and no infinity: they become null.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bertonnx.errors import OutputError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.columns import Result, columns, exact, floats_text, message, values, width
from bertonnx.runtime.io.outputs import Done, SpoolWriter, Writer
from bertonnx.runtime.rows import Array, Item

__all__ = ["ENDINGS", "check_output", "json_line", "not_ours", "open_writer"]

ENDINGS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".npy")

_LINE_BREAKS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
_SPECIAL = re.compile('[",\t\r\n]')
_CHUNK_BYTES = 1 << 20


def check_output(path: str | Path, *, input: str | Path | None = None) -> Path:
    """Check, before any work is done, that an output can be written, and return its resolved path.

    Raises:
        OutputError: its folder is missing or not writable, or it is a folder itself.
        UsageError: its ending names no format, or it is the input.
        MissingDependencyError: the format needs pyarrow.
    """
    given, target = Path(path), Path(path).resolve()
    if given.is_dir():
        raise OutputError(f"the output {given} is a folder; name a file in it, such as {given / 'out.jsonl'}")
    if given.suffix.lower() not in ENDINGS:
        raise UsageError(f"the ending of the output {given} names no format; use one of {' '.join(ENDINGS)}")
    if input is not None and given.exists() and Path(input).exists() and given.samefile(input):
        raise UsageError(f"the output {given} is the input; name another file")
    if not target.parent.is_dir():
        raise OutputError(f"there is no folder {target.parent}; make it with: mkdir -p '{target.parent}'")
    if not target.exists() or target.is_file():
        _check_writable(given, target)
    if given.suffix.lower() in (".parquet", ".arrow", ".feather"):
        from bertonnx.runtime.io.arrow import require_pyarrow

        require_pyarrow()
    return target


def _check_writable(given: Path, target: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
        if target.exists():
            target.open("r+b").close()
    except OSError as error:
        raise OutputError(f"cannot write {given}: {error.strerror or error}") from error


def open_writer(
    path: str | Path | None,
    *,
    card: Card,
    top_k: int = 1,
    resume: bool = False,
    input: str | Path | None = None,
) -> Writer:
    """Open an output; the format follows from the ending, None is JSON Lines on standard output.

    Args:
        path: the file. An existing one is replaced when the first row is written.
        card: of the model whose results are written.
        top_k: how many candidates an item lists, where the task does so only for more than one.
        resume: go on behind the last whole row that is there.
        input: the file that is read, which the output must not be.

    Raises:
        OutputError: the file cannot be written.
        UsageError: the format cannot hold the results of this task, or what is there to go on
            from is something else.
        MissingDependencyError: the format needs pyarrow.
    """
    if path is None:
        return _LineWriter(None, _JsonFormat(), resume=False)
    target = check_output(path, input=input)
    ending = Path(path).suffix.lower()
    if ending in (".jsonl", ".ndjson"):
        return _LineWriter(target, _JsonFormat(), resume=resume)
    if ending in (".csv", ".tsv"):
        form = _TableFormat(card, "," if ending == ".csv" else "\t", top_k=top_k)
        return _LineWriter(target, form, resume=resume)
    if ending == ".npy":
        return _NpyWriter(target, card, resume=resume)
    from bertonnx.runtime.io.arrow import ArrowWriter

    return ArrowWriter(target, card, top_k=top_k, parquet=ending == ".parquet", resume=resume)


def json_line(index: int, result: Result) -> str:
    """Return the JSON line of one row, without its end."""
    if isinstance(result, RowError):
        text = _json({"row": index, "error": {"type": result.kind, "message": message(result)}})
    elif isinstance(vector := result.get("embedding"), np.ndarray):
        rest = _json(_truncated_last({k: v for k, v in result.items() if k != "embedding"}))
        end = "}" if rest == "{}" else f", {rest[1:]}"
        return f'{{"row": {index}, "embedding": [{floats_text(vector)}]{end}'
    else:
        text = _json({"row": index, **_truncated_last(result)})
    # Readers that split at every Unicode line end must not find one inside a line.
    return text if text.isascii() else text.translate(_LINE_BREAKS)


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
        return exact(float(value))
    return value.item() if isinstance(value, np.generic) else value


class _JsonFormat:
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


class _TableFormat:
    """CSV or TSV."""

    quoted = True
    _number = re.compile(rb"(\d+)[,\t]")

    def __init__(self, card: Card, delimiter: str, *, top_k: int) -> None:
        self._card = card
        self._delimiter = delimiter
        self._columns = columns(card, top_k=top_k)
        self._end = (delimiter * 2 + "\n").encode()
        self.header = delimiter.join(map(_quoted, self._names())) + "\n"

    def _names(self) -> Iterator[str]:
        for column in self._columns:
            if column.kind == "embedding":
                yield from (f"e{i}" for i in range(width(self._card)))
            else:
                yield column.name

    def text(self, index: int, result: Result) -> str:
        row = values(self._columns, index, result)
        cells = (
            self._numbers(value) if column.kind == "embedding" else _cell(value, column.kind)
            for value, column in zip(row, self._columns, strict=True)
        )
        return self._delimiter.join(cells) + "\n"

    def _numbers(self, vector: Array | None) -> str:
        """The cells of an embedding, joined."""
        if vector is None:
            return self._delimiter * (width(self._card) - 1)
        return floats_text(vector, self._delimiter).replace("null", "")

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


def _cell(value: Any, kind: str) -> str:
    if value is None:
        return ""
    if kind == "labels":
        return _quoted("|".join(value))
    if kind == "float":
        number = exact(value)
        return "" if number is None else repr(number)
    if kind == "text":
        return _quoted(value)
    return str(value) if kind == "int" else _quoted(_json(value))


class _LineWriter(Writer):
    """Appends lines to the file itself."""

    def __init__(self, path: Path | None, form: _JsonFormat | _TableFormat, *, resume: bool) -> None:
        self.path = path
        self.lasting = path is not None and (path.is_file() or not path.exists())
        self._form = form
        self._file: BinaryIO | None = None
        self._end = 0
        if resume and path is not None and path.is_file():
            self.done, self._end = self._guarded(self._scan)

    def _start(self) -> None:
        if self._file is not None:
            return
        if self.path is None:
            self._file = sys.stdout.buffer
        elif self._end:
            self._file = self.path.open("r+b")
            self._file.truncate(self._end)
            self._file.seek(self._end)
        else:
            self._file = self.path.open("wb")
        if not self._end:
            self._put(self._form.header)

    def _put(self, text: str) -> None:
        assert self._file is not None
        # Every row goes to the operating system at once: a flush costs a microsecond or two, a row of
        # inference a hundred times that, and nobody can know how long the next row will take.
        self._file.write(text.encode())
        self._file.flush()

    def _write(self, index: int, result: Result) -> None:
        self._put(self._form.text(index, result))

    def _flush(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.flush()

    def _finish(self) -> None:
        self._flush()
        if self.path is not None and self._file is not None:
            self._file.close()

    def abort(self) -> None:
        if self._file is not None and self.path is not None:
            with suppress(OSError):
                self._file.close()

    def _scan_finished(self) -> Done:
        return self._scan()[0]

    def _scan(self) -> tuple[Done, int]:
        """Return what the file holds, and where its last whole record ends."""
        done, end, last = Done(0, 0, 0), 0, b""
        header = self._form.header.encode()
        for record in self._records():
            if end == 0 and header:
                self._must(record == header, "has other columns than this model's results")
            else:
                last = record
                done = done.plus(1, self._form.failed(record), self._form.truncated(record))
            end += len(record)
        number = self._form.number(last) if last else -1
        self._must(number == done.rows - 1, "does not hold one row of results for each row of input")
        return done, end

    def _records(self) -> Iterator[bytes]:
        assert self.path is not None
        parts: list[bytes] = []
        quotes = 0
        with self.path.open("rb") as file:
            for line in file:
                parts.append(line)
                quotes += line.count(b'"') if self._form.quoted else 0
                if line.endswith(b"\n") and quotes % 2 == 0:
                    yield b"".join(parts)
                    parts, quotes = [], 0

    def _must(self, holds: bool, problem: str) -> None:
        if not holds:
            raise UsageError(f"{self.path} {problem}; run without --resume to replace it")


class _NpyWriter(SpoolWriter):
    """NumPy's format. A record of the spool is a row and one float32 more: 0 fine, 1 truncated, 2 failed."""

    def __init__(self, path: Path, card: Card, *, resume: bool) -> None:
        self._numbers = _numbers_of(card)
        self._width = width(card) if card.task == "feature-extraction" else max(len(_scores(card)), 1)
        self._size = (self._width + 1) * 4
        super().__init__(path, resume=resume)

    def _begin(self, file: BinaryIO) -> None:
        pass

    def _write(self, index: int, result: Result) -> None:  # noqa: ARG002  (the place says the row)
        record = np.full(self._width + 1, np.nan, "<f4")
        if isinstance(result, RowError):
            record[-1] = 2
        else:
            record[:-1] = self._numbers(result)
            record[-1] = bool(result.get("truncated", False))
        assert self._file is not None
        self._file.write(record.tobytes())
        self._file.flush()

    def _scan(self) -> tuple[Done, int]:
        done = Done(0, 0, 0)
        for records in self._chunks():
            flags = records[:, -1]
            done = done.plus(len(records), int((flags == 2).sum()), int((flags == 1).sum()))
        return done, done.rows * self._size

    def _chunks(self) -> Iterator[Array]:
        """The whole records of the spool, a few megabytes at a time."""
        many = max(_CHUNK_BYTES // self._size, 1) * self._size
        with self.spool.open("rb") as file:
            while data := file.read(many):
                whole = len(data) // self._size * self._size
                yield np.frombuffer(data[:whole], "<f4").reshape(-1, self._width + 1)

    def _assemble(self, target: BinaryIO) -> None:
        shape = (self.spool.stat().st_size // self._size, self._width)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(target, header)
        for records in self._chunks():
            target.write(np.ascontiguousarray(records[:, :-1]).tobytes())

    def _scan_finished(self) -> Done:
        try:
            array = np.lib.format.open_memmap(self.path, mode="r")
        except (ValueError, EOFError) as error:
            raise not_ours(self.path) from error
        if array.dtype != np.dtype("<f4") or array.shape[1:] != (self._width,):
            raise not_ours(self.path)
        step = max(_CHUNK_BYTES // self._size, 1)
        parts = (array[i : i + step] for i in range(0, len(array), step))
        return Done(len(array), sum(int(np.isnan(part).all(axis=1).sum()) for part in parts), 0)


def not_ours(path: Path) -> UsageError:
    """Return the error for a finished output that cannot come from the command that shall go on with it."""
    return UsageError(f"{path} was not written by this command; run without --resume to replace it")


def _scores(card: Card) -> list[str]:
    return [column.name for column in columns(card) if column.name.startswith("score_")]


def _numbers_of(card: Card) -> Callable[[Item], Any]:
    """Return what takes the numbers of one `.npy` row out of an item."""
    if card.task == "feature-extraction":
        return lambda item: item["embedding"]
    if card.task != "text-classification":
        raise UsageError(
            f".npy holds numbers, and the results of {card.task} are more than that; "
            "write .jsonl, .csv, .tsv, .parquet or .arrow"
        )
    if not _scores(card):
        return lambda item: item["score"]
    return lambda item: [item["scores"].get(label, np.nan) for label in card.labels]
