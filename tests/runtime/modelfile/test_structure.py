"""Structure of model files, against protobuf's own parser: what that finds is found here, or refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

import bertonnx
from bertonnx.errors import ModelFileError
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.modelfile.structure import Value, structure_of
from bertonnx.runtime.modelfile.wire import message, number_field


def _pointing(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _model_with_all_places() -> onnx.ModelProto:
    """Return a model that points outside from every place where ONNX has tensors."""
    branch = helper.make_graph([], "branch", [], [], [_pointing("in a branch")])
    deeper = helper.make_graph([helper.make_node("If", [], [], then_branch=branch)], "deeper", [], [])
    values, indices = _pointing("sparse values"), _pointing("sparse indices")
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[4])
    node = helper.make_node("N", ["x"], ["y"], name="node", domain="d", number=3, text="t", floats=[1.0, 2.0])
    node.attribute.append(onnx.AttributeProto(name="t", type="TENSOR", t=_pointing("an attribute")))
    node.attribute.append(onnx.AttributeProto(name="ts", type="TENSORS", tensors=[_pointing("attributes")]))
    node.attribute.append(onnx.AttributeProto(name="g", type="GRAPH", g=deeper))
    node.attribute.append(onnx.AttributeProto(name="gs", type="GRAPHS", graphs=[branch]))
    node.attribute.append(onnx.AttributeProto(name="s", type="SPARSE_TENSOR", sparse_tensor=sparse))
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 7])],
        [_pointing("a weight"), numpy_helper.from_array(np.arange(300, dtype=np.float32), "inside")],
    )
    graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph)
    function = model.functions.add(name="f", domain="d")
    function.node.add(op_type="M").attribute.add(name="t", type=4).t.CopyFrom(_pointing("in a function"))
    function.attribute_proto.add(name="d", type=4).t.CopyFrom(_pointing("a default"))
    model.training_info.add().algorithm.initializer.append(_pointing("in training"))
    model.metadata_props.add(key="key", value="value")
    return model


def _tensors(proto: Message) -> Iterator[TensorProto]:
    if isinstance(proto, TensorProto):
        yield proto
    for descriptor, value in proto.ListFields():
        if descriptor.message_type is not None:
            values: Any = value if not isinstance(value, Message) else [value]
            for part in values:
                yield from _tensors(part)


def _external(model: onnx.ModelProto) -> list[str]:
    """Return the locations of all tensors of which protobuf says that they lie outside."""
    return sorted(
        next((entry.value for entry in reversed(tensor.external_data) if entry.key == "location"), "")
        for tensor in _tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
    )


def _ours(data: bytes) -> list[str] | None:
    """Return the locations that are found here; None where the file is refused."""
    try:
        return sorted(entries.get("location", "") for entries in structure_of(data).external)
    except (ValueError, IndexError):
        return None


def test_every_place_of_a_tensor_is_found() -> None:
    model = _model_with_all_places()
    found = structure_of(model.SerializeToString())
    locations = sorted(entries["location"] for entries in found.external)
    assert locations == _external(model)
    assert len(set(locations)) == 9
    assert found.operators == {("d", "N"), ("", "If"), ("", "M")}
    assert (found.functions, found.training, found.metadata) == (1, 1, {"key": "value"})
    assert found.inputs == [Value("x", 7, 2)]
    assert found.outputs == [Value("y", 1, 2, 7)]


@pytest.mark.parametrize("seed", range(8))
def test_what_protobuf_finds_in_a_mutated_file_is_found_or_refused(seed: int) -> None:
    """Bytes changed, put in, taken out, and keys and lengths written in other ways."""
    chance = random.Random(seed)
    whole = _model_with_all_places().SerializeToString()
    parsed = same = 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2))):
            _mutate(data, chance)
        mutant = bytes(data)
        try:
            theirs = onnx.ModelProto.FromString(mutant)
        except DecodeError:
            continue
        parsed += 1
        ours = _ours(mutant)
        same += ours is not None
        assert ours is None or set(_external(theirs)) <= set(ours)
    assert parsed > 100, "mutations that protobuf refuses prove nothing"
    assert same > 10


def _mutate(data: bytearray, chance: random.Random) -> None:
    # Where keys and locations lie, and not in the one large weight.
    place = chance.randrange(min(len(data), 700))
    kind = chance.randrange(5)
    if kind == 0:
        data[place] = chance.choice((0, 1, 0x0A, 0x6A, 0x70, 0x80, 0xFF, chance.randrange(256)))
    elif kind == 1:
        data[place] ^= 1 << chance.randrange(8)
    elif kind == 2:
        data[place:place] = chance.randbytes(chance.randint(1, 3))
    elif kind == 3:
        del data[place : place + chance.randint(1, 3)]
    else:  # the same number in more bytes
        data[place : place + 1] = bytes([data[place] | 0x80, 0x80, 0x80, 0x80, chance.choice((0, 16))])


_LOCATION = message(13, message(1, b"location") + message(2, b"../secret"))
_HIDDEN = _LOCATION.replace(b"\x6a", b"\xea\x80\x80\x80\x10", 1)
_TRICKS = {
    "a key with bit 32": _HIDDEN,
    "a key in more bytes than it needs": _LOCATION.replace(b"\x6a", b"\xea\x80\x00", 1),
    "an entry's key twice, once as a number": message(
        13, message(1, b"location") + message(2, b"../secret") + b"\x10a"
    ),
    "a location twice": message(
        13, message(1, b"location") + message(2, b"../secret") + message(2, b"w.bin")
    ),
    "two locations": _LOCATION + message(13, message(1, b"location") + message(2, b"w.bin")),
    "a group": b"\x6b" + message(1, b"location") + message(2, b"../secret") + b"\x6c",
    "a length in more bytes than it needs": b"\x6a" + bytes([_LOCATION[1] | 0x80, 0]) + _LOCATION[2:],
    "a length past the end": b"\x6a\xff\xff\x03" + _LOCATION[2:],
    "a number of eleven bytes": b"\x70" + b"\x81" * 10 + b"\x00" + _LOCATION,
    "a number over 64 bits": b"\x70" + b"\xff" * 9 + b"\x7f" + _LOCATION,
    "an external tensor as a number": b"\x68\x01" + _LOCATION,
    "bytes inside and outside": message(9, bytes(16)) + _LOCATION,
}


@pytest.mark.parametrize("trick", _TRICKS)
def test_tricks_that_show_each_reader_another_file(trick: str, tmp_path: Path) -> None:
    tensor = number_field(1, 4) + number_field(2, 1) + message(8, b"w") + _TRICKS[trick] + number_field(14, 1)
    graph = message(2, b"g") + message(5, tensor)
    path = tmp_path / "m.onnx"
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path.write_bytes(number_field(1, 8) + message(7, graph) + message(8, number_field(2, 18)))
    for action in (read_model_file, bertonnx.load):
        with pytest.raises(ModelFileError, match=r"is not an ONNX model, or is truncated"):
            action(path)


def test_a_part_that_protobuf_would_merge_is_refused() -> None:
    model = _model_with_all_places()
    twice = model.SerializeToString() + message(7, b"")
    with pytest.raises(ValueError, match="field 7 of a model is there twice"):
        structure_of(twice)
    again = model.SerializeToString() + message(14, message(1, b"key") + message(2, b"other"))
    with pytest.raises(ValueError, match="metadata key is there twice"):
        structure_of(again)


def test_branches_in_branches_without_end_are_refused() -> None:
    graph = b""
    for _ in range(300):
        graph = message(1, message(5, message(6, graph)))
    with pytest.raises(ValueError, match="too deep"):
        structure_of(message(7, graph))
