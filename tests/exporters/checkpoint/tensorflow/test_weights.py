"""Weights of a model file, mapped back to the TensorFlow checkpoint that it was exported from."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import ModelFileError, SourceError
from tests.commands import Command

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


def test_a_swapped_pair_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(SOURCE, other)
    data = other / "bert_model.ckpt.data-00000-of-00001"
    raw = data.read_bytes()
    query, key = (
        one.values.astype(np.float32).tobytes()
        for name in (QUERY, KEY)
        for one in bertonnx.weights(SOURCE)
        if one.name == name and one.values is not None
    )
    changed = bytearray(raw)
    for own, others in ((query, key), (key, query)):
        changed[raw.index(own) : raw.index(own) + len(own)] = others
    data.write_bytes(changed)
    for kind in ("fp32", "int8"):
        wrong = {
            one.name: one.misplaced for one in bertonnx.compare_weights(files[kind], other) if not one.ok
        }
        assert wrong == {QUERY: KEY, KEY: QUERY}


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
