"""From what the user typed to a folder on this disk: a local folder, or one commit of a Hub model.

Everything after this step reads one folder, so that config, weights and tokenizer cannot come from
different revisions.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bertonnx.errors import BertonnxError, CheckpointError, SourceError, UsageError
from bertonnx.exporters.checkpoint.adapters import Adapter, adapter_folder, require_adapter
from bertonnx.exporters.checkpoint.folder import (
    ADAPTER_CONFIG,
    file_names,
    has_base,
    model_folder,
    require_files,
    require_small_files,
    require_small_tensorflow,
)
from bertonnx.exporters.checkpoint.hub import download
from bertonnx.exporters.checkpoint.module_list import LIST, read_list, require_known
from bertonnx.exporters.checkpoint.tensorflow.locate import Located, beside, locate, locate_snapshot
from bertonnx.exporters.checkpoint.tensorflow.replica import UNPACKED, Replica, replicate
from bertonnx.exporters.options import ExportOptions, Trust
from bertonnx.wording import Call, Message, Option

__all__ = ["Source", "replicated", "resolve"]

_NO_TRUST = Trust()

Kind = Literal["hub", "folder", "sentence-transformers", "tensorflow"]


@dataclass(frozen=True)
class Source:
    """A checkpoint on this disk, and what of it is trusted.

    Attributes:
        id: what the user typed: a Hub id, or the folder's path.
        kind: "hub", or for a local folder "folder" or "sentence-transformers" (it has a modules.json), or for
            a local file or folder "tensorflow".
        revision: the commit hash that a Hub model was resolved to; None for local folders.
        folder: where its files lie.
        trust: what of it may run.
        adapter: the adapter that is to be merged into its base model; None for a whole model.
        located: TensorFlow's weights, which `replicated` makes a folder of; None for PyTorch's.
        replica: what became of them; None before that.
    """

    id: str
    kind: Kind
    revision: str | None
    folder: Path
    trust: Trust = _NO_TRUST
    adapter: Adapter | None = None
    located: Located | None = None
    replica: Replica | None = None

    @property
    def model_folder(self) -> Path:
        """Where config.json and the weights lie: of an adapter, those of its base model."""
        return model_folder(self.folder) if self.adapter is None else self.adapter.base

    @property
    def passed_over(self) -> list[str]:
        """TensorFlow's weights beside those of PyTorch, which are read."""
        return [] if self.located is not None else beside(self.model_folder)


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
        UnsupportedError: the family is known not to work (before its weights are downloaded), or an adapter
            cannot be merged.
        MissingDependencyError: huggingface_hub is not installed, or peft for an adapter.
    """
    found = _found(source, revision, trust)
    if found.located is not None:
        return found
    place = adapter_folder(found.folder)
    return found if place is None else replace(found, adapter=_adapter(found, place))


def _found(source: str | os.PathLike[str], at: str | None, trust: Trust) -> Source:
    """Return a checkpoint's folder, whether it holds a whole model or an adapter."""
    text = os.fspath(source)
    # A local folder wins over a model of the same name, as in transformers' from_pretrained.
    path = Path(text).expanduser()
    located = locate(path, trust)
    if located is not None:
        _require_no_revision(text, at)
        require_small_tensorflow(text, located.folder, trust)
        return Source(text, "tensorflow", None, located.folder, trust, located=located)
    if path.is_dir():
        _require_no_revision(text, at)
        found = Source(text, _kind(path), None, path, trust)
    elif path.exists() or path.is_symlink():
        raise _not_a_folder(text, path)
    else:
        folder = download(text, at, trust)
        # The cache names a snapshot's folder after its commit.
        located = locate_snapshot(folder, trust)
        found = Source(text, "hub", folder.name, folder, trust, located=located)
        if located is not None:
            require_small_tensorflow(text, located.folder, trust)
            return replace(found, folder=located.folder)
    try:
        require_files(text, file_names(found.folder), trust)
    except SourceError:
        # A module that cannot be exported says more than the weights that it does not have.
        if (found.folder / LIST).is_file():
            require_known(read_list(found.folder), found.folder)
        raise
    require_small_files(text, found.folder, trust)
    return found


