"""Reading what a model file says of itself, without ONNX, ONNX Runtime, or loading the weights.

It also is the check that stands before ONNX Runtime opens a file: truncated, foreign, or pointing out
of its folder.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertonnx.errors import ModelFileError
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY, Card
from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.wire import Span, fields
from bertonnx.wording import Call

__all__ = ["ModelFile", "open_map", "read_model_file", "weights_sha256"]

_PARTS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Where tensors lie in onnx.proto3: message -> field number -> message."""


@dataclass(frozen=True)
class ModelFile:
    """What was read of a model file.

    Attributes:
        path: the file.
        metadata: `metadata_props`.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        sidecars: files that hold weights beside it.
        bytes: size of the file and its sidecars.
    """

    path: Path
    metadata: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sidecars: tuple[Path, ...] = ()
    bytes: int = 0
    _card: list[Card] = field(default_factory=list, repr=False, compare=False)

    @property
    def is_bertonnx(self) -> bool:
        """Whether bertonnx made the file."""
        return CARD_KEY in self.metadata

    @property
    def card(self) -> Card:
        """The card.

        Raises:
            ModelFileError: there is none, it cannot be read, or it speaks of another graph.
        """
        if not self.is_bertonnx:
            raise ModelFileError(
                "{path} was not made by bertonnx: it carries no card and no golden examples, so there is "
                "nothing to show or to check (where optimum-cli made it, it runs: {run}); export the "
                "checkpoint with: {export}",
                path=self.path,
                run=Call("run", self.path),
                export=Call("export", "SOURCE"),
            )
        if not self._card:
            card = Card.from_json(self.metadata[CARD_KEY])
            _same_names(self.path, "inputs", self.inputs, card.inputs)
            _same_names(self.path, "outputs", self.outputs, card.outputs)
            self._card.append(card)
        return self._card[0]

    @property
    def tokenizer(self) -> str:
        """The text of the tokenizer.

        Raises:
            ModelFileError: the file carries none.
        """
        text = self.metadata.get(TOKENIZER_KEY)
        if not text:
            raise ModelFileError("{path} carries no tokenizer; export the checkpoint again", path=self.path)
        return text

    @property
    def golden(self) -> list[dict[str, Any]]:
        """The golden examples; empty where the file carries none.

        Raises:
            ModelFileError: they cannot be read.
        """
        try:
            examples: list[dict[str, Any]] = json.loads(self.metadata.get(GOLDEN_KEY, "[]"))
        except (ValueError, RecursionError):
            examples = [{}]
        if not isinstance(examples, list) or not all(map(_is_example, examples)):
            raise ModelFileError(
                "{path} carries damaged golden examples; export the checkpoint again", path=self.path
            )
        return examples


def read_model_file(path: Path) -> ModelFile:
    """Read a model file's metadata and check that it is whole.

    Raises:
        ModelFileError: missing, a folder, empty, truncated, not ONNX, or with weights outside its folder.
    """
    with open_map(path) as data, _damage(path):
        graph, metadata = _model(path, data)
        names: dict[int, list[str]] = {wire.INPUT: [], wire.OUTPUT: []}
        for number, span in fields(data, graph):
            if number in names:
                names[number].append(_name(data, span))
        locations: dict[str, int] = {}
        for span in _tensors(data, "model", (0, len(data))):
            _note_external(path, data, span, locations)
        sidecars = tuple(_sidecar(path, name, least) for name, least in sorted(locations.items()))
    size = path.stat().st_size + sum(file.stat().st_size for file in sidecars)
    return ModelFile(path, metadata, tuple(names[wire.INPUT]), tuple(names[wire.OUTPUT]), sidecars, size)


def weights_sha256(path: Path) -> str:
    """Return the SHA-256, in hex, over names, types, shapes and bytes of all weights, in order of name.

    Raises:
        ModelFileError: as `read_model_file`.
    """
    import hashlib  # loads OpenSSL, for which a prediction need not wait

    digest = hashlib.sha256()
    with open_map(path) as data, _damage(path):
        graph, _ = _model(path, data)
        spans = [span for number, span in fields(data, graph) if number == wire.INITIALIZER]
        for name, span in sorted((_tensor_name(data, span), span) for span in spans):
            digest.update(name.encode() + b"\0")
            _digest_tensor(path, data, span, digest)
    return digest.hexdigest()


def open_map(path: Path) -> mmap.mmap:
    """Map a file into memory, read only.

    Raises:
        ModelFileError: missing, a folder, empty, or not readable.
    """
    if path.is_dir():
        raise ModelFileError(
            "{path} is a folder; a model file is expected, such as {example}",
            path=path,
            example=path / "model.onnx",
        )
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ModelFileError(
            "there is no file {path}; make one with: {export}",
            path=path,
            export=Call("export", "SOURCE", output=path),
        ) from error
    except ValueError as error:  # mmap of an empty file
        raise ModelFileError(
            "{path} is empty (zero bytes); export or copy the model again", path=path
        ) from error
    except OSError as error:
        raise ModelFileError("{path} cannot be read: {error}", path=path, error=error.strerror) from error


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever does not read as ONNX inside the block is damage to the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ModelFileError(
            "{path} is not an ONNX model, or is damaged (a name is not text)", path=path
        ) from error
    except (ValueError, IndexError, OverflowError, RecursionError) as error:
        raise ModelFileError(
            "{path} is not an ONNX model, or is truncated ({error}); export or copy the model again",
            path=path,
            error=str(error),
        ) from error


