"""Writing and reading ONNX files of any size: one file, or one file and one sidecar over 2 GB."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_model

__all__ = [
    "SINGLE_FILE_LIMIT",
    "hollow_weights",
    "load_proto",
    "restore_weights",
    "save_proto",
    "weight_bytes",
    "without_large_weights",
]

SINGLE_FILE_LIMIT = 2_000_000_000
"""Bytes of weights above which a sidecar is written: protobuf's own limit is 2**31 - 1 in all."""

_LARGE = 65_536
"""Bytes above which a matrix is a trained weight, and no constant that a pattern looks into."""

_INLINE_BELOW = 1024
"""Smaller weights (shapes, scalars) stay in the file even where there is a sidecar."""


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes that the model's weights take."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def save_proto(model: onnx.ModelProto, path: Path, *, sidecar: str | None = None) -> Path | None:
    """Write a model; where its weights exceed `SINGLE_FILE_LIMIT`, they go to a sidecar beside it.

    Args:
        model: is the same after the call as before.
        path: file to write; its folder exists.
        sidecar: name that the file will know the sidecar by, default the file's name and `.data`.

    Returns:
        The sidecar's path, or None where all is in one file.
    """
    if weight_bytes(model) <= SINGLE_FILE_LIMIT:
        # The same model gives the same bytes, which protobuf does not promise by itself.
        path.write_bytes(model.SerializeToString(deterministic=True))
        return None
    location = sidecar if sidecar is not None else f"{path.name}.data"
    shell = onnx.ModelProto()
    shell.CopyFrom(_without_weights(model))
    data = path.parent / location
    with data.open("wb") as stream:
        for tensor in model.graph.initializer:
            entry = shell.graph.initializer.add()
            if len(tensor.raw_data) < _INLINE_BELOW:
                entry.CopyFrom(tensor)
                continue
            _refer(entry, tensor, location, stream.tell())
            stream.write(tensor.raw_data)
            stream.write(b"\0" * (-stream.tell() % 64))
    path.write_bytes(shell.SerializeToString(deterministic=True))
    return data


def load_proto(path: Path) -> onnx.ModelProto:
    """Read a model with all its weights in memory."""
    model = onnx.load(str(path), load_external_data=False)
    load_external_data_for_model(model, str(path.parent))
    return model


def without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large matrices have a type and a shape, and no content."""
    shell = _without_weights(model)
    for tensor in model.graph.initializer:
        entry = shell.graph.initializer.add()
        if _is_large(tensor):
            entry.name, entry.data_type = tensor.name, tensor.data_type
            entry.dims.extend(tensor.dims)
        else:
            entry.CopyFrom(tensor)
    return shell


def restore_weights(shell: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give `shell` the content of the large weights of `model` that it still has."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if _is_large(tensor)}
    for tensor in shell.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].raw_data


def hollow_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of weights that have a shape and no numbers."""
    # Not by the numbers' length: protobuf would copy each weight to tell it.
    return [
        tensor.name
        for tensor in model.graph.initializer
        if 0 not in tensor.dims
        and not tensor.HasField("raw_data")
        and tensor.data_location != onnx.TensorProto.EXTERNAL
        and not any(
            len(getattr(tensor, f"{kind}_data"))
            for kind in ("float", "int32", "string", "int64", "double", "uint64")
        )
    ]


def _is_large(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) > 1 and len(tensor.raw_data) > _LARGE


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    shell = onnx.ModelProto()
    # Field by field: a copy of all would hold the weights twice before they go.
    for field, value in model.ListFields():
        if field.name == "graph":
            for inner, content in value.ListFields():
                if inner.name != "initializer":
                    _copy(shell.graph, inner.name, content)
        else:
            _copy(shell, field.name, value)
    return shell


def _copy(target: object, name: str, value: object) -> None:
    current = getattr(target, name)
    if hasattr(current, "extend"):
        current.extend(value)
    elif hasattr(current, "CopyFrom"):
        current.CopyFrom(value)
    else:
        setattr(target, name, value)


def _refer(entry: onnx.TensorProto, tensor: onnx.TensorProto, location: str, offset: int) -> None:
    entry.name, entry.data_type = tensor.name, tensor.data_type
    entry.dims.extend(tensor.dims)
    entry.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", len(tensor.raw_data))):
        entry.external_data.add(key=key, value=str(value))