def _require_no_revision(text: str, at: str | None) -> None:
    if at is not None:
        raise UsageError(
            "{asked} was given, but {folder} is a local folder, which has no revisions; leave {option} out",
            asked=Option("revision", at),
            folder=text,
            option=Option("revision"),
        )


@contextmanager
def replicated(source: Source, options: ExportOptions) -> Iterator[Source]:
    """Give a source whose folder transformers reads: the same one, or for TensorFlow's weights a replica.

    Raises:
        UsageError: an activation of the encoder was asked for, and the checkpoint is PyTorch's.
        CheckpointError: TensorFlow's weights are incomplete or no model's.
    """
    if source.located is None:
        if options.encoder_activation is not None:
            raise UsageError(
                "{asked} is an encoder's activation, which config.json of a PyTorch checkpoint says; leave "
                "it out, or ask for that of a head",
                asked=Option("activation", options.encoder_activation),
            )
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="bertonnx-", ignore_cleanup_errors=True) as there:
        folder = Path(there)
        try:
            replica = replicate(source.id, source.located, folder, options)
            yield replace(source, folder=folder, replica=replica)
        except BertonnxError as error:
            # What is wrong with a copy that nobody sees is wrong with what it was made of.
            error.message = _told_of(error.message, folder, source.located.folder)
            raise


def _told_of(message: Message, copy: Path, original: Path) -> Message:
    def told(value: object) -> object:
        if isinstance(value, Message):
            return _told_of(value, copy, original)
        if not isinstance(value, str | Path):
            return value
        text = str(value)
        for own in (copy / UNPACKED, copy):
            text = text.replace(str(own), str(original))
        return type(value)(text)

    return Message(message.template, **{name: told(value) for name, value in message.facts.items()})


def _adapter(found: Source, place: Path) -> Adapter:
    """Return the adapter in a folder with its base model, resolved as a source of its own."""
    settings = require_adapter(found.id, place)
    name = str(settings.get("base_model_name_or_path") or "")
    if has_base(file_names(place)):
        named = _named_elsewhere(settings, place, found)
        return Adapter(place, settings, place, name, None, named)
    try:
        base = _base(settings, place, found)
    except BertonnxError as error:
        raise type(error)(
            "{what} is a PEFT adapter of {base!r}, and that base model cannot be had: {why}. Where it lies "
            "in a folder here, write that folder into base_model_name_or_path of {file}",
            what=found.id,
            base=name,
            why=error.message,
            file=place / ADAPTER_CONFIG,
        ) from error
    return Adapter(place, settings, base.model_folder, name, base.revision)


def _base(settings: Mapping[str, Any], place: Path, found: Source) -> Source:
    name = settings.get("base_model_name_or_path")
    if not name:
        raise CheckpointError("{file} names none", file=place / ADAPTER_CONFIG)
    # As in transformers, from where we are; and from the adapter, for both may have been moved together.
    folders = [path for path in (Path(name).expanduser(), place / name) if path.is_dir()]
    # A folder has no revisions; peft writes the branch of a Hub model, or null.
    base = (
        _found(folders[0], None, found.trust)
        if folders
        else _found(name, settings.get("revision"), found.trust)
    )
    if adapter_folder(base.folder) is not None:
        raise CheckpointError("{base} is itself an adapter, and not a whole model", base=base.folder)
    return base


def _named_elsewhere(settings: Mapping[str, Any], place: Path, found: Source) -> Path | None:
    """Return the folder of the base model that an adapter beside weights names, where it can be had."""
    try:
        base = _base(settings, place, found)
    except BertonnxError:
        return None
    return None if base.model_folder.resolve() == place.resolve() else base.model_folder


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
