"""Stored vectors: an array, a `.npy` file that is mapped, or a column of a Parquet or Arrow file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bertonnx.errors import BertonnxError, InputError, UsageError
from bertonnx.runtime.io.arrow import require_parquet, require_pyarrow
from bertonnx.runtime.io.formats import ending_of
from bertonnx.runtime.vectors.search import BLOCK
from bertonnx.runtime.vectors.stored import Kind, kind_of
from bertonnx.wording import Option

__all__ = ["Stored", "stored_vectors"]

Vectors = npt.NDArray[Any]

_ENDINGS = (".npy", ".parquet", ".arrow", ".feather")
_USUAL = "embedding"
"""What `run` calls the column of vectors."""

_COLUMN = Option("vector_column")


@dataclass(frozen=True)
class Stored:
    """Vectors that are read in blocks.

    Attributes:
        kind: what they look like.
        rows: how many there are.
        blocks: reads them from the first on, (rows, width) each. A row without a vector is NaN, and of
            integers 0.
    """

    kind: Kind
    rows: int
    blocks: Callable[[], Iterator[Vectors]]


def stored_vectors(
    given: npt.ArrayLike | str | Path,
    what: str,
    *,
    column: str | None = None,
    option: Option = _COLUMN,
) -> Stored:
    """Return vectors that a user gave.

    Args:
        given: numbers of shape (n, width), or the path of a `.npy`, `.parquet` or `.arrow` file.
        what: the argument's name, for the error.
        column: of a Parquet or Arrow file: the column of vectors; default "embedding", or the only one.
        option: what names that column, for the error.

    Raises:
        InputError: the file cannot be read, or holds no vectors; its blocks raise it too.
        UsageError: it is no table of numbers, names no such format, or has no columns to choose from.
    """
    path = Path(given) if isinstance(given, (str, Path)) else None
    ending = None if path is None else ending_of(path)
    if column is not None and ending in (None, ".npy"):
        raise UsageError(
            "{option}: {what} is an array, without columns; leave it out",
            option=Option(option.name, column),
            what=path or what,
        )
    if path is None:
        return _in_memory(cast("npt.ArrayLike", given), what)
    if ending not in _ENDINGS:
        raise UsageError(
            "the ending of {path} does not say how to read vectors; files that end in {endings} are read",
            path=path,
            endings=" ".join(_ENDINGS),
        )
    if not path.is_file():
        raise InputError("there is no file {path} of vectors", path=path)
    with _reading(path):
        if ending == ".npy":
            return _mapped(path)
        return _of_table(path, column, option, parquet=ending == ".parquet")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except BertonnxError:
        raise
    # Of a broken file NumPy and pyarrow raise their own errors, and more.
    except Exception as error:
        why = str(error).partition("\n")[0]  # what follows is for who calls NumPy
        raise InputError("{path} cannot be read as vectors: {why}", path=path, why=why) from error


def _in_memory(given: npt.ArrayLike, what: str) -> Stored:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise UsageError(
            "{what} must be vectors, numbers of shape (n, width) ({why})", what=what, why=error
        ) from error
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, 0)
    return _of_array(array, what)


def _mapped(path: Path) -> Stored:
    array: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise InputError("{path} is an archive of arrays; give a .npy file of one", path=path)
    return _of_array(array, str(path))


def _of_array(array: Vectors, what: str) -> Stored:
    kind = kind_of(array, what)
    rows = max(1, BLOCK // max(1, kind.width))

    def blocks() -> Iterator[Vectors]:
        for start in range(0, max(1, len(array)), rows):
            yield np.asarray(array[start : start + rows])

    return Stored(kind, len(array), blocks)


def _of_table(path: Path, column: str | None, option: Option, *, parquet: bool) -> Stored:
    pa = require_pyarrow()
    with pa.OSFile(str(path)) as file:
        opened = require_parquet().ParquetFile(file) if parquet else pa.ipc.open_file(file)
        schema = opened.schema_arrow if parquet else opened.schema
        rows = opened.metadata.num_rows if parquet else None
        name = _column(pa, path, schema, column, option)
        if rows is None:
            rows = sum(opened.get_batch(i).num_rows for i in range(opened.num_record_batches))
    kind = schema.field(name).type
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else _width(pa, path, name, parquet=parquet)
    found = Kind(width, np.dtype(kind.value_type.to_pandas_dtype()))

    def blocks() -> Iterator[Vectors]:
        yield np.zeros((0, width), found.dtype)  # one at least, whose width is compared
        with _reading(path):
            for array in _arrays(pa, path, name, parquet=parquet):
                yield _block(path, array, found)

    return Stored(found, rows, blocks)


def _column(pa: Any, path: Path, schema: Any, column: str | None, option: Option) -> str:
    fits: list[str] = [field.name for field in schema if _holds_vectors(pa, field.type)]
    wanted = [column] if column is not None else [_USUAL] if _USUAL in fits else fits
    if len(wanted) == 1 and wanted[0] in fits:
        return wanted[0]
    raise InputError(
        "{path} has {found}; name a column of vectors (lists of numbers) with {option}",
        path=path,
        found=f"the columns of vectors {', '.join(fits)}" if fits else "no column of vectors",
        option=option,
    )


def _holds_vectors(pa: Any, kind: Any) -> bool:
    lists = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    if not any(of(kind) for of in lists):
        return False
    inner = kind.value_type
    return bool(pa.types.is_floating(inner) or pa.types.is_integer(inner))


def _arrays(pa: Any, path: Path, name: str, *, parquet: bool) -> Iterator[Any]:
    """Yield the column in arrays of some thousand rows, checked in full."""
    with pa.OSFile(str(path)) as file:
        if parquet:
            opened = require_parquet().ParquetFile(file)
            batches = opened.iter_batches(1024, columns=[name], use_threads=False)
        else:
            reader = pa.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            array = batch.column(name)
            array.validate(full=True)
            yield array


def _width(pa: Any, path: Path, name: str, *, parquet: bool) -> int:
    """Return the length of the first vector of lists of any length."""
    for array in _arrays(pa, path, name, parquet=parquet):
        for value in array:
            if value.is_valid:
                return len(value)
    return 0


def _block(path: Path, array: Any, kind: Kind) -> Vectors:
    missing = np.array(array.is_null().to_pylist(), dtype=bool)
    present = array.drop_null()
    # Each by itself: a shorter one and a longer one make up for each other in the sum.
    if (np.asarray(present.value_lengths()) != kind.width).any():
        raise InputError(
            "the vectors in {path} are not all of {width} numbers, as the first one is",
            path=path,
            width=kind.width,
        )
    values = present.flatten()
    if values.null_count:
        raise InputError("a vector in {path} has a null among its numbers", path=path)
    # Whole numbers that are no bytes are no encoding, and have no NaN for a row that is missing.
    dtype = kind.dtype if kind.whole or kind.dtype.kind == "f" else np.dtype(np.float64)
    block = np.full((len(array), kind.width), 0 if kind.whole else np.nan, dtype=dtype)
    block[~missing] = np.from_dlpack(values).reshape(-1, kind.width)
    return block
