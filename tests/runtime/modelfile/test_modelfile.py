"""Reading model files that are whole, and every way in which they can be broken."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bertonnx
from bertonnx.errors import ModelFileError
from bertonnx.exporters.onnxgraph import files
from bertonnx.exporters.onnxgraph.files import load_proto, save_proto
from bertonnx.models.card import CARD_KEY, FORMAT, GOLDEN_KEY, MOVED_KEY, TOKENIZER_KEY
from bertonnx.runtime.modelfile.modelfile import read_model_file, weights_sha256


@pytest.fixture(scope="module")
def model(exported: dict[str, Path]) -> Path:
    return exported["text-classification"]


def _changed(model: Path, folder: Path, **metadata: str | None) -> Path:
    """Copy a model with other metadata; None takes an entry away."""
    proto = load_proto(model)
    keys = {"card": CARD_KEY, "tokenizer": TOKENIZER_KEY, "golden": GOLDEN_KEY}
    entries = {item.key: item.value for item in proto.metadata_props}
    entries.update({keys[name]: value for name, value in metadata.items() if value is not None})
    del proto.metadata_props[:]
    for key, value in entries.items():
        if not any(keys[name] == key and text is None for name, text in metadata.items()):
            proto.metadata_props.add(key=key, value=value)
    save_proto(proto, folder / "changed.onnx")
    return folder / "changed.onnx"


def _message(path: Path) -> str:
    """Open the file as a user does and return the error, which must be one line."""
    with pytest.raises(ModelFileError) as caught:
        bertonnx.load(path)
    assert (
        str(path.name) in str(caught.value) or "card" in str(caught.value) or "tokenizer" in str(caught.value)
    )
    return str(caught.value)


def test_a_fifo_and_a_device_are_no_model_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    assert "is no file but a device" in _message(tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="is no file but a device"):
        read_model_file(Path(os.devnull))


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("", "Loop"),
        ("ai.onnx", "Scan"),
        ("com.microsoft", "BeamSearch"),
        ("com.microsoft", "EPContext"),
        ("of.mine", "Add"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_operators_that_may_never_end_or_are_not_known(
    domain: str, name: str, inside: bool, model: Path, tmp_path: Path
) -> None:
    proto = load_proto(model)
    node = helper.make_node(name, [], ["made"], domain=domain)
    if inside:
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["no_padding"], [], then_branch=branch, else_branch=branch)
    proto.graph.node.append(node)
    save_proto(proto, tmp_path / "m.onnx")
    assert f"never runs ({domain}.{name}".replace("(.", "(") in _message(tmp_path / "m.onnx")


def test_functions_are_not_known(model: Path, tmp_path: Path) -> None:
    proto = load_proto(model)
    proto.functions.append(helper.make_function("of.mine", "F", [], [], [], []))
    save_proto(proto, tmp_path / "m.onnx")
    assert "functions of its own" in _message(tmp_path / "m.onnx")


def test_what_a_file_says_of_itself(model: Path) -> None:
    file = read_model_file(model)
    assert file.is_bertonnx
    assert set(file.metadata) == {CARD_KEY, TOKENIZER_KEY, GOLDEN_KEY, MOVED_KEY}
    assert file.inputs == file.card.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert file.outputs == file.card.outputs == ("logits", "scores")
    assert file.sidecars == ()
    assert file.bytes == model.stat().st_size
    assert json.loads(file.tokenizer)["padding"] is None
    assert len(file.golden) >= 5
    assert next(iter(json.loads(file.metadata[CARD_KEY]))) == "format"


def test_the_reader_agrees_with_onnx(model: Path) -> None:
    proto, file = onnx.load(str(model)), read_model_file(model)
    assert file.inputs == tuple(value.name for value in proto.graph.input)
    assert file.outputs == tuple(value.name for value in proto.graph.output)
    assert file.metadata == {item.key: item.value for item in proto.metadata_props}


def test_no_file(tmp_path: Path) -> None:
    message = _message(tmp_path / "absent.onnx")
    assert "there is no file" in message
    assert "bertonnx.export(source, output=" in message


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"is a folder; a model file is expected, such as .*model\.onnx"):
        read_model_file(tmp_path)


def test_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    assert "is empty (zero bytes)" in _message(path)


_PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")


@pytest.mark.parametrize(
    "content",
    [
        _PNG,
        b"A plain text, and no model at all.\n" * 50,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133\n",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"PK\x03\x04" + bytes(200),
        random.Random(1).randbytes(5000),
        b"\0",
        b"\xff" * 4096,
        b"\x08",
        b"\x3a\x80",
    ],
    ids=["png", "text", "lfs", "html", "zip", "random", "zero", "ones", "cut-key", "cut-length"],
)
def test_what_is_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "is not an ONNX model" in _message(path)
    with pytest.raises(ModelFileError):
        weights_sha256(path)


def test_truncated_at_any_byte(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    head = _metadata_start(model)
    places = {
        *range(1, 200),
        *range(200, len(whole), len(whole) // 150),
        *range(head - 20, head),
        *range(head + 1, head + 60),
        *range(len(whole) - 60, len(whole)),
    }
    path = tmp_path / "m.onnx"
    survived = []
    for place in sorted(places):
        path.write_bytes(whole[:place])
        try:
            file = read_model_file(path)
            _ = file.card, file.tokenizer
        except ModelFileError:
            continue
        survived.append(place)
    # Cut between two entries of the metadata the file is whole to protobuf: what is lost is then the
    # golden examples, and `check` says so.
    for place in survived:
        path.write_bytes(whole[:place])
        with pytest.raises(ModelFileError, match="golden"):
            bertonnx.check(path)


def _metadata_start(model: Path) -> int:
    whole = model.read_bytes()
    return min(whole.index(key.encode()) for key in (CARD_KEY, TOKENIZER_KEY, GOLDEN_KEY))


def test_truncated_where_only_onnx_runtime_would_notice(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    assert "is truncated" in _message(path)


def test_flipped_bytes_never_give_another_error(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    chance = random.Random(20)
    path = tmp_path / "m.onnx"
    refused = 0
    for round_ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            place = chance.randrange(4096)
            data[place if round_ % 2 else -1 - place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            file = read_model_file(path)
            _ = file.card, file.tokenizer, file.golden
            weights_sha256(path)
        except ModelFileError:
            refused += 1
    assert refused > 50


def test_flipped_bytes_in_the_metadata_never_give_another_error(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    start = _metadata_start(model)
    chance = random.Random(7)
    path = tmp_path / "m.onnx"
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        data[start - 8 + chance.randrange(3000)] = chance.randrange(256)
        path.write_bytes(data)
        try:
            file = read_model_file(path)
            _ = file.card, file.tokenizer, file.golden
        except ModelFileError:
            refused += 1
    assert refused > 10


def test_a_newer_format(model: Path, tmp_path: Path) -> None:
    card = read_model_file(model).card.as_dict() | {"format": FORMAT + 1}
    message = _message(_changed(model, tmp_path, card=json.dumps(card)))
    assert f"made by a newer bertonnx (card format {FORMAT + 1}" in message
    assert "pip install --upgrade bertonnx" in message


def test_unknown_keys_of_the_same_format_are_no_harm(model: Path, tmp_path: Path) -> None:
    card = read_model_file(model).card.as_dict() | {"invented_later": [1, 2]}
    assert (
        read_model_file(_changed(model, tmp_path, card=json.dumps(card))).card == read_model_file(model).card
    )


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("not JSON", "card is damaged"),
        ("{}", "card is damaged"),
        ("[1]", "card is damaged"),
        ('{"format": 1}', "card is incomplete"),
        ('{"format": "one"}', "card is damaged"),
    ],
)
def test_a_damaged_card(card: str, message: str, model: Path, tmp_path: Path) -> None:
    assert message in _message(_changed(model, tmp_path, card=card))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_length", "long"),
        ("max_length", None),
        ("inputs", "input_ids"),
        ("outputs", None),
        ("labels", {"a": 1}),
        ("parity", 3),
        ("task", "translation"),
        ("task", ["a"]),
        ("width", "wide"),
    ],
)
def test_a_card_with_a_field_of_the_wrong_kind(
    field: str, value: object, model: Path, tmp_path: Path
) -> None:
    card = read_model_file(model).card.as_dict() | {field: value}
    assert "card" in _message(_changed(model, tmp_path, card=json.dumps(card)))


def test_no_card(model: Path, tmp_path: Path) -> None:
    message = _message(_changed(model, tmp_path, card=None))
    assert "was not made by bertonnx" in message
    assert "bertonnx.export(source)" in message
    with pytest.raises(ModelFileError, match="carries no card"):
        bertonnx.check(tmp_path / "changed.onnx")


def test_no_tokenizer(model: Path, tmp_path: Path) -> None:
    path = _changed(model, tmp_path, tokenizer=None)
    assert "carries no tokenizer; export the checkpoint again" in _message(path)


def test_a_damaged_tokenizer(model: Path, tmp_path: Path) -> None:
    path = _changed(model, tmp_path, tokenizer='{"version": "1.0"}')
    assert "tokenizer in the model file cannot be read" in _message(path)


@pytest.mark.parametrize(
    "golden", ["not JSON", "{}", "3", "[1]", '[{"text": "a"}]', '[{"text": 1, "ids": []}]']
)
def test_damaged_golden_examples(golden: str, model: Path, tmp_path: Path) -> None:
    path = _changed(model, tmp_path, golden=golden)
    with pytest.raises(ModelFileError, match="golden"):
        bertonnx.check(path)


def test_a_graph_with_inputs_that_the_card_does_not_name(model: Path, tmp_path: Path) -> None:
    proto = load_proto(model)
    proto.graph.input.append(helper.make_tensor_value_info("bbox", TensorProto.INT64, ["b", "s", 4]))
    save_proto(proto, tmp_path / "m.onnx")
    assert "bbox" in _message(tmp_path / "m.onnx")


def test_a_whole_file_that_onnx_runtime_cannot_load(model: Path, tmp_path: Path) -> None:
    proto = load_proto(model)
    proto.graph.node[0].op_type = "NoSuchOperator"
    save_proto(proto, tmp_path / "m.onnx")
    assert "ONNX Runtime cannot load" in _message(tmp_path / "m.onnx")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read what nobody may")
def test_unreadable_for_root(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = Path(shutil.copy(model, tmp_path / "m.onnx"))
    monkeypatch.setattr(os, "open", refuse)
    assert "cannot be read: Permission denied" in _message(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_unreadable(model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(model, tmp_path / "m.onnx"))
    path.chmod(0)
    assert "cannot be read: Permission denied" in _message(path)


class TestExternalData:
    """Weights beside the file, and weights where they must never be."""

    @pytest.fixture
    def beside(self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 1000)
        save_proto(load_proto(model), folder / "m.onnx")
        return folder / "m.onnx"

    def _pointing(self, beside: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
        proto = onnx.load(str(beside), load_external_data=False)
        for tensor in proto.graph.initializer:
            if tensor.external_data:
                entries = change({item.key: item.value for item in tensor.external_data})
                del tensor.external_data[:]
                for key, value in entries.items():
                    tensor.external_data.add(key=key, value=value)
        beside.write_bytes(proto.SerializeToString())
        return beside

    def test_the_hash_does_not_depend_on_where_the_weights_lie(self, model: Path, beside: Path) -> None:
        assert read_model_file(beside).sidecars == (beside.with_name("m.onnx.data"),)
        assert weights_sha256(beside) == weights_sha256(model)

    def test_the_hash_sees_one_changed_bit_in_the_sidecar(self, beside: Path) -> None:
        before = weights_sha256(beside)
        sidecar = beside.with_name("m.onnx.data")
        data = bytearray(sidecar.read_bytes())
        data[777] ^= 1
        sidecar.write_bytes(data)
        assert weights_sha256(beside) != before

    @pytest.mark.parametrize(
        "location",
        [
            "../secret",
            "sub/../../secret",
            "sub/m.onnx.data",
            "/etc/passwd",
            "{absolute}",
            "",
            ".",
            "..",
            "a\0b",
        ],
    )
    def test_weights_outside_the_folder_are_never_read(self, location: str, beside: Path) -> None:
        secret = beside.parent.parent / "secret"
        shutil.copy(beside.with_name("m.onnx.data"), secret)
        (beside.parent / "sub").mkdir()
        shutil.copy(secret, beside.parent / "sub/m.onnx.data")
        where = location.format(absolute=secret)
        path = self._pointing(beside, lambda entries: entries | {"location": where})
        for action in (read_model_file, weights_sha256, bertonnx.load, bertonnx.check):
            with pytest.raises(ModelFileError, match="points to weights outside its folder"):
                action(path)

    def test_a_link_is_not_followed(self, beside: Path) -> None:
        sidecar = beside.with_name("m.onnx.data")
        sidecar.rename(beside.parent.parent / "secret")
        sidecar.symlink_to(beside.parent.parent / "secret")
        with pytest.raises(ModelFileError, match="outside its folder"):
            bertonnx.load(beside)

    def test_a_hard_link_is_not_followed(self, beside: Path) -> None:
        (beside.parent.parent / "secret").hardlink_to(beside.with_name("m.onnx.data"))
        for action in (read_model_file, weights_sha256, bertonnx.load, bertonnx.check):
            with pytest.raises(ModelFileError, match=r"m\.onnx\.data, which .* is a hard link"):
                action(beside)

    @pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
    def test_what_is_no_file_is_not_opened(self, kind: str, beside: Path) -> None:
        sidecar = beside.with_name("m.onnx.data")
        sidecar.unlink()
        if kind == "folder":
            sidecar.mkdir()
        else:
            mode = stat.S_IFIFO if kind == "fifo" else stat.S_IFCHR
            try:
                os.mknod(sidecar, 0o600 | mode, os.makedev(1, 5))
            except PermissionError:
                pytest.skip("only root can make devices")
        with pytest.raises(ModelFileError, match="is not there"):
            bertonnx.load(beside)

    @pytest.mark.parametrize("name", ["c:secret", "m.onnx:stream", "a\\b", "\\\\server\\share"])
    def test_names_that_lead_elsewhere_on_another_system(self, name: str, beside: Path) -> None:
        path = self._pointing(beside, lambda entries: entries | {"location": name})
        with pytest.raises(ModelFileError, match="outside its folder"):
            read_model_file(path)

    def test_prepacked_weights_are_not_read(self, beside: Path) -> None:
        path = self._pointing(beside, lambda entries: entries | {"prepacked_0": "key|0;16;"})
        with pytest.raises(ModelFileError, match="prepacked_0"):
            read_model_file(path)

    def test_a_link_to_the_model_itself_is_no_harm(self, beside: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.onnx"
        link.symlink_to(beside)
        assert read_model_file(link).sidecars == (beside.with_name("m.onnx.data"),)

    @pytest.mark.parametrize("key", ["offset", "length"])
    @pytest.mark.parametrize("value", ["many", "-5", "1e3", "99999999999999999999"])
    def test_damaged_figures(self, key: str, value: str, beside: Path) -> None:
        path = self._pointing(beside, lambda entries: entries | {key: value})
        with pytest.raises(ModelFileError, match=r"damaged external data|is truncated"):
            bertonnx.load(path)

    def test_no_location(self, beside: Path) -> None:
        path = self._pointing(beside, lambda entries: {k: v for k, v in entries.items() if k != "location"})
        with pytest.raises(ModelFileError, match="outside its folder"):
            read_model_file(path)

    def test_external_data_of_a_constant_in_a_node(self, model: Path, tmp_path: Path) -> None:
        proto = load_proto(model)
        tensor = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "hidden")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "../secret"), ("offset", "0"), ("length", "16")):
            tensor.external_data.add(key=key, value=value)
        (tmp_path / "secret").write_bytes(bytes(16))
        constant = helper.make_node("Constant", [], ["hidden_value"])
        constant.attribute.append(helper.make_attribute("value", tensor))
        (tmp_path / "in").mkdir()
        proto.graph.node.insert(0, constant)
        path = tmp_path / "in/m.onnx"
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ModelFileError, match="outside its folder"):
            bertonnx.load(path)


def test_the_hash_sees_names_shapes_types_and_bytes(tmp_path: Path) -> None:
    def sha(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(array, name)])
        path = tmp_path / "m.onnx"
        path.write_bytes(helper.make_model(graph).SerializeToString())
        return weights_sha256(path)

    values = np.arange(6, dtype=np.float32)
    changed = values.copy()
    changed[3] = np.nextafter(changed[3], np.float32(9))
    hashes = [
        sha("a", values),
        sha("b", values),
        sha("a", values.reshape(2, 3)),
        sha("a", values.view(np.int32)),
        sha("a", changed),
    ]
    assert len(set(hashes)) == len(hashes)
    assert sha("a", values) == hashes[0]


def test_the_hash_does_not_depend_on_the_order_of_the_weights(model: Path, tmp_path: Path) -> None:
    proto = load_proto(model)
    weights = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(reversed(weights))
    save_proto(proto, tmp_path / "m.onnx")
    assert weights_sha256(tmp_path / "m.onnx") == weights_sha256(model)
