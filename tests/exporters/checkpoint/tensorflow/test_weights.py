"""Weights of a model file, mapped back to the TensorFlow checkpoint that it was exported from."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bertonnx
from bertonnx.errors import ModelFileError, SourceError
from bertonnx.exporters.checkpoint.tensorflow.locate import locate
from bertonnx.exporters.checkpoint.tensorflow.replica import replicate
from bertonnx.exporters.convert import ExportReport
from bertonnx.exporters.options import ExportOptions, Trust
from tests.commands import Command
from tests.exporters.checkpoint.tensorflow.bundles import write_bundle

DATA = Path(__file__).parent / "data"
SOURCE = DATA / "google-classifier" / "source"
QUERY, KEY = (f"bert/encoder/layer_1/attention/self/{part}/kernel" for part in ("query", "key"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    kinds: dict[str, dict[str, Any]] = {
        "fp32": {},
        "fp16": {"precision": "fp16", "min_agreement": 0.0},
        "int8": {"quantize": True, "min_agreement": 0.0},
    }
    return {
        name: bertonnx.export(SOURCE, folder / f"{name}.onnx", **options).path
        for name, options in kinds.items()
    }


def test_every_tensor_of_the_source_is_there_with_its_digest(files: dict[str, Path]) -> None:
    card = bertonnx.load(files["fp32"]).card
    source = bertonnx.weights(SOURCE)
    assert [one.name for one in card.tensors] == [one.name for one in source]
    left = {one.how for one in card.tensors if not one.became}
    assert left == {"left out: a slot of the optimizer", "left out: a counter of training"}
    assert all(len(one.sha256) == 64 for one in card.tensors)
    by_name = {one.name: one for one in card.tensors}
    assert by_name[QUERY].became == "bert.encoder.layer.1.attention.self.query.weight"
    assert by_name[QUERY].how == "transposed"
    assert by_name["output_weights"].how == "copied"


def test_fp32_has_the_very_numbers(files: dict[str, Path]) -> None:
    source = {one.name: one for one in bertonnx.weights(SOURCE)}
    found = [one for one in bertonnx.weights(files["fp32"]) if one.became]
    assert len(found) == 41
    for one in found:
        assert one.exact
        assert one.values is not None
        wanted = source[one.name].values
        assert wanted is not None
        assert np.array_equal(one.values, wanted)


@pytest.mark.parametrize(("kind", "far"), [("fp16", 1e-3), ("int8", 0.1)])
def test_smaller_numbers_are_near_and_said_to_be_so(files: dict[str, Path], kind: str, far: float) -> None:
    source = {one.name: one for one in bertonnx.weights(SOURCE)}
    found = [one for one in bertonnx.weights(files[kind]) if one.became]
    there = [one for one in found if one.values is not None]
    # INT8 folds the biases of key and value into others, and a sum into the bias behind.
    assert len(there) >= 33
    kernels = [one for one in there if one.name.endswith("kernel") and "encoder" in one.name]
    assert len(kernels) == 12
    assert not any(one.exact for one in kernels)
    for one in there:
        wanted = source[one.name].values
        assert one.values is not None
        assert wanted is not None
        assert np.abs(one.values - wanted).max() <= (0 if one.exact else far * np.abs(wanted).max())
    missing = [one for one in found if one.values is None]
    assert all("not in this file" in one.how for one in missing)
    assert all(one.ok for one in bertonnx.compare_weights(files[kind], SOURCE))


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the source with other numbers, well-formed."""
    shutil.copytree(SOURCE, folder)
    given = {one.name: np.array(one.values) for one in bertonnx.weights(SOURCE)}
    change(given)
    write_bundle(folder / "bert_model.ckpt", given)
    return folder


