"""Reading what a model file says of itself, without ONNX, ONNX Runtime, or loading the weights.

It also is the check that stands before ONNX Runtime opens a file: truncated, foreign, or pointing out
of its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bertonnx.errors import ModelFileError
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY, Card
from bertonnx.models.reading import WrongKindError, parse
from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.agreement import require_agreement
from bertonnx.runtime.modelfile.held import Held, held
from bertonnx.runtime.modelfile.structure import Structure, Value
from bertonnx.runtime.modelfile.wire import Readable, Span, extents, fields
from bertonnx.wording import Call

__all__ = ["ModelFile", "graph_sha256", "read_model_file", "weights_sha256"]

_ENDLESS = frozenset(("Loop", "Scan", "SequenceMap"))
"""Operators of ONNX that repeat a graph as often as a file asks for; all others end by themselves, and none
reads a file."""

_MICROSOFT = frozenset(
    (
        *("Attention", "BiasAdd", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear"),
        *("DynamicQuantizeMatMul", "EmbedLayerNormalization", "ExpandDims", "FastGelu", "FusedGemm"),
        *("FusedMatMul", "FusedMatMulActivation", "GatedRelativePositionBias", "GatherBlockQuantized"),
        *("GatherND", "Gelu", "GemmFastGelu", "GroupQueryAttention", "Inverse", "LongformerAttention"),
        *("MatMulBnb4", "MatMulFpQ4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MoE"),
        *("MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention", "Pad", "QAttention"),
        *("QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat"),
        *("QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean"),
        *("QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QMoE", "QuantizeLinear", "QuickGelu"),
        *("Range", "ReduceSumInteger", "RelativePositionBias", "RemovePadding", "RestorePadding"),
        *("RotaryEmbedding", "SkipGroupNorm", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
        *("SimplifiedLayerNormalization", "SparseAttention", "TransposeMatMul", "Trilu", "Unique"),
    )
)
"""ONNX Runtime's own operators that encoders are made of. Others of it search, repeat, or read files."""

_DOMAINS: Mapping[str, str] = {"": "", "ai.onnx": "", "com.microsoft": "com.microsoft"}


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
        takes: what the graph says of its inputs, by name.
        declared: what the graph says of its outputs, by name.
    """

    path: Path
    metadata: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sidecars: tuple[Path, ...] = ()
    bytes: int = 0
    takes: Mapping[str, Value] = field(default_factory=dict)
    declared: Mapping[str, Value] = field(default_factory=dict)
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
            require_agreement(self.path, card, self.takes, self.declared)
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
        return [entry for entry in self._entries if "outputs" in entry]

    @property
    def hard_texts(self) -> list[tuple[str, list[int]]]:
        """Texts and their token ids; files of format 1 carry none.

        Raises:
            ModelFileError: they cannot be read.
        """
        return [(entry["text"], entry["ids"]) for entry in self._entries if "outputs" not in entry]

    @cached_property
    def _entries(self) -> list[dict[str, Any]]:
        try:
            examples: list[dict[str, Any]] = parse(self.metadata.get(GOLDEN_KEY, "[]"))
        except WrongKindError as error:
            raise _damaged_golden(self.path, str(error)) from error
        if not isinstance(examples, list):
            raise _damaged_golden(self.path, "no list")
        for number, example in enumerate(examples):
            if not _is_example(example):
                raise _damaged_golden(self.path, f"number {number} is not of the right kind")
        return examples


def read_model_file(path: Path) -> ModelFile:
    """Read a model file's metadata and check that it is whole.

    Raises:
        ModelFileError: missing, a folder, empty, truncated, not ONNX, with weights outside its folder, or
            with operators that no encoder has.
    """
    with held(path) as file:
        found = _structure(file)
        _require_operators(path, found)
        locations: dict[str, int] = {}
        for entries in found.external:
            _note_location(path, entries, locations)
        sidecars = tuple(_sidecar(path, name, least) for name, least in sorted(locations.items()))
        size = len(file.data) + sum(sidecar.stat().st_size for sidecar in sidecars)
    return ModelFile(
        path,
        found.metadata,
        tuple(value.name for value in found.inputs),
        tuple(value.name for value in found.outputs),
        sidecars,
        size,
        {value.name: value for value in found.inputs},
        {value.name: value for value in found.outputs},
    )


def weights_sha256(path: Path) -> str:
    """Return the SHA-256, in hex, over names, types, shapes and bytes of all weights, in order of name.

    Raises:
        ModelFileError: as `read_model_file`.
    """
    import hashlib  # loads OpenSSL, for which a prediction need not wait

    digest = hashlib.sha256()
    with held(path) as file, _damage(path):
        data, graph = file.data, _structure(file).graph or (0, 0)
        spans = [span for number, span in fields(data, graph) if number == wire.INITIALIZER]
        for name, span in sorted((_tensor_name(data, span), span) for span in spans):
            digest.update(name.encode() + b"\0")
            _digest_tensor(path, data, span, digest)
    return digest.hexdigest()


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
            "{path} is not an ONNX model, or is truncated or damaged ({error}); export or copy the model "
            "again",
            path=path,
            error=str(error),
        ) from error


def _structure(file: Held) -> Structure:
    with _damage(file.path):
        found = file.structure
    if found.graph is None:
        raise ModelFileError(
            "{path} is not an ONNX model (it holds no graph), or is truncated", path=file.path
        )
    return found


def _require_operators(path: Path, found: Structure) -> None:
    """Refuse what could run for ever, read other files, or is known to no ONNX Runtime."""
    refused = []
    for asked, name in found.operators:
        domain = _DOMAINS.get(asked)
        if domain is None or (name in _ENDLESS if not domain else name not in _MICROSOFT):
            refused.append(f"{asked}.{name}" if asked else name)
    refused += ["functions of its own"] * bool(found.functions) + ["training graphs"] * bool(found.training)
    if refused:
        raise ModelFileError(
            "{path} holds what no encoder needs and bertonnx never runs ({what}); get the model from a "
            "source you trust, or export the checkpoint with: {export}",
            path=path,
            what=", ".join(sorted(refused)),
            export=Call("export", "SOURCE"),
        )


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
        case {"text": str(), "pair": str() | None, "ids": list(ids), "outputs": dict(outputs), **rest}:
            largest = rest.get("largest", {})
            return (
                _are_ids(ids)
                and all(map(_are_numbers, outputs.values()))
                and isinstance(largest, dict)
                and all(map(_are_largest, largest.values()))
            )
        case {"outputs": _}:
            return False
        case {"text": str(), "ids": list(ids)}:
            return _are_ids(ids)
    return False


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(x) in (int, float) and abs(x) < 1e39 for x in value)


def _are_largest(value: object) -> bool:
    match value:
        case {"places": list(places), "numbers": list(numbers)}:
            return len(places) == len(numbers) and _are_ids(places) and _are_numbers(numbers)
    return False


def _are_ids(ids: list[Any]) -> bool:
    return all(type(x) is int and 0 <= x < 1 << 31 for x in ids)


def _damaged_golden(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "{path} carries damaged golden examples ({why}); export the checkpoint again", path=path, why=why
    )


def _tensor_name(data: Readable, span: Span) -> str:
    return next(
        (data[slice(*part)].decode() for number, part in fields(data, span) if number == wire.NAME), ""
    )


def _external(data: Readable, span: Span) -> dict[str, str]:
    """Return a tensor's `external_data`: location, offset and length; empty where it has none."""
    entries: dict[str, str] = {}
    for number, part in fields(data, span):
        if number == wire.EXTERNAL:
            entry = {key: data[slice(*piece)].decode() for key, piece in fields(data, part)}
            entries[entry.get(1, "")] = entry.get(2, "")
    return entries


