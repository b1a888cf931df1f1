"""The tensors of a TensorFlow source, whichever container holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow.archive import require_no_code, unpack
from bertonnx.exporters.checkpoint.tensorflow.bundle import read_bundle
from bertonnx.exporters.checkpoint.tensorflow.hdf5 import read_hdf5
from bertonnx.exporters.checkpoint.tensorflow.layouts import BACKBONE, HEAD, Layout, layout_of
from bertonnx.exporters.checkpoint.tensorflow.locate import Located
from bertonnx.exporters.checkpoint.tensorflow.stored import Stored
from bertonnx.exporters.pointers import require_no_pointer

__all__ = ["kind_of", "read_tensors"]

_SHOWN = 6


def read_tensors(located: Located, scratch: Path) -> tuple[list[Stored], Path]:
    """Return the tensors of a source, and the folder where its other files lie.

    Args:
        located: the source.
        scratch: an empty folder, into which an archive is unpacked; its numbers are read from there.

    Raises:
        CheckpointError: a file is missing, damaged, or leads elsewhere.
        MissingDependencyError: h5py is not installed and needed.
    """
    for path in located.files:
        require_no_pointer(path)
    return _READERS[located.kind](located, scratch)


def kind_of(what: str, found: Sequence[Stored]) -> Layout:
    """Return the kind of checkpoint that tensors belong to.

    Raises:
        CheckpointError: none of the kinds that are read; lists some of the names.
    """
    layout = layout_of(found)
    if layout is None:
        names = [one.label or one.name for one in found]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise CheckpointError(
            "{what} holds tensors by names of no kind of BERT that is read ({names}{more}); those of Google, "
            "of Hugging Face's TensorFlow classes, of TensorFlow's Model Garden and of KerasHub are",
            what=what,
            names=", ".join(names[:_SHOWN]) or "none at all",
            more=more,
        )
    return layout


def _bundle(located: Located, scratch: Path) -> tuple[list[Stored], Path]:  # noqa: ARG001
    return read_bundle(located.paths[0]), located.folder


def _hdf5(located: Located, scratch: Path) -> tuple[list[Stored], Path]:  # noqa: ARG001
    return [one for path in located.paths for one in read_hdf5(path)], located.folder


def _archive(located: Located, scratch: Path) -> tuple[list[Stored], Path]:
    # Unpacked to a file, since HDF5 seeks, and a deflated member of a zip cannot.
    unpack(located.paths[0], scratch)
    return read_hdf5(scratch / "model.weights.h5"), scratch


def _preset(located: Located, scratch: Path) -> tuple[list[Stored], Path]:  # noqa: ARG001
    for name in ("config.json", "task.json"):
        if (located.folder / name).is_file():
            require_no_code(located.folder / name, located.folder)
    found = []
    for path in located.paths:
        part = HEAD if path.name.startswith("task.") else BACKBONE
        found += [
            replace(one, name=part + one.name, label=f"{path.name}:{one.key}") for one in read_hdf5(path)
        ]
    return found, located.folder


_READERS: Mapping[str, Callable[[Located, Path], tuple[list[Stored], Path]]] = {
    "bundle": _bundle,
    "hdf5": _hdf5,
    "archive": _archive,
    "preset": _preset,
}