def wrong(model: Path, source: Path) -> dict[str, tuple[str, bool]]:
    """Return the tensors that differ, with what stands in their places."""
    compared = bertonnx.compare_weights(model, source)
    return {one.name: (one.misplaced, one.turned) for one in compared if not one.ok}


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_what_stands_in_anothers_place_is_named(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    def swap(given: dict[str, Any]) -> None:
        given[QUERY], given[KEY] = given[KEY], given[QUERY]

    swapped = changed(tmp_path / "swapped", swap)
    assert wrong(files[kind], swapped) == {QUERY: (KEY, False), KEY: (QUERY, False)}
    turned = changed(tmp_path / "turned", lambda given: given.update({QUERY: given[QUERY].T}))
    assert wrong(files[kind], turned) == {QUERY: (QUERY, True)}
    other = changed(tmp_path / "other", lambda given: given.update({QUERY: given[QUERY] * -1}))
    assert wrong(files[kind], other) == {QUERY: ("", False)}


@pytest.fixture(scope="module")
def in_pytorch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    """Return what is exported of the same model as transformers saves it, beside weights of TensorFlow."""
    folder = tmp_path_factory.mktemp("pytorch")
    located = locate(SOURCE, Trust())
    assert located is not None
    replicate("it", located, folder, ExportOptions())
    (folder / "tf_model.h5").touch()
    return {
        "fp32": bertonnx.export(folder, folder / "fp32.onnx"),
        "fp16": bertonnx.export(folder, folder / "fp16.onnx", precision="fp16", min_agreement=0.0),
    }


def test_what_was_not_read_is_said_and_on_the_card(in_pytorch: dict[str, ExportReport]) -> None:
    report = in_pytorch["fp32"]
    said = "PyTorch's weights are read; those of TensorFlow beside them are not: tf_model.h5"
    assert said in map(str, report.messages)
    assert report.card.source["passed_over"] == "tf_model.h5"
    assert not report.card.tensors


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_a_file_that_was_made_of_pytorchs_weights(
    in_pytorch: dict[str, ExportReport], kind: str, tmp_path: Path
) -> None:
    file = in_pytorch[kind].path
    compared = bertonnx.compare_weights(file, SOURCE)
    assert sum(one.difference is not None for one in compared) == len(compared) == 41
    assert all(one.ok for one in compared)
    exact = [one for one in compared if one.exact]
    assert all(one.difference == 0 for one in exact)
    assert len(exact) == 41 or kind == "fp16"

    def swap(given: dict[str, Any]) -> None:
        given[QUERY], given[KEY] = given[KEY], given[QUERY]

    swapped = changed(tmp_path / "swapped", swap)
    assert wrong(file, swapped) == {QUERY: (KEY, False), KEY: (QUERY, False)}


@pytest.mark.parametrize("account", ["[]", "{", '{"a": 1}', '{"a": "?"}', '{"a": "AAAA"}'])
def test_a_damaged_account_of_biases_is_an_error(
    in_pytorch: dict[str, ExportReport], account: str, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.onnx"
    model = onnx.load(in_pytorch["fp32"].path)
    (entry,) = (item for item in model.metadata_props if item.key == "bertonnx.moved")
    entry.value = account
    onnx.save(model, damaged)
    with pytest.raises(ModelFileError, match=r"the account of biases in .* is damaged"):
        bertonnx.compare_weights(damaged, SOURCE)


def test_files_of_other_models_are_not_compared(exported: dict[str, Path]) -> None:
    with pytest.raises(ModelFileError, match=r"is of another size than the checkpoint: bert\.embeddings"):
        bertonnx.compare_weights(exported["fill-mask"], SOURCE)
    with pytest.raises(ModelFileError, match="they have other names"):
        bertonnx.compare_weights(exported["fill-mask"], DATA / "google-albert" / "source")


def test_the_account_as_csv_and_json(files: dict[str, Path], command: Command) -> None:
    outcome = command("info", str(files["fp32"]), "--weights")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert len(rows) == 124
    row = next(row for row in rows if row["name"] == QUERY)
    assert row["shape"] == "16x16"
    assert row["dtype"] == "float32"
    as_json = json.loads(command("info", str(files["fp32"]), "--weights", "--json").out)
    assert [one["sha256"] for one in as_json] == [row["sha256"] for row in rows]
    assert as_json[0]["shape"] == [int(size) for size in rows[0]["shape"].split("x") if size]


def test_what_has_no_account_says_so(exported: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="keeps no account of its weights"):
        bertonnx.weights(exported["fill-mask"])
    with pytest.raises(SourceError, match="no TensorFlow checkpoint"):
        bertonnx.weights(tmp_path)
