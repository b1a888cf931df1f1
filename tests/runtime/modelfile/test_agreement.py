"""Cards, golden examples and tokenizers that say what cannot be: an error that names it, in every command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bertonnx
from bertonnx.errors import BertonnxError, ModelFileError
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY
from tests.commands import Command

Change = Callable[[dict[str, str]], None]


def _changed(model: Path, path: Path, change: Change) -> Path:
    """Write a model with other metadata, as bytes and without `bertonnx.exporters`."""
    proto = onnx.load(str(model))
    metadata = {item.key: item.value for item in proto.metadata_props}
    change(metadata)
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    return path


def _card(**values: Any) -> Change:
    def change(metadata: dict[str, str]) -> None:
        metadata[CARD_KEY] = json.dumps({**json.loads(metadata[CARD_KEY]), **values})

    return change


def _text(key: str, text: str) -> Change:
    return lambda metadata: metadata.update({key: text})


def _instead(key: str, old: str, new: str) -> Change:
    def change(metadata: dict[str, str]) -> None:
        assert old in metadata[key]
        metadata[key] = metadata[key].replace(old, new, 1)

    return change


def _golden(**values: Any) -> Change:
    def change(metadata: dict[str, str]) -> None:
        first, *others = json.loads(metadata[GOLDEN_KEY])
        metadata[GOLDEN_KEY] = json.dumps([{**first, **values}, *others])

    return change


DEEP = "[" * 100_000

BAD_CARDS: Mapping[str, tuple[Change, str]] = {
    "a huge length": (_card(max_length=10**12), "max_length 1000000000000: out of range"),
    "a length of 5000 digits": (_instead(CARD_KEY, '"max_length": ', '"max_length": 1' + "0" * 5000), "card"),
    "a negative length": (_card(max_length=-5), "max_length -5: out of range"),
    "no length": (_card(max_length=0), "max_length 0: out of range"),
    "a length with a point": (_card(max_length=1.5), "max_length: not of the right kind"),
    "a negative id": (_card(pad_token_id=-1), "pad_token_id -1: out of range"),
    "a huge id": (_card(mask_token_id=1 << 40), "mask_token_id 1099511627776: out of range"),
    "no such side": (_card(truncation_side="up"), "truncation_side up: out of range"),
    "no such problem": (_card(problem_type="hard"), "problem_type hard: out of range"),
    "no such activation": (_card(activation="swoosh"), "activation swoosh: out of range"),
    "fewer labels": (_card(labels=["one"]), "the output logits is 3 wide and the card says 1"),
    "labels that are numbers": (_card(labels=[1, 2, 3]), "labels: not of the right kind"),
    "another task": (_card(task="question-answering"), "question-answering needs the output start_logits"),
    "another rank": (_card(task="token-classification"), "the output logits has 2 dimensions and not 3"),
    "an unknown task": (_card(task="surgery"), "an unknown task, 'surgery'"),
    "half a character": (_card(labels=["\ud800", "b", "c"]), "half a character"),
    "infinity": (
        _instead(CARD_KEY, '"format": ', '"x": Infinity, "format": '),
        "Infinity, which is no number",
    ),
    "a number over all": (_instead(CARD_KEY, '"format": ', '"x": 1e999, "format": '), "1e999 is too large"),
    "a key twice": (_instead(CARD_KEY, '"format": ', '"format": 1, "format": '), "'format' is there twice"),
    "a format that is a text": (_card(format="1"), "format: not of the right kind"),
    "a format that is true": (_card(format=True), "format: not of the right kind"),
    "a list": (_text(CARD_KEY, "[]"), "format: not of the right kind"),
    "brackets": (_text(CARD_KEY, DEEP), "nested too deep"),
    "deep brackets within": (_instead(CARD_KEY, '"format": ', f'"x": {DEEP}, "format": '), "nested too deep"),
    "nothing": (_text(CARD_KEY, ""), "the model's card is damaged"),
}

BAD_GOLDEN: Mapping[str, tuple[Change, str]] = {
    "brackets": (_text(GOLDEN_KEY, DEEP), "nested too deep"),
    "an object": (_text(GOLDEN_KEY, "{}"), "no list"),
    "nan": (_instead(GOLDEN_KEY, '"text":', '"x": NaN, "text":'), "NaN, which is no number"),
    "a huge number": (
        _golden(outputs={"logits": [10**400], "scores": []}),
        "number 0 is not of the right kind",
    ),
    "true for a number": (_golden(ids=[True]), "number 0 is not of the right kind"),
    "a negative id": (_golden(ids=[-1]), "number 0 is not of the right kind"),
    "outputs that are texts": (_golden(outputs={"logits": "abc"}), "number 0 is not of the right kind"),
    "half a character": (_golden(text="\udfff"), "half a character"),
    "no text": (_golden(text=None), "number 0 is not of the right kind"),
}

BAD_TOKENIZERS: Mapping[str, str] = {
    "brackets": DEEP,
    "an empty object": "{}",
    "a number": "5",
    "a negative id": '{"version":"1.0","model":{"type":"WordPiece","unk_token":"u","vocab":{"u":-1}}}',
}


@pytest.mark.parametrize("name", BAD_CARDS)
def test_a_card_that_cannot_be_is_named_by_every_command(
    name: str, classifier: Path, tmp_path: Path, command: Command
) -> None:
    change, said = BAD_CARDS[name]
    path = _changed(classifier, tmp_path / "m.onnx", change)
    (tmp_path / "in.txt").write_text("one text\n")
    for action in (bertonnx.load, bertonnx.check):
        with pytest.raises(ModelFileError) as caught:
            action(path)
        assert said in str(caught.value)
    for arguments in (("run", path, tmp_path / "in.txt"), ("check", path), ("info", path)):
        outcome = command(*arguments)
        assert outcome.code == 1
        assert outcome.err.startswith("error: ")
        assert outcome.err.count("\n") == 1
        assert said in outcome.err


@pytest.mark.parametrize("name", BAD_GOLDEN)
def test_golden_examples_that_cannot_be(name: str, classifier: Path, tmp_path: Path) -> None:
    change, said = BAD_GOLDEN[name]
    path = _changed(classifier, tmp_path / "m.onnx", change)
    with pytest.raises(ModelFileError, match="carries damaged golden examples") as caught:
        bertonnx.check(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", BAD_TOKENIZERS)
def test_tokenizers_that_cannot_be(name: str, classifier: Path, tmp_path: Path) -> None:
    path = _changed(classifier, tmp_path / "m.onnx", _text(TOKENIZER_KEY, BAD_TOKENIZERS[name]))
    with pytest.raises(ModelFileError, match="the tokenizer in the model file cannot be read"):
        bertonnx.load(path)
    with pytest.raises(BertonnxError):
        bertonnx.check(path)


def _graph(path: Path, model: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    proto = onnx.load(str(model))
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_width_that_no_output_has(exported: Mapping[str, Path], tmp_path: Path) -> None:
    path = _changed(exported["feature-extraction"], tmp_path / "m.onnx", _card(width=1 << 19))
    with pytest.raises(ModelFileError, match="sentence_embedding is 32 wide and the card says 524288"):
        bertonnx.load(path)


@pytest.mark.parametrize(("type_", "said"), [(7, "logits holds no float32"), (8, "logits holds no float32")])
def test_outputs_of_another_type(type_: int, said: str, classifier: Path, tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.output[0].type.tensor_type.elem_type = type_

    with pytest.raises(ModelFileError, match=said):
        bertonnx.load(_graph(tmp_path / "m.onnx", classifier, change))


def test_inputs_that_take_no_ids(classifier: Path, tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.elem_type = 1

    with pytest.raises(ModelFileError, match="the input input_ids takes no token ids"):
        bertonnx.load(_graph(tmp_path / "m.onnx", classifier, change))


def test_a_graph_that_does_not_say_its_shape_is_caught_when_it_runs(classifier: Path, tmp_path: Path) -> None:
    """The scores of the first text alone, for all texts; nothing of it is declared."""

    def change(proto: onnx.ModelProto) -> None:
        for output in proto.graph.output:
            output.type.tensor_type.ClearField("shape")
        for node in proto.graph.node:
            for place, name in enumerate(node.output):
                if name in ("logits", "scores"):
                    node.output[place] = f"{name}_before"
            for place, name in enumerate(node.input):
                if name == "logits":
                    node.input[place] = "logits_before"
        zero = onnx.numpy_helper.from_array(np.array(0, dtype=np.int64), "the_first")
        proto.graph.initializer.append(zero)
        for name in ("logits", "scores"):
            proto.graph.node.append(onnx.helper.make_node("Gather", [f"{name}_before", "the_first"], [name]))

    path = _graph(tmp_path / "m.onnx", classifier, change)
    with bertonnx.load(path, "cpu") as model, pytest.raises(ModelFileError) as caught:
        model.classify(["a text"])
    assert "puts out scores of shape (3,), and (1, 3) is expected" in str(caught.value)
