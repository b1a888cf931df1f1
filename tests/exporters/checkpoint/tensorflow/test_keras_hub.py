"""What KerasHub's configurations say beside sizes: each key changes results as in KerasHub, or is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import BertonnxError, CheckpointError, UnsupportedError
from tests.exporters.checkpoint.tensorflow.test_replica import DATA

pytest.importorskip("h5py", reason="h5py is not installed, which reads Keras' files")

SOURCE = DATA / "hub-classifier" / "source"
TEXTS = ["the red planet", "a b c d " * 20]


def changed(folder: Path, **keys: Any) -> Path:
    """Copy KerasHub's classifier with keys of any of its parts changed."""
    shutil.copytree(SOURCE, folder)
    file = folder / "bert.keras"
    with zipfile.ZipFile(file) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    config = json.loads(files["config.json"])
    before = config["config"]["preprocessor"]["config"]
    parts = (config["config"], before, before["tokenizer"]["config"])
    for key, value in keys.items():
        next(part for part in parts if key in part)[key] = value
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return folder


def refusal(error: type[BertonnxError], folder: Path) -> str:
    with pytest.raises(error) as caught:
        bertonnx.export(folder, folder / "model.onnx")
    return str(caught.value)


def scores(folder: Path) -> tuple[Any, np.ndarray[Any, np.dtype[np.float64]]]:
    report = bertonnx.export(folder, folder / "model.onnx")
    with bertonnx.load(report.path, "cpu") as model:
        found = [[*item["scores"].values()] for item in model.predict(TEXTS)]
    return report.card, np.array(found)


def test_a_classifiers_own_activation_makes_its_scores(tmp_path: Path) -> None:
    card, best = scores(changed(tmp_path / "linear"))
    assert card.problem_type == "single_label_classification"
    assert np.array_equal(scores(changed(tmp_path / "softmax", activation="softmax"))[1], best)
    card, each = scores(changed(tmp_path / "sigmoid", activation="sigmoid"))
    assert card.problem_type == "multi_label_classification"
    odds = each / (1 - each)
    assert np.allclose(odds / odds.sum(axis=1, keepdims=True), best, atol=1e-5)
    said = refusal(UnsupportedError, changed(tmp_path / "relu", activation="relu"))
    assert "its classifier has the activation relu" in said


def test_texts_are_cut_where_the_preprocessor_cuts_them(tmp_path: Path) -> None:
    assert scores(changed(tmp_path / "sixteen"))[0].max_length == 16
    assert scores(changed(tmp_path / "more", sequence_length=512))[0].max_length == 64


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split", False),
        ("suffix_indicator", "@@"),
        ("oov_token", "[MASK]"),
        ("special_tokens", ["the"]),
        ("truncate", "waterfall"),
    ],
)
def test_what_would_change_ids_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    said = refusal(CheckpointError, changed(tmp_path / "it", **{key: value}))
    assert f"has {key} {value!r}, and bertonnx follows" in said
