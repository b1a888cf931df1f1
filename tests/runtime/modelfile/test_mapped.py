"""Weights are mapped out of the model file: same bits, whatever the file is called or reached by."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import bertonnx
from bertonnx.runtime.modelfile.mapped import without_weights
from bertonnx.runtime.session.session import import_onnxruntime

TEXTS = ["one text", "another, longer text", "", "und noch einer"]


def _scores(path: Path) -> list[object]:
    with bertonnx.load(path, provider="cpu", threads=1) as model:
        return [item["scores"] for item in model.classify(TEXTS)]


def test_large_weights_point_into_the_file_and_nothing_else_changed(exported: dict[str, Path]) -> None:
    path = exported["text-classification"]
    whole, part = onnx.load(path), onnx.ModelProto.FromString(without_weights(path))
    assert not part.metadata_props
    assert list(part.graph.node) == list(whole.graph.node)
    data = path.read_bytes()
    left = 0
    for before, after in zip(whole.graph.initializer, part.graph.initializer, strict=True):
        assert (before.name, list(before.dims), before.data_type) == (
            after.name,
            list(after.dims),
            after.data_type,
        )
        if after.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in after.external_data}
            start = int(entries["offset"])
            assert entries["location"] == path.name
            assert data[start : start + int(entries["length"])] == before.raw_data
            left += 1
        else:
            assert after.raw_data == before.raw_data
    assert left >= 5


def test_the_bits_are_those_of_the_file_loaded_whole(exported: dict[str, Path]) -> None:
    ort = import_onnxruntime()
    path = exported["feature-extraction"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with bertonnx.load(path, provider="cpu") as model:
        for text in TEXTS:
            ids = model.tokenize([text])[0].pieces[0].ids[None]
            feeds = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            np.testing.assert_array_equal(session.run(["sentence_embedding"], feeds)[0], model.embed([text]))


@pytest.mark.parametrize("name", ["with space.onnx", "模型.onnx", "no_ending", "-dash.onnx"])
def test_any_name(name: str, exported: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(exported["text-classification"], tmp_path / name)
    assert _scores(tmp_path / name) == _scores(exported["text-classification"])


def test_a_link_to_the_file_and_a_relative_path(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.onnx").symlink_to(exported["text-classification"])
    monkeypatch.chdir(tmp_path)
    assert _scores(Path("link.onnx")) == _scores(exported["text-classification"])


def test_replacing_the_file_leaves_an_open_model_alone(exported: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(exported["text-classification"], path)
    with bertonnx.load(path, provider="cpu") as model:
        before = model.classify(TEXTS)
        (tmp_path / "new").write_bytes(b"something else")
        (tmp_path / "new").replace(path)
        assert model.classify(TEXTS) == before
