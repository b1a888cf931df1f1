"""A graph that is told once that nothing is ever padded, rather than finding out in every batch.

Files have an `If` around each attention, on "the mask is all ones" (see `exporters/unmasked.py`). On a
GPU that question costs a wait for the device in every batch, and graphs with an `If` are fused and
captured less well. The engine never pads, so there the answer can be a constant: ONNX Runtime then
takes each `If` away when it loads the graph.
"""

from __future__ import annotations

from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.wire import Span, extents, fields, message, number_field

__all__ = ["assume_unpadded"]

_CONDITION, _MINIMUM = b"no_padding", b"mask_minimum"
"""The value that every `If` asks for, and what it is computed from, as the exporter names them."""

_BOOL = 9  # TensorProto.DataType


def assume_unpadded(model: bytes) -> bytes | None:
    """Return the model with "the mask is all ones" as a constant; None where it asks no such thing.

    Args:
        model: the bytes of a `ModelProto`, its large weights elsewhere (`mapped.without_weights`).
    """
    parts, found = [], False
    for number, whole, span in extents(model, (0, len(model))):
        graph = _constant_condition(model, span) if number == wire.GRAPH else None
        parts.append(model[slice(*whole)] if graph is None else message(wire.GRAPH, graph))
        found = found or graph is not None
    return b"".join(parts) if found else None


def _constant_condition(model: bytes, graph: Span) -> bytes | None:
    parts, found = [], False
    for number, whole, span in extents(model, graph):
        made = _outputs(model, span) if number == wire.NODE else []
        if _MINIMUM in made:
            continue  # nothing asks for it any more
        if _CONDITION in made:
            true = number_field(wire.DATA_TYPE, _BOOL) + message(wire.NAME, _CONDITION)
            parts.append(message(wire.INITIALIZER, true + message(wire.RAW, b"\x01")))
            found = True
        else:
            parts.append(model[slice(*whole)])
    return b"".join(parts) if found else None


def _outputs(model: bytes, node: Span) -> list[bytes]:
    return [model[slice(*span)] for number, span in fields(model, node) if number == wire.NODE_OUTPUT]
