"""Files of HDF5 in which Keras keeps weights; nothing in them can lead to another file or run anything.

Sources: https://docs.h5py.org/en/stable/high/group.html#soft-links; the two layouts are those of Keras 2
(`tf_keras/src/saving/legacy/hdf5_format.py`) and Keras 3 (`keras/src/saving/saving_lib.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError, MissingDependencyError
from bertonnx.exporters.checkpoint.tensorflow.stored import Stored
from bertonnx.wording import Install

__all__ = ["read_hdf5"]

_DEEPEST = 40
_MOST = 20_000
"""Groups and arrays; a BERT of 48 layers with its optimizer has 5,000."""

_SPARE, _RATIO = 64 << 20, 200
"""Numbers that are there take so many bytes more than the file at most: weights hardly compress."""

_KINDS = {"f2": "float16", "f4": "float32", "f8": "float64"}


def read_hdf5(path: Path) -> list[Stored]:
    """Return the arrays of a file, by their paths in it.

    Of Keras 2's layout, names are those of the variables: the group of their layer is taken off.

    Raises:
        MissingDependencyError: h5py is not installed.
        CheckpointError: the file is damaged, leads to other files, holds references to objects, or is a
            small file of many numbers.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            "{path} is read with h5py, which is not installed; type: {install}",
            path=path,
            install=Install("export,tensorflow"),
        ) from error
    try:
        with h5py.File(path, "r") as file:
            found = list(_arrays(h5py, file, path))
            # The list of layers is what tells Keras 2 from Keras 3.
            layered = any(_is_layered(h5py, part) for part in (file, file.get("model_weights", file)))
    except CheckpointError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError and others for damaged files
        raise CheckpointError(
            "{path} cannot be read as HDF5 ({why}); copy the file again",
            path=path,
            why=str(error).partition("\n")[0][:200] or type(error).__name__,
        ) from error
    _require_real(found, path)
    return [_renamed(one) for one in found] if layered else found


def _is_layered(h5py: Any, group: Any) -> bool:
    # A shard of Hugging Face's lists its arrays there, which have no layer before their names.
    listed = group.attrs.get("layer_names", ())
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in listed]
    return bool(names) and not any(isinstance(group.get(name), h5py.Dataset) for name in names)


def _arrays(h5py: Any, file: Any, path: Path) -> Iterator[Stored]:
    """Yield the arrays; by hand, since h5py's own walk follows links."""
    waiting: list[tuple[str, Any, int]] = [("", file, 0)]
    seen = 0
    while waiting:
        prefix, group, depth = waiting.pop()
        for name in sorted(group.keys(), reverse=True):
            seen += 1
            place = f"{prefix}/{name}" if prefix else name
            if seen > _MOST or depth > _DEEPEST:
                raise _refused(path, f"it has more than {_MOST} parts, or they lie too deep")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "another file" if isinstance(link, h5py.ExternalLink) else "another place in it"
                raise _refused(path, f"{place} is a link to {kind}")
            child = group[name]
            if isinstance(child, h5py.Group):
                waiting.append((place, child, depth + 1))
            elif isinstance(child, h5py.Dataset):
                yield _stored(h5py, child, place, path)


def _stored(h5py: Any, array: Any, place: str, path: Path) -> Stored:
    # HDF5 itself would open whatever path is written there.
    if array.external or array.is_virtual:
        raise _refused(path, f"the numbers of {place} lie in another file")
    kind = array.dtype
    # Which HDF5 has no kind for: Keras 3 says it beside the two bytes of each number.
    halves = kind.str == "|V2" and array.attrs.get("dtype") in ("bfloat16", b"bfloat16")
    text = h5py.check_string_dtype(kind) is not None
    if h5py.check_ref_dtype(kind) is not None or (kind.kind == "O" and not text):
        raise _refused(path, f"{place} holds references to objects")
    if array.shape is None or (kind.kind not in "fiub" and not text and not halves):
        raise _refused(path, f"{place} holds no numbers ({kind})")
    dtype = "string" if text else "bfloat16" if halves else _KINDS.get(kind.str[1:], kind.name)
    key = array.name

    def read() -> npt.NDArray[Any]:
        # Opened anew, so that a file is not held open while nothing is read.
        with h5py.File(path, "r") as file:
            values: npt.NDArray[Any] = np.asarray(file[key][()])
            if halves:
                return values.view(np.uint16)
            return values.astype(values.dtype.newbyteorder("<"), copy=False)

    return Stored(place, place, dtype, tuple(map(int, array.shape)), read, label=place)


def _require_real(found: list[Stored], path: Path) -> None:
    size = path.stat().st_size
    numbers = sum(one.bytes for one in found if one.numeric)
    if numbers > _SPARE + _RATIO * size:
        raise _refused(path, f"{size} bytes of it stand for {numbers} bytes of numbers")


def _renamed(one: Stored) -> Stored:
    """Return an array of Keras 2 by its variable's name, which follows the name of its layer."""
    place = one.name.removeprefix("model_weights/")
    # What the optimizer keeps has no layer before it.
    layer, _, rest = place.partition("/")
    name = rest if rest and layer != "optimizer_weights" else place
    return replace(one, name=name.removesuffix(":0"))


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "{path} is not read: {why}; weights that Keras saved have nothing of the kind", path=path, why=why
    )
