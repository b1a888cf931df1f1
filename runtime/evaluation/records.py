"""Labelled files as records: any format that `run` reads, whole, with all its columns and typed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertonnx.errors import InputError, RowError
from bertonnx.runtime.io.arrow import require_parquet, require_pyarrow
from bertonnx.runtime.io.formats import ending_of
from bertonnx.runtime.io.lines import TooLong, json_value, lines_of
from bertonnx.runtime.io.tables import read_table

__all__ = ["Records", "read_records"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Records:
    """What a labelled file holds.

    Attributes:
        path: the file.
        names: its columns or JSON fields, as they are written there.
        rows: of each row its values by column; where a row could not be read, an error in its place.
        headless: whether the file's first line named no columns, and was taken as a row.
    """

    path: str
    names: tuple[str, ...]
    rows: list[Record | RowError]
    headless: bool = False


def read_records(path: str | Path) -> Records:
    """Read a labelled file.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.parquet`, `.arrow` or `.feather` file.

    Raises:
        InputError: it cannot be read, is of another kind, or is empty.
        MissingDependencyError: Parquet and Arrow need pyarrow.
    """
    path = str(path)
    ending = ending_of(path)
    if ending not in _READERS:
        raise InputError(
            "the ending of {path} does not say how to read labelled texts; files that end in {endings} are "
            "read",
            path=path,
            endings=" ".join(_READERS),
        )
    if not Path(path).exists():
        raise InputError("there is no file {path}; give an existing file", path=path)
    records = _READERS[ending](path)
    if not records.rows:
        raise InputError("{path} holds no rows; give a file with a text and a label in each", path=path)
    return records


def _table(path: str) -> Records:
    first, *rest = read_table(path) or [[]]
    assert isinstance(first, list)
    other = next((mark for mark in ";\t|" if mark in first[0]), None) if len(first) == 1 else None
    if other is not None:
        raise InputError(
            "the columns of {path} are parted by {mark!r}, and those of a {ending} file are by {wanted!r}; "
            "save it so",
            path=path,
            mark=other,
            ending=ending_of(path),
            wanted="\t" if ending_of(path) == ".tsv" else ",",
        )
    if _is_row(first, rest):
        names = tuple(f"column {number}" for number in range(1, len(first) + 1))
        return Records(path, names, _named(names, [first, *rest]), headless=True)
    return Records(path, tuple(first), _named(first, rest))


def _is_row(first: Sequence[str], rest: Sequence[list[str] | RowError]) -> bool:
    """Return whether a table's first line is a row like the others, as in files without a header.

    It is where a field of it comes back in its column again and again, as labels do; names do not.
    """
    rows = [row for row in rest if isinstance(row, list)]
    # With fewer rows, a name that is a label by chance would be taken for one.
    if len(first) < 2 or len(rows) < 4:
        return False
    for place, value in enumerate(first):
        cells = [row[place] for row in rows]
        if cells.count(value) > 1 and len(set(cells)) * 2 <= len(cells):
            return True
    return False


def _named(names: Sequence[str], rows: Sequence[list[str] | RowError]) -> list[Record | RowError]:
    return [row if isinstance(row, RowError) else dict(zip(names, row, strict=True)) for row in rows]


def _json(path: str) -> Records:
    lines = lines_of(path)
    try:
        rows = [_object(line, lines.number) for line in lines if line.strip() or isinstance(line, TooLong)]
    finally:
        lines.close()
    # In the order in which they come first, as a person would list them.
    names = dict.fromkeys(name for row in rows if not isinstance(row, RowError) for name in row)
    return Records(path, tuple(names), rows)


def _object(line: bytes, number: int) -> Record | RowError:
    if isinstance(line, TooLong):
        return line.error(number)
    value = json_value(line)
    if isinstance(value, Exception):
        return RowError("invalid-json", "line {line} is not JSON: {why}", line=number, why=str(value))
    if not isinstance(value, dict):
        return RowError("invalid-json", "line {line} is not {wanted}", line=number, wanted="a JSON object")
    return value


def _parquet(path: str) -> Records:
    parquet = require_parquet()
    return _arrow(path, lambda: parquet.read_table(path, page_checksum_verification=True))


def _ipc(path: str) -> Records:
    pa = require_pyarrow()

    def read() -> Any:
        # Not mapped: a file that is cut meanwhile would end the process.
        with pa.OSFile(path) as file:
            try:
                return pa.ipc.open_file(file).read_all()
            except pa.ArrowInvalid:
                file.seek(0)
                return pa.ipc.open_stream(file).read_all()

    return _arrow(path, read)


def _arrow(path: str, read: Any) -> Records:
    try:
        table = read()
        # Offsets and indices are data: where they are wrong, reading on would leave the buffers.
        table.validate(full=True)
        rows = table.to_pylist()
    # Of a broken file pyarrow raises its own errors, KeyError, UnicodeDecodeError and more.
    except Exception as error:
        raise InputError("{path} cannot be read: {why}", path=path, why=str(error) or repr(error)) from error
    return Records(path, tuple(table.schema.names), rows)


_READERS = {
    ".csv": _table,
    ".tsv": _table,
    ".jsonl": _json,
    ".ndjson": _json,
    ".parquet": _parquet,
    ".arrow": _ipc,
    ".feather": _ipc,
}
