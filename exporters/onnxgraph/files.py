"""Writing and reading ONNX files of any size: one file, or one file and one sidecar over 2 GB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper
from onnx.external_data_helper import load_external_data_for_model

from bertonnx.runtime.modelfile.wire import GRAPH, INITIALIZER, header

__all__ = [
    "SINGLE_FILE_LIMIT",
    "hollow_weights",
    "is_large",
    "load_proto",
    "save_proto",
    "weight_bytes",
    "with_large_inputs",
    "with_lent_weights",
    "without_large_weights",
]

SINGLE_FILE_LIMIT = 2_000_000_000
"""Bytes of weights above which a sidecar is written: protobuf's own limit is 2**31 - 1 in all."""

_LARGE = 65_536
"""Bytes above which a matrix is a trained weight, and no constant that a pattern looks into."""

_INLINE_BELOW = 1024
"""Smaller weights (shapes, scalars) stay in the file even where there is a sidecar."""

_TRAINED = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes that the model's weights take."""
    return sum(map(_bytes, model.graph.initializer))


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
        with path.open("wb") as stream:
            stream.writelines(_serialized(model))
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
        if is_large(tensor):
            entry.name, entry.data_type = tensor.name, tensor.data_type
            entry.dims.extend(tensor.dims)
        else:
            entry.CopyFrom(tensor)
    return shell


def with_large_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large matrices are inputs, which nothing can fold, after the model's own."""
    shell = _without_weights(model)
    for tensor in model.graph.initializer:
        if is_large(tensor):
            given = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            shell.graph.input.append(given)
        else:
            shell.graph.initializer.add().CopyFrom(tensor)
    return shell


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


def is_large(tensor: onnx.TensorProto) -> bool:
    """Say whether a tensor is a trained matrix, and no constant that a pattern looks into.

    A convolution's weights are not: ONNX Runtime looks at those to put a sum after it into its bias.
    """
    # Not by the numbers' length: protobuf would copy each weight to tell it.
    matrix = len(tensor.dims) == 2 and tensor.data_type in _TRAINED and tensor.HasField("raw_data")
    return matrix and _bytes(tensor) > _LARGE


def _bytes(tensor: onnx.TensorProto) -> int:
    """Return how long the bytes of a tensor are; 0 where they lie elsewhere."""
    if not tensor.HasField("raw_data"):
        return 0
    if tensor.data_type in _TRAINED:
        return int(np.prod(tensor.dims)) * (4 if tensor.data_type == onnx.TensorProto.FLOAT else 2)
    return len(tensor.raw_data)


def _serialized(model: onnx.ModelProto) -> Iterator[bytes]:
    """Yield what `SerializeToString(deterministic=True)` gives, one weight at a time.

    All at once would be gigabytes beside those that the model is.
    """
    graph = model.graph
    before, after = _fields(graph, INITIALIZER.__gt__), _fields(graph, INITIALIZER.__lt__)
    # Lengths stand before what they count.
    sizes = [len(each) for each in _each(graph)]
    yield _fields(model, GRAPH.__gt__)
    yield header(GRAPH, sum(len(header(INITIALIZER, size)) + size for size in sizes) + len(before + after))
    yield before
    for size, each in zip(sizes, _each(graph), strict=True):
        yield header(INITIALIZER, size)
        yield each
    yield after
    yield _fields(model, GRAPH.__lt__)


def _each(graph: onnx.GraphProto) -> Iterator[bytes]:
    # The same model gives the same bytes, which protobuf does not promise by itself.
    return (tensor.SerializeToString(deterministic=True) for tensor in graph.initializer)


def _fields(content: onnx.ModelProto | onnx.GraphProto, keep: Callable[[int], bool]) -> bytes:
    """Return the bytes of those fields whose numbers are kept."""
    part = type(content)()
    for field, value in content.ListFields():
        if keep(field.number):
            _copy(part, field.name, value)
    return bytes(part.SerializeToString(deterministic=True))


def with_lent_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[Any]]]:
    """Return a copy that says of large matrices that they lie elsewhere, and these by their names."""
    shell, weights = _without_weights(model), dict[str, npt.NDArray[Any]]()
    for tensor in model.graph.initializer:
        entry = shell.graph.initializer.add()
        if is_large(tensor):
            _refer(entry, tensor, "lent", 0)
            numbers = np.frombuffer(tensor.raw_data, helper.tensor_dtype_to_np_dtype(tensor.data_type))
            weights[tensor.name] = numbers.reshape(tuple(tensor.dims))
        else:
            entry.CopyFrom(tensor)
    return shell, weights


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
