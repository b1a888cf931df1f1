"""Golden examples: what `check` must find, and what it must not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bertonnx.errors import DriftError, ModelFileError, UsageError
from bertonnx.exporters.files import load_proto, save_proto
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY
from bertonnx.runtime import golden
from bertonnx.runtime.golden import check, sha256_text
from bertonnx.runtime.modelfile import read_model_file, weights_sha256

TASKS = (
    "feature-extraction",
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
)


def _entry(model: onnx.ModelProto, key: str) -> Any:
    return next(item for item in model.metadata_props if item.key == key)


def _forge(path: Path) -> None:
    """Put hashes of what is really there on the card, as who changes a file on purpose would."""
    file = read_model_file(path)
    card = dataclasses.replace(
        file.card, weights_sha256=weights_sha256(path), tokenizer_sha256=sha256_text(file.tokenizer)
    )
    model = load_proto(path)
    _entry(model, CARD_KEY).value = card.to_json()
    save_proto(model, path)


def _with_weight(source: Path, target: Path, name: str, change: Callable[[Any], None]) -> Path:
    model = load_proto(source)
    tensor = next(tensor for tensor in model.graph.initializer if name in tensor.name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.raw_data = array.tobytes()
    save_proto(model, target)
    return target


def _with_tokenizer(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    model = load_proto(source)
    entry = _entry(model, TOKENIZER_KEY)
    rules = json.loads(entry.value)
    change(rules)
    entry.value = json.dumps(rules, ensure_ascii=False, separators=(",", ":"))
    save_proto(model, target)
    return target


@pytest.mark.parametrize("task", TASKS)
def test_an_untouched_file_passes_with_no_difference(task: str, exported: dict[str, Path]) -> None:
    report = check(exported[task], "cpu")
    assert report.examples >= 5
    assert report.max_abs_difference == 0.0
    assert report.tolerance >= 1e-4
    assert report.provider == "cpu"


def test_saving_again_without_a_change_passes(exported: dict[str, Path], tmp_path: Path) -> None:
    save_proto(load_proto(exported["fill-mask"]), tmp_path / "m.onnx")
    assert check(tmp_path / "m.onnx").max_abs_difference == 0.0


def _one_element(array: Any) -> None:
    array.ravel()[5] += 0.5


@pytest.mark.parametrize("task", TASKS)
def test_one_changed_element_of_one_weight(task: str, exported: dict[str, Path], tmp_path: Path) -> None:
    path = _with_weight(exported[task], tmp_path / "m.onnx", "LayerNorm.weight", _one_element)
    with pytest.raises(DriftError, match=r"the weights in .* changed after export \(SHA-256"):
        check(path)


def test_the_last_bit_of_one_weight(exported: dict[str, Path], tmp_path: Path) -> None:
    def last_bit(array: Any) -> None:
        flat = array.reshape(-1)
        flat[-1] = np.nextafter(flat[-1], np.float32(np.inf))

    path = _with_weight(exported["fill-mask"], tmp_path / "m.onnx", "LayerNorm.bias", last_bit)
    with pytest.raises(DriftError, match="weights"):
        check(path)


@pytest.mark.parametrize("task", TASKS)
def test_a_changed_weight_with_a_forged_card(task: str, exported: dict[str, Path], tmp_path: Path) -> None:
    path = _with_weight(exported[task], tmp_path / "m.onnx", "LayerNorm.weight", _one_element)
    _forge(path)
    with pytest.raises(DriftError, match=r"golden example 0 of .* comes out differently: largest difference"):
        check(path)


def test_nan_is_never_a_small_difference(exported: dict[str, Path], tmp_path: Path) -> None:
    def not_a_number(array: Any) -> None:
        array.ravel()[0] = np.nan

    path = _with_weight(exported["feature-extraction"], tmp_path / "m.onnx", "LayerNorm.bias", not_a_number)
    _forge(path)
    with pytest.raises(DriftError, match="largest difference inf"):
        check(path)


def _keeps_case(rules: Any) -> None:
    rules["normalizer"]["lowercase"] = False


def _keeps_accents(rules: Any) -> None:
    rules["normalizer"]["strip_accents"] = False


def _swaps_pieces(rules: Any) -> None:
    vocabulary = rules["model"]["vocab"]
    vocabulary["the"], vocabulary["in"] = vocabulary["in"], vocabulary["the"]


def _other_normalizer(rules: Any) -> None:
    rules["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}


def _no_template(rules: Any) -> None:
    rules["post_processor"] = None


CHANGES = [_keeps_case, _keeps_accents, _swaps_pieces, _other_normalizer, _no_template]


@pytest.mark.parametrize("change", CHANGES)
def test_one_changed_rule_of_the_tokenizer(
    change: Callable[[Any], None], exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _with_tokenizer(exported["text-classification"], tmp_path / "m.onnx", change)
    with pytest.raises(DriftError, match=r"the tokenizer in .* changed after export"):
        check(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_rule_with_a_forged_card(
    change: Callable[[Any], None], exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _with_tokenizer(exported["text-classification"], tmp_path / "m.onnx", change)
    _forge(path)
    with pytest.raises(DriftError, match=r"golden example \d+ is tokenized differently than at export"):
        check(path)


def test_changed_numbers_in_the_golden_examples(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["fill-mask"])
    entry = _entry(model, GOLDEN_KEY)
    golden = json.loads(entry.value)
    golden[-1]["outputs"]["logits"][7] += 0.01
    entry.value = json.dumps(golden)
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(DriftError, match=f"golden example {len(golden) - 1} of"):
        check(tmp_path / "m.onnx")


@pytest.mark.parametrize("numbers", [[], [0.0]])
def test_fewer_golden_numbers_are_no_agreement(
    numbers: list[float], exported: dict[str, Path], tmp_path: Path
) -> None:
    model = load_proto(exported["fill-mask"])
    entry = _entry(model, GOLDEN_KEY)
    golden = json.loads(entry.value)
    golden[0]["outputs"]["logits"] = numbers
    entry.value = json.dumps(golden)
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(DriftError, match="golden example 0"):
        check(tmp_path / "m.onnx")


def test_no_golden_examples(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["fill-mask"])
    _entry(model, GOLDEN_KEY).value = "[]"
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="carries no golden examples; export the checkpoint again"):
        check(tmp_path / "m.onnx")


def test_an_unknown_precision(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["fill-mask"])
    entry = _entry(model, CARD_KEY)
    entry.value = json.dumps(json.loads(entry.value) | {"precision": "fp7"})
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="precision fp7"):
        check(tmp_path / "m.onnx")


def test_an_unknown_provider(exported: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="provider is 'tpu'; it can be auto, cpu, cuda"):
        check(exported["fill-mask"], "tpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_what_an_example_holds(task: str, exported: dict[str, Path]) -> None:
    file = read_model_file(exported[task])
    lengths = {len(example["ids"]) for example in file.golden}
    assert len(lengths) >= 4
    assert max(lengths) == file.card.max_length  # one that is cut
    for example in file.golden:
        assert set(example) == {"text", "pair", "ids", "outputs"}
        assert (example["pair"] is not None) == (task == "question-answering")
        assert set(example["outputs"]) == set(file.card.outputs)
        assert all(0 < len(numbers) <= 1024 for numbers in example["outputs"].values())


def test_a_cpu_that_would_saturate_this_files_weights_says_so(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "saturation_warning", lambda _: "its sums of products can saturate")
    with pytest.raises(DriftError, match="can saturate"):
        check(exported["fill-mask"])
