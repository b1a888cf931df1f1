"""Tensors of KServe's v2 interface: in JSON, or in binary behind it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bertonnx.runtime.rows import Array
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.http import JSON, Response, parsed

__all__ = ["Request", "Tensor", "responded"]

_LENGTH = struct.Struct("<I")

_BINARY = b"application/octet-stream"


@dataclass(frozen=True)
class Tensor:
    """An output.

    Attributes:
        name: its name.
        datatype: FP32 or BYTES.
        data: float32 of any shape, or texts.
    """

    name: str
    datatype: str
    data: Array | list[str]

    @property
    def shape(self) -> list[int]:
        """Its dimensions."""
        return [len(self.data)] if isinstance(self.data, list) else list(self.data.shape)

    def flat(self) -> Any:
        """Return its values in a row, for JSON."""
        return self.data if isinstance(self.data, list) else np.ascontiguousarray(self.data).ravel()

    def binary(self) -> bytes:
        """Return its values as bytes: little-endian numbers, or texts behind their lengths."""
        if not isinstance(self.data, list):
            return self.data.astype("<f4", copy=False).tobytes()
        texts = [text.encode() for text in self.data]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


class Request:
    """A request to infer.

    Args:
        fields: of its JSON.
        inputs: data of its inputs, by their names.

    Attributes:
        id: what it calls itself.
        parameters: of the whole request.
    """

    def __init__(self, fields: Fields, inputs: dict[str, list[str]]) -> None:
        self._fields = fields
        self._inputs = inputs
        self.id = fields.text_or_none("id")
        self.parameters = fields.inside("parameters")

    @classmethod
    def read(cls, body: bytes, header: bytes | None) -> Request:
        """Read a body.

        Args:
            body: JSON, or JSON and binary data behind it.
            header: `Inference-Header-Content-Length`: how much of it is JSON.

        Raises:
            RefusedError: it is no such request.
        """
        size = len(body) if header is None else _size(header, len(body))
        fields = Fields(parsed(body[:size]))
        data = memoryview(body)[size:]
        inputs: dict[str, list[str]] = {}
        given = fields.any("inputs")
        if not isinstance(given, list) or not given:
            raise fields.refused("inputs", "must be a list of tensors")
        for place, one in enumerate(given):
            if not isinstance(one, dict):
                raise fields.refused(f"inputs.{place}", "must be a tensor")
            tensor = Fields(one, f"inputs.{place}.")
            name = tensor.text("name")
            if name in inputs:
                raise tensor.refused("name", "is there twice")
            inputs[name], data = _texts(tensor, data)
        if len(data):
            raise RefusedError("malformed", "there is more binary data than the inputs say")
        return cls(fields, inputs)

    def texts(self, name: str) -> list[str]:
        """Return the texts of an input."""
        if name not in self._inputs:
            raise RefusedError("invalid", f"there is no input `{name}`", "inputs")
        return self._inputs[name]

    def texts_or_none(self, name: str) -> list[str] | None:
        """Return the texts of an input, or None where it is absent."""
        return self._inputs.get(name)

    def only(self, *names: str) -> None:
        """Refuse inputs that would be passed over in silence."""
        for name in self._inputs:
            if name not in names:
                raise RefusedError("invalid", f"inputs are {' and '.join(names)}, and no others", "inputs")

    def outputs(self, known: Sequence[str]) -> list[tuple[str, bool]]:
        """Return the outputs that are asked for, and whether in binary; all where none is named."""
        binary = self.parameters.flag("binary_data_output")
        given = self._fields.any("outputs")
        if given is None:
            return [(name, binary) for name in known]
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise self._fields.refused("outputs", "must be a list of outputs")
        wanted = []
        for place, one in enumerate(given):
            output = Fields(one, f"outputs.{place}.")
            name = output.text("name")
            if name not in known:
                raise output.refused("name", f"must be one of {', '.join(known)}")
            wanted.append((name, output.inside("parameters").flag("binary_data", binary)))
        return wanted


def responded(model: str, request: Request, tensors: Sequence[tuple[Tensor, bool]]) -> Response:
    """Return the response of a request.

    Args:
        model: its name.
        request: it.
        tensors: the outputs, and whether each is in binary.
    """
    outputs: list[dict[str, Any]] = []
    binary = []
    for tensor, in_binary in tensors:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if in_binary:
            binary.append(tensor.binary())
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = tensor.flat()
        outputs.append(output)
    head: dict[str, Any] = {"model_name": model, "model_version": "1"}
    if request.id is not None:
        head["id"] = request.id
    import orjson

    text = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Response(text, kind=JSON)
    headers = [(b"inference-header-content-length", b"%d" % len(text))]
    return Response(b"".join([text, *binary]), kind=_BINARY, headers=headers)


def _size(header: bytes, most: int) -> int:
    if not header.isdigit() or not 0 < (size := int(header[:12])) <= most:
        raise RefusedError("malformed", "Inference-Header-Content-Length must be a number within the body")
    return size


def _texts(tensor: Fields, data: memoryview) -> tuple[list[str], memoryview]:
    """Return the texts of an input, and the binary data behind its own."""
    if tensor.text("datatype") != "BYTES":
        raise tensor.refused("datatype", "must be BYTES")
    size = tensor.inside("parameters").whole("binary_data_size", least=0)
    if size is None:
        texts = tensor.all_texts("data", _flat(tensor))
    elif size > len(data):
        raise tensor.refused("parameters.binary_data_size", "is more than there is")
    else:
        # Binary data of several inputs lies in their order, one behind the other.
        texts, data = _decoded(tensor, data[:size]), data[size:]
    shape = tensor.any("shape")
    if not isinstance(shape, list) or not all(type(one) is int and 0 <= one < 2**31 for one in shape):
        raise tensor.refused("shape", "must be a list of whole numbers")
    if not shape or prod(shape) != len(texts) or any(one != 1 for one in shape[1:]):
        raise tensor.refused("shape", f"must be [{len(texts)}], as there are so many texts")
    return texts, data


def _flat(tensor: Fields) -> list[Any]:
    value = tensor.any("data")
    if not isinstance(value, list):
        raise tensor.refused("data", "must be a list of texts")
    if value and all(isinstance(one, list) for one in value):
        return [text for one in value for text in one]
    return value


def _decoded(tensor: Fields, data: memoryview) -> list[str]:
    texts = []
    try:
        place = 0
        while place < len(data):
            (length,) = _LENGTH.unpack_from(data, place)
            place += _LENGTH.size
            if place + length > len(data):
                raise tensor.refused("data", "ends inside a text")
            texts.append(str(data[place : place + length], "utf-8"))
            place += length
    except (struct.error, UnicodeDecodeError) as error:
        raise tensor.refused("data", "must be texts in UTF-8, each behind its length") from error
    return texts
