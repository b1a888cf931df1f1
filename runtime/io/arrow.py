"""What reading and writing of Arrow data share. The only import of pyarrow, and only when called."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertonnx.errors import MissingDependencyError
from bertonnx.runtime.io.arrow_arrays import array_of
from bertonnx.wording import Install

__all__ = [
    "holds_text",
    "longest",
    "require_parquet",
    "require_pyarrow",
    "require_sound",
    "text_bytes",
    "texts_of",
]

_TEXT_TYPES = ("string", "large_string", "string_view", "null")


def require_pyarrow() -> Any:
    """Import pyarrow and return it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise _missing() from error
    return pyarrow


def require_parquet() -> Any:
    """Import pyarrow's part for Parquet and return it: it brings file systems and TLS along.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise _missing() from error
    return pyarrow.parquet


def _missing() -> MissingDependencyError:
    return MissingDependencyError(
        "Parquet and Arrow files need pyarrow; install it with: {install}", install=Install("arrow")
    )


def holds_text(kind: Any) -> bool:
    """Return whether a column of this type holds texts, or nothing but nulls."""
    inner = kind.value_type if str(kind).startswith("dictionary") else kind
    return str(inner) in _TEXT_TYPES


def require_sound(column: Any) -> None:
    """Check that a column holds what its layout says, before anything is read of it.

    Offsets, sizes of buffers and indices of dictionaries are data of the file: where they are wrong, pyarrow
    reads outside its buffers and the process ends. Bytes that are not UTF-8 are well: they are one row's
    error (`texts_of`).

    Args:
        column: an Array or ChunkedArray of a type that `holds_text` allows.

    Raises:
        pyarrow.ArrowException: it does not; the message says what.
    """
    pa = require_pyarrow()
    for array in getattr(column, "chunks", [column]):
        array.validate()
        if pa.types.is_dictionary(array.type):
            # With values that say nothing, which have no text that could be wrong.
            pa.DictionaryArray.from_arrays(array.indices, pa.nulls(len(array.dictionary)), safe=True)
            require_sound(array.dictionary)
        elif pa.types.is_null(array.type):
            array.validate(full=True)
        else:
            array.view(_bytes_like(pa, array.type)).validate(full=True)


def _bytes_like(pa: Any, kind: Any) -> Any:
    """Return the type of the same layout whose values are bytes."""
    kinds = {"string": pa.binary, "large_string": pa.large_binary}
    return kinds[str(kind)]() if str(kind) in kinds else pa.binary_view()


def texts_of(column: Any) -> list[Any]:
    """Return a sound column's texts; bytes where one is not valid UTF-8, None where there is none."""
    pa = require_pyarrow()
    if pa.types.is_dictionary(column.type):
        return _shared_texts(pa, column)
    # Arrow promises valid UTF-8 and nobody checks it, so that one bad cell would cost its whole batch:
    # only then each is decoded by itself.
    try:
        texts: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        texts = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
    return texts


def _shared_texts(pa: Any, column: Any) -> list[Any]:
    """Return the texts of a dictionary's column: rows that point to one value share one object.

    A few bytes of a file can point to a text of megabytes a million times.
    """
    texts: list[Any] = []
    for array in getattr(column, "chunks", [column]):
        places = array.indices.to_pylist()
        used = [place for place in dict.fromkeys(places) if place is not None]
        values = texts_of(array.dictionary.take(array_of(pa, used, pa.int64())))
        known = dict(zip(used, values, strict=True))
        texts += [None if place is None else known[place] for place in places]
    return texts


def longest(array: Any) -> int:
    """Return how many bytes the longest text of a string array has; 0 where there is none."""
    kind = np.int64 if str(array.type) == "large_string" else np.int32
    offsets = np.frombuffer(array.buffers()[1] or b"", kind)[array.offset :][: len(array) + 1]
    return int(np.diff(offsets).max(initial=0))


def text_bytes(array: Any) -> int:
    """Return about how many bytes the texts of a sound array have, however often its layout repeats them."""
    if str(array.type) != "string_view":
        return int(array.nbytes)
    if not len(array):
        return 0
    # Views of 16 bytes, of which the first four are the length; any number of them can share a place.
    views = np.frombuffer(array.buffers()[1], np.int32)[4 * array.offset :][: 4 * len(array) : 4]
    valid = np.array(array.is_valid().to_pylist())  # NumPy's own way would import pandas
    return int(views[valid].sum(dtype=np.int64)) + 16 * len(array)


def _decoded(value: bytes | None) -> object:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value
