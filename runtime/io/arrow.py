"""What reading and writing of Arrow data share. The only import of pyarrow, and only when called."""

from __future__ import annotations

from typing import Any

from bertonnx.errors import MissingDependencyError
from bertonnx.wording import Install

__all__ = ["holds_text", "require_pyarrow", "require_sound", "texts_of"]

_TEXT_TYPES = ("string", "large_string", "string_view", "null")


def require_pyarrow() -> Any:
    """Import pyarrow and return it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    # `import pyarrow` alone loads neither of the parts that are used.
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet and Arrow files need pyarrow; install it with: {install}", install=Install("arrow")
        ) from error
    return pyarrow


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
    # Arrow promises valid UTF-8 and nobody checks it, so that one bad cell would cost its whole batch:
    # only then each is decoded by itself.
    try:
        texts: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        texts = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
    return texts


def _decoded(value: bytes | None) -> object:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value
