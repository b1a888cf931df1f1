"""Arrow arrays of Python values, without pyarrow's own conversion.

`pyarrow.array()` imports pandas wherever it is installed, to see whether it was given something of its: half
a second in each process, which is most of what a worker of Spark takes to start.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["array_of"]


def array_of(pa: Any, cells: Sequence[Any], kind: Any) -> Any:
    """Return an array with a value for each cell; None is a null.

    Args:
        pa: pyarrow.
        cells: numbers (int64 or float32), bools, texts; sequences of these for a list; vectors, numbers of
            shape (width,), for a FixedSizeList; mappings for a structure, of which it takes its fields.
        kind: the Arrow type.

    Raises:
        OverflowError: there are more values in lists, or bytes in texts, than the type can count.
        TypeError: the type is of another kind, or a number of another kind than its type.
        ValueError: a text is no valid Unicode, or a vector has another width.
    """
    missing = [cell is None for cell in cells]
    nulls = sum(missing)
    valid = _bits(pa, [not one for one in missing]) if nulls else None
    buffers, children = _contents(pa, cells, kind)
    return pa.Array.from_buffers(kind, len(cells), [valid, *buffers], nulls, children=children)


def _contents(pa: Any, cells: Sequence[Any], kind: Any) -> tuple[list[Any], list[Any] | None]:
    """Return the buffers behind the one that says what is null, and the arrays of what is inside."""
    types = pa.types
    if types.is_fixed_size_list(kind):
        return [], [_numbers_of_vectors(pa, cells, kind)]
    if types.is_list(kind):
        inside = list(chain.from_iterable(cell for cell in cells if cell is not None))
        counts = [0 if cell is None else len(cell) for cell in cells]
        return [_ends(pa, counts)], [array_of(pa, inside, kind.value_type)]
    if types.is_struct(kind):
        return [], [_field(pa, cells, field) for field in kind]
    if types.is_string(kind):
        texts = [b"" if cell is None else cell.encode() for cell in cells]
        return [_ends(pa, [len(text) for text in texts]), pa.py_buffer(b"".join(texts))], None
    if types.is_boolean(kind):
        return [_bits(pa, [bool(cell) for cell in cells])], None
    if types.is_int64(kind) or types.is_float32(kind):
        numbers = np.array([0 if cell is None else cell for cell in cells] or [0])
        # Of the same kind: a fraction would be lost in a whole number.
        return [pa.py_buffer(numbers.astype(kind.to_pandas_dtype(), casting="same_kind"))], None
    raise TypeError(f"no array of {kind} is made here")


def _field(pa: Any, cells: Sequence[Any], field: Any) -> Any:
    return array_of(pa, [None if cell is None else cell.get(field.name) for cell in cells], field.type)


def _numbers_of_vectors(pa: Any, cells: Sequence[Any], kind: Any) -> Any:
    # Python's numbers would be taken one by one: hundreds a row.
    flat = np.zeros((len(cells), kind.list_size), kind.value_type.to_pandas_dtype())
    for place, cell in enumerate(cells):
        if cell is not None:
            flat[place] = cell
    return pa.Array.from_buffers(kind.value_type, flat.size, [None, pa.py_buffer(flat)], 0)


def _ends(pa: Any, counts: Sequence[int]) -> Any:
    ends: npt.NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)
    if ends[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"{ends[-1]} is more than an Arrow list or text column can count")
    return pa.py_buffer(ends.astype(np.int32))


def _bits(pa: Any, flags: Sequence[bool]) -> Any:
    return pa.py_buffer(np.packbits(np.array(flags, dtype=bool), bitorder="little"))
