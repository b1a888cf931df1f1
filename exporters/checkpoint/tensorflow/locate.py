"""Where a TensorFlow checkpoint lies: the path that a user typed, or what a folder holds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from bertonnx.errors import CheckpointError, SourceError
from bertonnx.exporters.options import Trust
from bertonnx.wording import Call

__all__ = ["Located", "beside", "locate", "locate_snapshot", "wanted"]

_ORDINARY = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "adapter_config.json",
)
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
_SENTENCE = "modules.json"
_INDEX, _DATA = ".index", re.compile(r"\.data-\d{5}-of-\d{5}$")
_HDF5 = (".h5", ".hdf5")


@dataclass(frozen=True)
class Located:
    """A TensorFlow checkpoint on this disk.

    Attributes:
        kind: "bundle", "hdf5", "archive" or "preset": which reader reads it.
        paths: what that reads: a prefix, files, or a folder.
        folder: where its other files lie, such as vocab.txt.
    """

    kind: str
    paths: tuple[Path, ...]
    folder: Path

    @property
    def files(self) -> list[Path]:
        """The files of its weights, in order."""
        if self.kind != "bundle":
            return sorted(self.paths)
        prefix = self.paths[0]
        return sorted(prefix.parent.glob(f"{_escaped(prefix.name)}.*"))


def locate(path: Path, trust: Trust) -> Located | None:
    """Return the TensorFlow checkpoint at a path; None where there is none, or PyTorch's weights come first.

    Args:
        path: a file, the beginning of a checkpoint's files, or a folder.
        trust: whether pickles, where they lie beside it, are read instead.

    Raises:
        SourceError: a folder holds several, or a file of TensorFlow's that is no checkpoint.
        CheckpointError: a part is missing.
    """
    if path.is_dir():
        # One of Sentence-Transformers is more than its weights: read with its modules, or not at all.
        if _any(path, (*_ORDINARY, _SENTENCE)) or (trust.allow_pickle and _any(path, _PICKLED)):
            return None
        return _in_folder(path)
    return _of_file(path)


def beside(folder: Path) -> list[str]:
    """Return the names of TensorFlow's weights in a folder, whatever else lies there."""
    return sorted(
        {found.name for pattern in ("tf_model*.h5", "*.ckpt*.index") for found in folder.glob(pattern)}
    )


def locate_snapshot(folder: Path, trust: Trust) -> Located | None:
    """Return the TensorFlow checkpoint of a Hub model's folder, which may lie in a folder of its own there.

    Raises:
        SourceError, CheckpointError: as `locate`.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    home = _home(str(folder), names, trust)
    return None if home is None else locate(folder / home, trust)


def wanted(what: str, names: Sequence[str], trust: Trust) -> tuple[list[str], list[str]]:
    """Return which files of a Hub model make its TensorFlow checkpoint: the small ones, then all weights.

    None where PyTorch's weights come first, as in `locate`.

    Raises:
        SourceError: it has several, in folders of their own.
    """
    home = _home(what, names, trust)
    if home is None:
        return [], []
    start = f"{home}/" if home else ""
    inner = [name.removeprefix(start) for name in names if name.startswith(start)]
    tops = [name for name in inner if "/" not in name]
    small = [name for name in tops if name.endswith((".json", ".txt", ".model"))]
    assets = [name for name in inner if "assets/" in name]
    weights = [name for name in inner if _DATA.search(name) or _is_weights(name)]
    below = [name for name in weights if "/" not in name or "variables/" in name or "saved_model" in name]
    return [start + name for name in dict.fromkeys((*small, *assets))], [start + name for name in below]


def _home(what: str, names: Sequence[str], trust: Trust) -> str | None:
    """Return the folder of a model's TensorFlow checkpoint, "" for its own; None where none is to be read."""
    first = (*_ORDINARY, *(_PICKLED if trust.allow_pickle else ()))
    if _SENTENCE in names or any(fnmatchcase(name, pattern) for name in names for pattern in first):
        return None
    homes = sorted({_parent(name) for name in names if _is_weights(name) and "assets/" not in name})
    if "" in homes or len(homes) < 2:
        return "" if "" in homes else next(iter(homes), None)
    raise SourceError(
        "{what} has TensorFlow checkpoints in several folders ({homes}); download the one that is meant, and "
        "type its folder",
        what=what,
        homes=", ".join(homes),
    )


def _is_weights(name: str) -> bool:
    return name.endswith((_INDEX, ".keras", "saved_model.pb", *_HDF5, ".h5.index.json"))


def _parent(name: str) -> str:
    # A SavedModel is a folder, which transformers puts into another, with a number.
    return re.sub(r"(^|/)(saved_model/\d+/)?(variables/)?[^/]*$", "", name)


