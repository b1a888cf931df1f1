"""A model's graph with its large weights left where they are, so that they are mapped, not parsed.

ONNX Runtime parses a file into protobuf messages and copies every weight out of them again. Given
the graph alone, with each large weight declared as external data at its place in the same file, it
maps that file instead, in half the time and a third less memory (benchmarks/load.py). That is safe only
while the file cannot change: see `held`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.wire import Readable, Span, extents, message, number_field

__all__ = ["without_weights"]

_MAPPED_FROM = 1 << 12
"""Bytes from which a weight is left in the file; shapes and scalars come along."""


def without_weights(path: Path) -> bytes:
    """Return the model's protobuf without metadata, its large weights pointing into the file itself.

    Weights that lie in a sidecar keep pointing there; all locations are relative to the folder of
    `path`.

    Args:
        path: a file that `modelfile.read_model_file` has checked.
    """
    with held(path) as file:
        data, parts = file.data, []
        for number, whole, span in extents(data, (0, len(data))):
            if number == wire.GRAPH:
                parts.append(message(wire.GRAPH, b"".join(_graph(data, span, path.name))))
            elif number != wire.METADATA:
                parts.append(data[slice(*whole)])
        return b"".join(parts)


def _graph(data: Readable, graph: Span, name: str) -> Iterator[bytes]:
    for number, whole, span in extents(data, graph):
        if number == wire.INITIALIZER and span[1] - span[0] >= _MAPPED_FROM:
            yield message(wire.INITIALIZER, _tensor(data, span, name))
        else:
            yield data[slice(*whole)]


def _tensor(data: Readable, tensor: Span, name: str) -> bytes:
    """Return a tensor with its bytes declared to lie in the file `name`."""
    kept, raw = [], None
    for number, whole, span in extents(data, tensor):
        if number == wire.RAW:
            raw = span
        else:
            kept.append(data[slice(*whole)])
    if raw is None:
        return data[slice(*tensor)]
    entries = {"location": name, "offset": str(raw[0]), "length": str(raw[1] - raw[0])}
    for key, value in entries.items():
        kept.append(message(wire.EXTERNAL, message(1, key.encode()) + message(2, value.encode())))
    return b"".join([*kept, number_field(wire.LOCATION, 1)])
