"""Reading what a model file says of itself, without ONNX, ONNX Runtime, or loading the weights.

A small reader of protobuf's wire format (https://protobuf.dev/programming-guides/encoding/) over a
memory map, for the few messages of onnx.proto3 that matter here. It also is the check that stands
before ONNX Runtime opens a file: truncated, foreign, or pointing out of its folder.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertonnx.errors import ModelFileError
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY, Card

__all__ = ["ModelFile", "read_model_file", "weights_sha256"]

_GRAPH, _METADATA = 7, 14  # ModelProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # GraphProto
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14  # TensorProto

Span = tuple[int, int]
"""Where a field's content starts and ends in the file, in bytes."""


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
            ModelFileError: there is none, or it cannot be read.
        """
        if not self.is_bertonnx:
            raise ModelFileError(
                f"{self.path} was not made by bertonnx (it carries no card); export the checkpoint with: "
                "bertonnx export SOURCE, or give a folder of optimum-cli with config.json and tokenizer.json"
            )
        if not self._card:
            self._card.append(Card.from_json(self.metadata[CARD_KEY]))
        return self._card[0]

    @property
    def tokenizer(self) -> str:
        """The text of the tokenizer.

        Raises:
            ModelFileError: the file carries none.
        """
        text = self.metadata.get(TOKENIZER_KEY)
        if not text:
            raise ModelFileError(f"{self.path} carries no tokenizer; export the checkpoint again")
        return text

    @property
    def golden(self) -> list[dict[str, Any]]:
        """The golden examples; empty where the file carries none."""
        examples: list[dict[str, Any]] = json.loads(self.metadata.get(GOLDEN_KEY, "[]"))
        return examples


def read_model_file(path: Path) -> ModelFile:
    """Read a model file's metadata and check that it is whole.

    Raises:
        ModelFileError: missing, a folder, empty, truncated, not ONNX, or with weights outside its folder.
    """
    with _open(path) as data:
        graph, metadata = _model(path, data)
        names: dict[int, list[str]] = {_INPUT: [], _OUTPUT: []}
        locations: dict[str, int] = {}
        for number, span in _checked(path, data, graph):
            if number in names:
                names[number].append(_name(data, span))
            elif number == _INITIALIZER:
                _note_external(path, data, span, locations)
        sidecars = tuple(_sidecar(path, name, least) for name, least in sorted(locations.items()))
    size = path.stat().st_size + sum(file.stat().st_size for file in sidecars)
    return ModelFile(path, metadata, tuple(names[_INPUT]), tuple(names[_OUTPUT]), sidecars, size)


def weights_sha256(path: Path) -> str:
    """Return the SHA-256, in hex, over names, types, shapes and bytes of all weights, in order of name.

    Raises:
        ModelFileError: as `read_model_file`.
    """
    digest = hashlib.sha256()
    with _open(path) as data:
        graph, _ = _model(path, data)
        spans = [span for number, span in _checked(path, data, graph) if number == _INITIALIZER]
        for name, span in sorted((_tensor_name(data, span), span) for span in spans):
            digest.update(name.encode() + b"\0")
            _digest_tensor(path, data, span, digest)
    return digest.hexdigest()


def _open(path: Path) -> mmap.mmap:
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; a model file is expected, such as {path / 'model.onnx'}")
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ModelFileError(
            f"there is no file {path}; make one with: bertonnx export SOURCE -o {path}"
        ) from error
    except ValueError as error:  # mmap of an empty file
        raise ModelFileError(f"{path} is empty (zero bytes); export or copy the model again") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error


def _model(path: Path, data: mmap.mmap) -> tuple[Span, dict[str, str]]:
    """Return where the graph lies, and the metadata."""
    graph: Span | None = None
    metadata: dict[str, str] = {}
    for number, span in _checked(path, data, (0, len(data))):
        if number == _GRAPH:
            graph = span
        elif number == _METADATA:
            entry = {key: bytes(data[slice(*part)]) for key, part in _checked(path, data, span)}
            metadata[_text(path, entry.get(1, b""))] = _text(path, entry.get(2, b""))
    if graph is None:
        raise ModelFileError(f"{path} is not an ONNX model (it holds no graph), or is truncated")
    return graph, metadata


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path} is not an ONNX model (its metadata is not text)") from error


def _checked(path: Path, data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    try:
        yield from _fields(data, span)
    except (ValueError, IndexError) as error:
        raise ModelFileError(
            f"{path} is not an ONNX model, or is truncated ({error}); export or copy the model again"
        ) from error


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """Yield number and content of every field of a message; of a varint, the bytes it takes."""
    place, end = span
    while place < end:
        key, place = _varint(data, place, end)
        number, kind = key >> 3, key & 7
        start = place
        if kind == 0:
            _, place = _varint(data, place, end)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, start = _varint(data, place, end)
            place = start + length
        else:
            raise ValueError(f"byte {place} starts no field")
        if place > end or number == 0:
            raise ValueError(f"a field at byte {start} ends after its message")
        yield number, (start, place)


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(f"byte {place} is part of no number")
    raise ValueError("a number is cut off at the end")


def _name(data: mmap.mmap, span: Span) -> str:
    return next((data[slice(*part)].decode() for number, part in _fields(data, span) if number == 1), "")


def _tensor_name(data: mmap.mmap, span: Span) -> str:
    return next((data[slice(*part)].decode() for number, part in _fields(data, span) if number == _NAME), "")


def _external(data: mmap.mmap, span: Span) -> dict[str, str]:
    """Return a tensor's `external_data`: location, offset and length; empty where it has none."""
    entries: dict[str, str] = {}
    for number, part in _fields(data, span):
        if number == _EXTERNAL:
            entry = {key: data[slice(*piece)].decode() for key, piece in _fields(data, part)}
            entries[entry.get(1, "")] = entry.get(2, "")
    return entries