def _note_location(path: Path, entries: Mapping[str, str], locations: dict[str, int]) -> None:
    location = entries.get("location", "")
    figures = [entries.get(key) or "0" for key in ("offset", "length")]
    if not all(figure.isascii() and figure.isdigit() and len(figure) < 19 for figure in figures):
        raise ModelFileError("{path} has damaged external data: {entries}", path=path, entries=dict(entries))
    needed = sum(map(int, figures))
    locations[location] = max(locations.get(location, 0), needed)


def _sidecar(path: Path, location: str, least: int) -> Path:
    """Return the file behind a location, after checking that it lies in the model's own folder.

    Locations that leave the folder are how a model file reads other files of a machine
    (CVE-2024-27318, CVE-2026-34445).
    """
    folder = path.resolve().parent
    # Names that mean another place on some system: a drive or stream of Windows, either slash.
    inside = location not in ("", ".", "..") and not set(location) & set("/\\:\0")
    target = folder / location if inside else folder
    if not inside or target.is_symlink():
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
    if target.stat().st_nlink > 1:
        # The other name may be a file that its maker could not read, and whoever runs the model can.
        raise ModelFileError(
            "{location}, which {path} needs, is a hard link to another file, which bertonnx never follows; "
            "copy it and put the copy in its place",
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


def graph_sha256(path: Path) -> str:
    """Return the SHA-256, in hex, over the graph and what else says how it is computed, without weights.

    Names and remarks are part of it: the same export gives the same. Weights have a hash of their own, and
    may lie in the file or beside it.

    Raises:
        ModelFileError: as `read_model_file`.
    """
    import hashlib  # loads OpenSSL, for which a prediction need not wait

    digest = hashlib.sha256()
    with held(path) as file:
        data, graph = file.data, _structure(file).graph or (0, 0)
        # Who made it is no part of what it is, and is left out with the metadata.
        left_out = (wire.GRAPH, wire.METADATA, *wire.PRODUCER)
        for number, whole, _ in extents(data, (0, len(data))):
            if number not in left_out:
                digest.update(data[slice(*whole)])
        for number, whole, _ in extents(data, graph):
            if number != wire.INITIALIZER:
                digest.update(data[slice(*whole)])
    return digest.hexdigest()


def _digest_tensor(path: Path, data: Readable, span: Span, digest: Any) -> None:
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