def _any(folder: Path, patterns: Sequence[str]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _escaped(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)


def _of_file(path: Path) -> Located | None:
    name = path.name
    prefix = path.with_name(_DATA.sub("", name.removesuffix(_INDEX)))
    index = prefix.with_name(prefix.name + _INDEX)
    # What people call the checkpoint, bert_model.ckpt, is no file but how its files' names begin.
    if index.is_file() and (not path.exists() or prefix != path):
        return Located("bundle", (prefix,), path.parent)
    if not path.exists() and path.parent.is_dir() and any(path.parent.glob(f"{_escaped(name)}.data-*")):
        raise CheckpointError(
            "{path} is a TensorFlow checkpoint without its index: {file} is not there; copy all its files "
            "into one folder",
            path=path,
            file=index.name,
        )
    if not path.exists() and path.with_name(f"{name}.meta").is_file():
        raise _graph_alone(path.with_name(f"{name}.meta"))
    if not path.is_file():
        return None
    if name == "saved_model.pb":
        return _saved_model(path.parent)
    if name.endswith(".keras"):
        return Located("archive", (path,), path.parent)
    if name.endswith(_HDF5):
        return Located("hdf5", (path,), path.parent)
    if name.endswith(".meta"):
        raise _graph_alone(path)
    if name.endswith(".ckpt"):
        with path.open("rb") as stream:
            zipped = stream.read(4) == b"PK\3\4"
        if zipped:
            raise SourceError(
                "{path} is a file of PyTorch, as Lightning writes it, which is not read; load it in PyTorch, "
                "and save the model that it is of and its tokenizer: save_pretrained('folder')",
                path=path,
            )
        raise SourceError(
            "{path} is no checkpoint that can be read: those of TensorFlow are files that end in .index and "
            ".data-00000-of-00001, and older ones are to be saved again with tf.compat.v1.train.Saver",
            path=path,
        )
    return None


def _graph_alone(path: Path) -> SourceError:
    return SourceError(
        "{path} holds a graph of TensorFlow without its weights, which are in the files that end in .index "
        "and .data-00000-of-00001; copy these into its folder, and type how their names begin",
        path=path,
    )


def _in_folder(folder: Path) -> Located | None:
    saved = sorted({*folder.glob("saved_model.pb"), *folder.glob("saved_model/*/saved_model.pb")})
    # A preset first: its config.json is KerasHub's, and its weights are two files that belong together.
    preset = folder / "model.weights.h5"
    if preset.is_file() and (folder / "config.json").is_file():
        task = folder / "task.weights.h5"
        return Located("preset", (preset, *([task] if task.is_file() else [])), folder)
    # Hugging Face writes both, the SavedModel one folder below.
    hdf5 = sorted(folder.glob("tf_model*.h5"))
    if hdf5:
        return Located("hdf5", tuple(_shards(folder, hdf5)), folder)
    if saved:
        return _saved_model(saved[-1].parent, folder)
    indexes = sorted(folder.glob("*" + _INDEX))
    if indexes:
        return Located("bundle", (_chosen(folder, indexes),), folder)
    return _lone_file(folder)


def _lone_file(folder: Path) -> Located | None:
    parted = next(iter(sorted(folder.glob("*.weights.json"))), None)
    if parted is not None:
        raise CheckpointError(
            "{index} lists weights that Keras cut into several files, which are not read; load the model in "
            "Keras and save it whole: without max_shard_size",
            index=parted,
        )
    others = sorted(
        path for path in folder.iterdir() if path.name.endswith((".keras", *_HDF5)) and path.is_file()
    )
    if len(others) > 1:
        raise _several(folder, [path.name for path in others])
    if others:
        return Located("archive" if others[0].suffix == ".keras" else "hdf5", (others[0],), folder)
    names = sorted(path.name for path in folder.iterdir())
    lost = next((name for name in names if _DATA.search(name)), None)
    if lost is not None:
        return _of_file(folder / _DATA.sub("", lost))
    alone = next((name for name in names if name.endswith((".meta", ".ckpt"))), None)
    return None if alone is None else _of_file(folder / alone)


def _shards(folder: Path, files: Sequence[Path]) -> Sequence[Path]:
    index = folder / "tf_model.h5.index.json"
    if not index.is_file() or (folder / "tf_model.h5").is_file():
        return [path for path in files if path.name == "tf_model.h5"] or files
    try:
        listed = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError("{index} cannot be read; copy the checkpoint again", index=index) from error
    absent = [name for name in listed if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(
            "{index} lists weights in {absent}, which is not there; copy all files of the checkpoint",
            index=index,
            absent=", ".join(absent),
        )
    return [folder / name for name in listed]


def _saved_model(folder: Path, around: Path | None = None) -> Located:
    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise CheckpointError(
            "{folder} is a SavedModel without its variables: {file} is not there; copy the whole folder",
            folder=folder,
            file="variables/variables.index",
        )
    return Located("bundle", (prefix,), around or folder)


def _chosen(folder: Path, indexes: Sequence[Path]) -> Path:
    """Return the one checkpoint of a folder, or the newest as TensorFlow's own list of them says."""
    names = [path.name.removesuffix(_INDEX) for path in indexes]
    if len(names) == 1:
        return folder / names[0]
    # Training leaves several; its own list says which is the newest, whatever their numbers.
    listing = folder / "checkpoint"
    text = listing.read_text(encoding="utf-8", errors="replace") if listing.is_file() else ""
    newest = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE)
    if newest and Path(newest[1]).name in names:
        return folder / Path(newest[1]).name
    raise _several(folder, names)


def _several(folder: Path, names: Sequence[str]) -> SourceError:
    return SourceError(
        "{folder} holds several TensorFlow checkpoints ({names}); type the one that is meant: {call}",
        folder=folder,
        names=", ".join(names),
        call=Call("export", folder / names[0]),
    )
