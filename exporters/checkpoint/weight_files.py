"""Files of weights: which of a folder's transformers reads, and which of those are refused unread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.pointers import require_no_pointer
from bertonnx.wording import said_by

__all__ = ["format_of", "require_readable", "weight_files"]

_SHOWN = 4
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_WHOLE = ("BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")

_OTHERS: Mapping[str, str] = {"tf": "TensorFlow", "flax": "Flax"}
"""What the metadata of a file say -> the library that saved it, by other names and in other layouts."""


def weight_files(folder: Path, *, pickled: bool = False) -> list[Path]:
    """Return the files of weights that transformers reads; others, `model.fp16.safetensors`, may lie there.

    Args:
        folder: holds them.
        pickled: whether pickles will do where there is no safetensors.
    """
    for name in (_SAFE, _PICKLED) if pickled else (_SAFE,):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / (name + _INDEX)).is_file():
            return [folder / part for part in _parts(folder / (name + _INDEX))]
    return []


def _parts(index: Path) -> list[str]:
    table = read_json(index).get("weight_map")
    names = sorted({*map(str, table.values())}) if isinstance(table, Mapping) else []
    # A stranger's folder must not choose which other files of this disk are read.
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise CheckpointError(
            "{index} lists weights outside of its folder ({outside}); put all of them into one folder",
            index=index,
            outside=_listed(outside),
        )
    return names


def require_readable(folder: Path) -> None:
    """Name the damaged or absent file, which the libraries' own errors do not.

    Raises:
        CheckpointError: a file is not there, damaged, a pointer of Git LFS, or quantized.
        UnsupportedError: another library than PyTorch saved it.
    """
    index = folder / (_SAFE + _INDEX)
    if index.is_file() and not (folder / _SAFE).is_file():
        shards = _parts(index)
        absent = [name for name in shards if not (folder / name).is_file()]
        if absent or not shards:
            raise CheckpointError(
                "{index} lists weights in {listed}, and {absent} is not there; download the checkpoint again",
                index=index,
                listed=_listed(shards) or "no file",
                absent=_listed(absent) or "none",
            )
    for path in weight_files(folder):
        _require_safetensors(path)


def format_of(path: Path) -> str | None:
    """Return which library saved a file, as its metadata say: "pt", "tf", "flax", "mlx".

    Returns:
        "" where there are metadata that do not say it; None where there are none at all.

    Raises:
        SafetensorError: the file is damaged.
        OSError: it cannot be read.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return None if metadata is None else str(metadata.get("format", ""))


def _require_floats(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  it is no mapping
            kind = file.get_slice(name).get_dtype()
            if kind in _WHOLE and name.endswith(".weight"):
                raise CheckpointError(
                    "{path} holds {name} in whole numbers ({kind}), so its weights are quantized already; "
                    "export the checkpoint that it was made from",
                    path=path,
                    name=name,
                    kind=kind,
                )


def _require_safetensors(path: Path) -> None:
    from safetensors import SafetensorError

    require_no_pointer(path)
    try:
        saved_by = format_of(path)
        _require_floats(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "{path} is damaged or cut short ({why}); download the checkpoint again",
            path=path,
            why=said_by(error),
        ) from error
    if saved_by is not None and saved_by in _OTHERS:
        raise UnsupportedError(
            "{path} was saved by {library} (its metadata says format {format}), and export reads the weights "
            "as PyTorch saves them; where transformers 4 and {library} are installed, load it in PyTorch and "
            "save it again: AutoModel.from_pretrained('folder').save_pretrained('new'), with the class of "
            "its task for AutoModel",
            path=path,
            library=_OTHERS[saved_by],
            format=saved_by,
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
