"""Where a checkpoint is from: what each of its files is, and which libraries saved it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from bertonnx.exporters.checkpoint.folder import file_names, read_json, wanted_files
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.tensorflow.replica import Replica

__all__ = ["files_of", "name_of", "saved_by"]


def files_of(source: Source) -> dict[str, str]:
    """Return name -> SHA-256, in hex, of the files of a checkpoint that an export reads, in their order."""
    if source.replica is not None:
        return dict(_replicated(source.replica))
    found = dict(_hashes(source.folder, source))
    if source.model_folder not in (source.folder, *source.folder.iterdir()):
        found |= {f"base/{name}": digest for name, digest in _hashes(source.model_folder, source)}
    return found


def _replicated(replica: Replica) -> Iterator[tuple[str, str]]:
    """Hash TensorFlow's files as they lie there, not the folder that was made of them."""
    located = replica.located
    small = (
        path for pattern in ("*.json", "*vocab*.txt", "*.model") for path in located.folder.glob(pattern)
    )
    for path in sorted({*located.files, *small}):
        name = path.relative_to(located.folder) if path.is_relative_to(located.folder) else Path(path.name)
        with path.open("rb") as stream:
            yield name.as_posix(), hashlib.file_digest(stream, "sha256").hexdigest()


def _hashes(folder: Path, source: Source) -> Iterator[tuple[str, str]]:
    small, weights = wanted_files(file_names(folder), source.trust)
    for name in sorted({*small, *weights}):
        # By parts: weights are larger than memory may be.
        with (folder / name).open("rb") as stream:
            yield name, hashlib.file_digest(stream, "sha256").hexdigest()


def saved_by(source: Source) -> dict[str, str]:
    """Return library -> version, as config.json and the files of other libraries say."""
    config = source.model_folder / "config.json"
    sentence = source.folder / "config_sentence_transformers.json"
    versions: dict[str, str] = {}
    if sentence.is_file():
        noted = read_json(sentence).get("__version__")
        versions |= {str(name): str(version) for name, version in (noted or {}).items() if version}
    # From 0.18 on, peft notes it.
    peft = None if source.adapter is None else source.adapter.settings.get("peft_version")
    if peft:
        versions["peft"] = str(peft)
    own = read_json(config).get("transformers_version") if config.is_file() else None
    # What is said of the weights counts, not what is said of the whole.
    return versions | ({"transformers": str(own)} if own else {})


def name_of(text: str) -> str:
    """Return a folder's name for its path, and a name on the Hub as it is.

    A path says what the exporter's disk looks like, which is nobody's business.
    """
    path = Path(text).expanduser()
    return path.resolve().name if path.is_absolute() or path.exists() else text
