"""From what the user typed to a folder on this disk: a local folder, or one commit of a Hub model.

Everything after this step reads one folder, so that config, weights and tokenizer cannot come from
different revisions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bertonnx.errors import SourceError, UsageError
from bertonnx.exporters.checkpoint.folder import file_names, require_files, require_small_files
from bertonnx.exporters.checkpoint.hub import download
from bertonnx.exporters.options import Trust
from bertonnx.wording import Call, Option

__all__ = ["Source", "resolve"]

_NO_TRUST = Trust()

Kind = Literal["hub", "folder", "sentence-transformers"]


@dataclass(frozen=True)
class Source:
    """A checkpoint on this disk, and what of it is trusted.

    Attributes:
        id: what the user typed: a Hub id, or the folder's path.
        kind: "hub", or for a local folder "folder" or "sentence-transformers" (it has a modules.json).
        revision: the commit hash that a Hub model was resolved to; None for local folders.
        folder: where its files lie.
        trust: what of it may run.
    """

    id: str
    kind: Kind
    revision: str | None
    folder: Path
    trust: Trust = _NO_TRUST


def resolve(
    source: str | os.PathLike[str],
    revision: str | None = None,
    trust: Trust = _NO_TRUST,
) -> Source:
    """Return the folder of a checkpoint, downloaded from the Hub where `source` is no local folder.

    The Hub is asked through huggingface_hub, which honours HF_ENDPOINT, HF_HOME, HF_TOKEN and
    HF_HUB_OFFLINE. Where it cannot be reached, its cache serves.

    Args:
        source: a folder, or a Hub id such as `bert-base-uncased`.
        revision: branch, tag or commit hash of a Hub model; default its main branch.
        trust: what of it may run; what needs more is refused.

    Raises:
        UsageError: a revision was given with a local folder.
        SourceError: not found, gated, no network and not cached, not safe, or not a PyTorch checkpoint.
        CheckpointError: a JSON file is broken.
        UnsupportedError: the family is known not to work (before its weights are downloaded).
        MissingDependencyError: huggingface_hub is not installed.
    """
    text = os.fspath(source)
    # A local folder wins over a model of the same name, as in transformers' from_pretrained.
    path = Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UsageError(
                "{asked} was given, but {folder} is a local folder, which has no revisions; leave {option} "
                "out",
                asked=Option("revision", revision),
                folder=text,
                option=Option("revision"),
            )
        found = Source(text, _kind(path), None, path, trust)
    elif path.exists() or path.is_symlink():
        raise _not_a_folder(text, path)
    else:
        folder = download(text, revision, trust)
        # The cache names a snapshot's folder after its commit.
        found = Source(text, "hub", folder.name, folder, trust)
    require_files(text, file_names(found.folder), trust)
    require_small_files(text, found.folder, trust)
    return found


def _kind(folder: Path) -> Kind:
    return "sentence-transformers" if (folder / "modules.json").is_file() else "folder"


def _not_a_folder(text: str, path: Path) -> SourceError:
    if path.is_symlink() and not path.exists():
        return SourceError(
            "{source} is a link to {target}, which does not exist", source=text, target=path.readlink()
        )
    if path.suffix == ".onnx":
        return SourceError(
            "{source} is already an ONNX file; to run it, type: {call}",
            source=text,
            call=Call("run", text, "input.txt"),
        )
    return SourceError(
        "{source} is a file, and export reads a folder or a Hub id; type the checkpoint's folder, here: "
        "{call}",
        source=text,
        call=Call("export", path.parent),
    )