def _note_external(path: Path, data: mmap.mmap, span: Span, locations: dict[str, int]) -> None:
    entries = _external(data, span)
    if not entries:
        return
    location = entries.get("location", "")
    try:
        needed = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
    except ValueError as error:
        raise ModelFileError(f"{path} has damaged external data: {entries}") from error
    locations[location] = max(locations.get(location, 0), needed)


def _sidecar(path: Path, location: str, least: int) -> Path:
    """Return the file behind a location, after checking that it lies in the model's own folder.

    Locations that leave the folder are how a model file reads other files of a machine
    (CVE-2024-27318, CVE-2026-34445).
    """
    folder = path.resolve().parent
    target = folder / location
    if not location or Path(location).name != location or target.is_symlink():
        raise ModelFileError(
            f"{path} points to weights outside its folder ({location!r}), which bertonnx never follows; "
            "get the model from a source you trust"
        )
    if not target.is_file():
        raise ModelFileError(
            f"{path} needs {location} beside it, and it is not there; copy both files together"
        )
    if target.stat().st_size < least:
        raise ModelFileError(
            f"{target} is truncated: {target.stat().st_size} bytes, and {least} are needed; copy it again"
        )
    return target


def _digest_tensor(path: Path, data: mmap.mmap, span: Span, digest: Any) -> None:
    for number, part in _fields(data, span):
        # Where the bytes lie (inline or beside the file) is not part of what the weight is.
        if number not in (_NAME, _EXTERNAL, _LOCATION, _RAW):
            digest.update(bytes([number]) + data[slice(*part)])
    for number, part in _fields(data, span):
        if number == _RAW:
            digest.update(memoryview(data)[slice(*part)])
    entries = _external(data, span)
    if entries:
        target = _sidecar(path, entries.get("location", ""), 0)
        with target.open("rb") as stream:
            stream.seek(int(entries.get("offset") or 0))
            remaining = int(entries.get("length") or 0)
            while remaining > 0 and (block := stream.read(min(remaining, 1 << 22))):
                digest.update(block)
                remaining -= len(block)
