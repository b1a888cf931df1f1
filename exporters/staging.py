"""Writing the finished file: aside, whole, checked, and then renamed into place."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from bertonnx.errors import ModelFileError, OutputError
from bertonnx.exporters.onnxgraph.files import save_proto
from bertonnx.exporters.verify.samples import batch_rows, sample_rows, with_tokens
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY, Card
from bertonnx.runtime.golden import (
    CheckReport,
    batch_of,
    check,
    examples_of,
    hard_texts_of,
    sha256_text,
    with_card,
)
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import graph_sha256, read_model_file, weights_sha256
from bertonnx.runtime.places import require_file_or_none, require_name
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Option

__all__ = ["Staged", "require_free", "seal", "stage", "stamped"]


@dataclass(frozen=True)
class Staged:
    """A model file on its way: complete but for its metadata, in a folder of its own.

    Attributes:
        path: the file, which has its final name already, as its sidecar must.
        target: where it will be put.
    """

    path: Path
    target: Path

    def write_metadata(self, card: Card, tokenizer: str, golden: list[dict[str, object]]) -> None:
        """Add the card, the tokenizer and the golden examples to the file."""
        self.add_metadata(
            {
                CARD_KEY: card.to_json(),
                TOKENIZER_KEY: tokenizer,
                GOLDEN_KEY: json.dumps(golden, ensure_ascii=False, separators=(",", ":")),
            }
        )

    def add_metadata(self, entries: Mapping[str, str]) -> None:
        """Add entries to the file's metadata."""
        metadata = onnx.ModelProto()
        for key, value in entries.items():
            metadata.metadata_props.add(key=key, value=value)
        # Protobuf reads two messages one after the other as one merged: no gigabytes written again.
        with _disk_errors(self.target), self.path.open("ab") as stream:
            stream.write(metadata.SerializeToString(deterministic=True))

    def publish(self) -> None:
        """Put the file, and its sidecar before it, in their place."""
        sidecars = read_model_file(self.path).sidecars
        old = _sidecars_of(self.target)
        for sidecar in sidecars:
            place = self.target.parent / sidecar.name
            # With no model there to replace, a file of that name is somebody else's.
            if place.exists() and place not in old and not self.target.exists():
                raise OutputError(
                    "{place} exists and is needed for weights; remove it, or choose another {option}",
                    place=place,
                    option=Option("output"),
                )
        with _disk_errors(self.target):
            if sidecars:
                # Between the two renames there must be no model, rather than one with another's weights.
                self.target.unlink(missing_ok=True)
            for sidecar in sidecars:
                sidecar.replace(self.target.parent / sidecar.name)
            self.path.replace(self.target)
            # Old weights go last: until the new model is in its place, the old one may still need them.
            for path in old - {self.target.parent / sidecar.name for sidecar in sidecars}:
                path.unlink(missing_ok=True)


def seal(
    staged: Staged,
    session: Session,
    card: Card,
    tokenizer: TextTokenizer,
    *,
    tokenizer_text: str,
    replayed: bool = True,
) -> tuple[Card, CheckReport | None]:
    """Write card, tokenizer and golden examples, replay these from the file, and put it in its place.

    Args:
        staged: the finished graph.
        session: of it, on one thread of the CPU: it answers the golden examples.
        card: all but the digests.
        tokenizer: of the model.
        tokenizer_text: what it was made of.
        replayed: whether this machine can run the file.

    Returns:
        The card as it was written, and the replay; None where there was none.

    Raises:
        DriftError: the file does not give its own examples; nothing stands in its place then.
        OutputError: the file cannot be written.
    """
    pairs, mask = bool(card.needs_pair), card.mask_token
    samples = sample_rows(pairs=pairs, mask_token=mask, max_length=card.max_length)
    with held(staged.path), ThreadPoolExecutor(1) as pool:  # held, so that it is read once for both
        digests = pool.submit(lambda: (weights_sha256(staged.path), graph_sha256(staged.path)))
        # Made by this session, not by PyTorch: they shall show later whether the file still computes this.
        examples = [
            *examples_of(with_tokens(samples, tokenizer), tokenizer, session, card),
            *batch_of(batch_rows(pairs=pairs, mask_token=mask), tokenizer, session, card),
        ]
        weights, graph = digests.result()
    card = replace(
        card,
        weights_sha256=weights,
        graph_sha256=graph,
        tokenizer_sha256=sha256_text(tokenizer_text),
    )
    golden = [*with_card(examples, card), *hard_texts_of(tokenizer)]
    staged.write_metadata(card, tokenizer_text, golden)
    # Before it is put in its place: a file that fails its own examples must not stand there.
    replay = check(staged.path, "cpu") if replayed else None
    staged.publish()
    return card, replay


def require_free(output: str | Path, *, force: bool) -> Path:
    """Return the output's path after checking that it may and can be written.

    Raises:
        OutputError: it exists and `force` is off, or its folder is missing or not writable.
    """
    path = Path(output)
    require_name(path, OutputError)
    if path.is_dir():
        raise OutputError(
            "{path} is a folder; give the file to write, such as {example}",
            path=path,
            example=Option("output", path / "model.onnx"),
        )
    if path.exists() and not force:
        raise OutputError(
            "{path} exists; add {force} to replace it, or choose another with {output}",
            path=path,
            force=Option("force", True),
            output=Option("output"),
        )
    require_file_or_none(path)
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(
            "there is no folder {folder} to write {name} to; make it first", folder=folder, name=path.name
        )
    if not os.access(folder, os.W_OK):
        raise OutputError(
            "the folder {folder} cannot be written to; choose another with {option}",
            folder=folder,
            option=Option("output"),
        )
    return path


@contextlib.contextmanager
def stage(model: onnx.ModelProto, target: Path) -> Iterator[Staged]:
    """Write the model's graph beside its target; whatever happens, nothing half-written stays.

    Raises:
        OutputError: the disk is full or the folder cannot be written to.
    """
    with _disk_errors(target):
        # Beside the target: only within one file system is renaming a single step.
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        staged = Staged(folder / target.name, target)
        with _disk_errors(target):
            save_proto(model, staged.path)
        yield staged
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sidecars_of(path: Path) -> set[Path]:
    """Return the sidecars of the file that is about to be replaced."""
    if not path.is_file():
        return set()
    try:
        return {path.parent / sidecar.name for sidecar in read_model_file(path).sidecars}
    except ModelFileError:  # whatever it was, it is not ours to clean up after
        return set()


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            "{target} cannot be written: {why}", target=target, why=error.strerror or error
        ) from error


def stamped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, the maker named in it, without what earlier makers noted of their own folders."""
    model.producer_name = "bertonnx"
    model.producer_version = importlib.metadata.version("bertonnx")
    model.graph.name = "bertonnx"
    del model.metadata_props[:]
    used = _domains(model.graph)
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def _domains(graph: onnx.GraphProto) -> set[str]:
    """Return the operator sets that a graph and its branches use; each optimizer declares all it knows."""
    used = {""}
    for node in graph.node:
        used.add("" if node.domain == "ai.onnx" else node.domain)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                used |= _domains(attribute.g)
    return used
