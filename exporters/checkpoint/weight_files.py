"""Files of safetensors: what is read of them before any weight is, and which of them are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.wording import said_by

__all__ = ["format_of", "require_readable"]

_SHOWN = 4
_LFS = b"version https://git-lfs"

_OTHERS: Mapping[str, str] = {"tf": "TensorFlow", "flax": "Flax"}
"""What the metadata of a file say -> the library that saved it, by other names and in other layouts."""


def require_readable(folder: Path) -> None:
    """Name the damaged or absent file, which the libraries' own errors do not.

    Raises:
        CheckpointError: a file is not there, damaged, or a pointer of Git LFS.
        UnsupportedError: another library than PyTorch saved it.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        table = read_json(index).get("weight_map")
        shards = sorted(set(table.values())) if isinstance(table, Mapping) else []
        absent = [name for name in shards if not (folder / name).is_file()]
        if absent or not shards:
            raise CheckpointError(
                "{index} lists weights in {listed}, and {absent} is not there; download the checkpoint again",
                index=index,
                listed=_listed(shards) or "no file",
                absent=_listed(absent) or "none",
            )
    for path in sorted(folder.glob("model*.safetensors")):
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


def _require_safetensors(path: Path) -> None:
    from safetensors import SafetensorError

    with path.open("rb") as stream:
        # A clone without git-lfs leaves a text of some 130 bytes under the weights' name.
        if stream.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                "{path} is a Git LFS pointer, not the weights; in the repository, type: git lfs pull",
                path=path,
            )
    try:
        saved_by = format_of(path)
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