def _model(path: Path, data: mmap.mmap) -> tuple[Span, dict[str, str]]:
    """Return where the graph lies, and the metadata."""
    graphs: list[Span] = []
    metadata: dict[str, str] = {}
    for number, span in fields(data, (0, len(data))):
        if number == wire.GRAPH:
            graphs.append(span)
        elif number == wire.METADATA:
            entry = {key: data[slice(*part)].decode() for key, part in fields(data, span)}
            metadata[entry.get(1, "")] = entry.get(2, "")
    if not graphs:
        raise ModelFileError("{path} is not an ONNX model (it holds no graph), or is truncated", path=path)
    if len(graphs) > 1:
        # Protobuf would merge them, and what was checked would not be what runs.
        raise ModelFileError(
            "{path} is damaged (it holds {graphs} graphs); export the model again",
            path=path,
            graphs=len(graphs),
        )
    return graphs[0], metadata


def _same_names(path: Path, what: str, found: tuple[str, ...], noted: tuple[str, ...]) -> None:
    if set(found) != set(noted):
        raise ModelFileError(
            "the graph in {path} has the {what} {found}, and its card names {noted}; the file was changed "
            "after export: export the checkpoint again",
            path=path,
            what=what,
            found=", ".join(found),
            noted=", ".join(noted),
        )


def _is_example(value: object) -> bool:
    match value:
        case {"text": str(), "pair": str() | None, "ids": list(), "outputs": dict(outputs)}:
            return all(isinstance(x, (int, float)) for numbers in outputs.values() for x in numbers)
    return False


def _tensors(data: mmap.mmap, kind: str, span: Span) -> Iterator[Span]:
    """Yield all tensors in a message, those in constants, branches and functions included."""
    if kind == "tensor":
        yield span
        return
    # The many nodes that cannot hold a location are passed over; weights are never searched.
    if kind in ("node", "function") and data.find(b"location", *span) < 0:
        return
    parts = _PARTS[kind]
    for number, part in fields(data, span):
        if number in parts:
            yield from _tensors(data, parts[number], part)


def _name(data: mmap.mmap, span: Span) -> str:
    return next((data[slice(*part)].decode() for number, part in fields(data, span) if number == 1), "")


def _tensor_name(data: mmap.mmap, span: Span) -> str:
    return next(
        (data[slice(*part)].decode() for number, part in fields(data, span) if number == wire.NAME), ""
    )


def _external(data: mmap.mmap, span: Span) -> dict[str, str]:
    """Return a tensor's `external_data`: location, offset and length; empty where it has none."""
    entries: dict[str, str] = {}
    for number, part in fields(data, span):
        if number == wire.EXTERNAL:
            entry = {key: data[slice(*piece)].decode() for key, piece in fields(data, part)}
            entries[entry.get(1, "")] = entry.get(2, "")
    return entries


def _note_external(path: Path, data: mmap.mmap, span: Span, locations: dict[str, int]) -> None:
    entries = _external(data, span)
    if not entries:
        return
    location = entries.get("location", "")
    figures = [entries.get(key) or "0" for key in ("offset", "length")]
    if not all(figure.isascii() and figure.isdigit() and len(figure) < 20 for figure in figures):
        raise ModelFileError("{path} has damaged external data: {entries}", path=path, entries=entries)
    needed = sum(map(int, figures))
    locations[location] = max(locations.get(location, 0), needed)


def _sidecar(path: Path, location: str, least: int) -> Path:
    """Return the file behind a location, after checking that it lies in the model's own folder.

    Locations that leave the folder are how a model file reads other files of a machine
    (CVE-2024-27318, CVE-2026-34445).
    """
    folder = path.resolve().parent
    target = folder / location
    inside = Path(location).name == location and location != ".." and "\0" not in location
    if not location or not inside or target.is_symlink():
        raise ModelFileError(
            "{path} points to weights outside its folder ({location!r}), which bertonnx never follows; get "
            "the model from a source you trust",
            path=path,
            location=location,
        )
    if not target.is_file():
        raise ModelFileError(
            "{path} needs {location} beside it, and it is not there; copy both files together",
            path=path,
            location=location,
        )
    if target.stat().st_size < least:
        raise ModelFileError(
            "{path} is truncated: {size} bytes, and {least} are needed; copy it again",
            path=target,
            size=target.stat().st_size,
            least=least,
        )
    return target


def _digest_tensor(path: Path, data: mmap.mmap, span: Span, digest: Any) -> None:
    for number, part in fields(data, span):
        # Where the bytes lie (inline or beside the file) is not part of what the weight is, nor is a
        # remark, which some writers leave empty and others leave out.
        if number not in (wire.NAME, wire.DOC, wire.EXTERNAL, wire.LOCATION, wire.RAW):
            digest.update(bytes([number]) + data[slice(*part)])
    for number, part in fields(data, span):
        if number == wire.RAW:
            digest.update(memoryview(data)[slice(*part)])
    entries = _external(data, span)
    if entries:
        target = _sidecar(path, entries.get("location", ""), 0)
        with target.open("rb") as stream:
            offset = stream.seek(int(entries.get("offset") or 0))
            # Without a length the weight takes the rest of the file.
            remaining = int(entries.get("length") or target.stat().st_size - offset)
            while remaining > 0 and (block := stream.read(min(remaining, 1 << 22))):
                digest.update(block)
                remaining -= len(block)
