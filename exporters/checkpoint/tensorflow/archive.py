"""Keras' archives, `.keras`: a zip of config.json, weights in HDF5, and assets. Nothing in them is run.

`keras.saving.load_model` makes objects of what config.json names, which may be code; here it is read as data.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow.nested import objects

__all__ = ["require_no_code", "unpack"]

_LARGEST_TEXT = 64 << 20
_SPARE, _RATIO = 64 << 20, 50
"""Weights are packed without compression; texts shrink to a fifth."""

_MOST = 1000
_WANTED = ("config.json", "metadata.json", "model.weights.h5")
_CODE = ("Lambda",)


def unpack(path: Path, into: Path) -> None:
    """Write config.json, the weights and the assets of an archive into an empty folder.

    Raises:
        CheckpointError: it is no such archive, holds code, is damaged, or unpacks to far more than it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _require_small(archive, path)
            for info in archive.infolist():
                if _is_wanted(info.filename):
                    _write(archive, info, into)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            "{path} cannot be read as Keras' archive ({why}); copy the file again", path=path, why=error
        ) from error
    absent = [name for name in ("config.json", "model.weights.h5") if not (into / name).is_file()]
    if absent:
        raise CheckpointError(
            "{path} is no archive of a Keras model: it has no {absent}",
            path=path,
            absent=" and no ".join(absent),
        )
    require_no_code(into / "config.json", path)


def _require_small(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    unpacked = sum(info.file_size for info in members)
    size = path.stat().st_size
    texts = [info.filename for info in members if _is_text(info) and info.file_size > _LARGEST_TEXT]
    doubled = len({info.filename for info in members}) != len(members)
    if len(members) > _MOST or unpacked > _SPARE + _RATIO * size or texts or doubled:
        raise CheckpointError(
            "{path} is not unpacked: its {size} bytes hold {count} files that would take {unpacked} bytes"
            "{texts}{doubled}; no archive that Keras saved is so",
            path=path,
            size=size,
            count=len(members),
            unpacked=unpacked,
            texts=f", {', '.join(texts)} among them" if texts else "",
            doubled=", two of one name among them" if doubled else "",
        )


def _is_text(info: zipfile.ZipInfo) -> bool:
    return not info.filename.endswith(".h5")


def _is_wanted(name: str) -> bool:
    # What an archive's name says must not choose where on this disk it is written.
    parts = PurePosixPath(name).parts
    if name.endswith("/") or ".." in parts or name.startswith("/"):
        return False
    return name in _WANTED or parts[:1] == ("assets",)


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, into: Path) -> None:
    target = into / info.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    # By parts; `zipfile` stops at the size that was declared, which was judged, and checks the sum.
    with archive.open(info) as source, target.open("wb") as out:
        while part := source.read(1 << 22):
            out.write(part)


def require_no_code(config: Path, path: Path) -> None:
    """Refuse a model with layers that are Python code; they are not run here, so the model would be another.

    Raises:
        CheckpointError: there is such a layer, or config.json is no JSON.
    """
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(
            "config.json in {path} cannot be read as JSON ({why}); copy the file again", path=path, why=error
        ) from error
    found = sorted({str(one.get("class_name")) for one in objects(data) if one.get("class_name") in _CODE})
    if found:
        raise CheckpointError(
            "{path} has layers that hold Python code ({found}), which is never run here; save the model "
            "without them",
            path=path,
            found=", ".join(found),
        )
