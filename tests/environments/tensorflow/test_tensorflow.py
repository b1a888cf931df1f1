"""Checkpoints that TensorFlow makes here and now, of every kind, against what it computes of them."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed; sh tools/environments.sh tensorflow")

import torch

import bertonnx
from bertonnx.errors import UnsupportedError
from bertonnx.exporters.checkpoint.tensorflow.locate import locate
from bertonnx.exporters.checkpoint.tensorflow.replica import replicate
from bertonnx.exporters.options import ExportOptions, Trust
from tests.tensorflow_values import exported, furthest

LAST = {"last_hidden_state": "last_hidden_state"}
LOGITS = {"logits": "logits"}
SPANS = {"start_logits": "start_logits", "end_logits": "end_logits"}
GOOGLE_SPANS = {name: f"gelu_{name}" for name in SPANS}

# Fixture -> options of the export, outputs, and whether TensorFlow checks it by itself (`--verify-with`).
CASES: Mapping[str, tuple[dict[str, Any], Mapping[str, str], bool]] = {
    "google-pretraining": ({}, {"logits": "gelu_logits"}, True),
    "google-classifier": ({"activation": "gelu_new"}, {"logits": "gelu_new_logits"}, True),
    "google-squad": ({}, GOOGLE_SPANS, True),
    "google-albert": ({}, LOGITS, True),
    "google-electra": ({}, LAST, True),
    "hf-pretraining": ({}, LOGITS, True),
    "hf-answers": ({}, SPANS, True),
    "hf-shards": ({}, LOGITS, False),
    "hf-weights": ({}, LOGITS, True),
    "hf-tf2": ({}, LOGITS, True),
    "hf-saved": ({}, LOGITS, True),
    "distilbert": ({}, LOGITS, True),
    "roberta-words": ({}, LOGITS, True),
    "xlm-roberta": ({}, LOGITS, True),
    "mobilebert-words": ({}, LOGITS, False),
    "camembert": ({}, LOGITS, True),
    "albert": ({}, LOGITS, True),
    "electra": ({}, LOGITS, True),
    "hub-backbone": ({}, LAST, True),
    "hub-weights": ({}, LAST, False),
    "hub-classifier": ({}, LOGITS, True),
    "hub-words-preset": ({}, LOGITS, True),
    "garden-1": ({}, LAST, True),
    "garden-2": ({}, LAST, True),
    "garden-hub": ({}, LAST, True),
    "garden-saved": ({}, LAST, True),
    "garden-classifier": ({}, LOGITS, False),
    "garden-tokens": ({"task": "ner"}, LOGITS, False),
    "garden-span": ({"task": "question-answering"}, SPANS, False),
    "garden-words": ({}, LOGITS, False),
}

REFUSED = ("garden-relu",)

MADE = [name for name in CASES if importlib.util.find_spec("official") or not name.startswith("garden")]
"""The Model Garden asks for an older TensorFlow, and is installed without what it asks for (alone.txt)."""


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixtures")
    script = Path(__file__).with_name("make_fixtures.py")
    refused = REFUSED if importlib.util.find_spec("official") else ()
    subprocess.run([sys.executable, script, folder, *MADE, *refused], check=True)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MADE)
def test_outputs_are_tensorflows(name: str, fixtures: Path, tmp_path: Path) -> None:
    options, outputs, checked = CASES[name]
    verify = {"verify_with": ("tensorflow",)} if checked else {}
    report = exported(fixtures / name, tmp_path, **options, **verify)
    assert furthest(report, fixtures / name, outputs) < 1
    if checked:
        assert report.card.parity is not None
        assert report.card.parity.independent["tensorflow"].max_abs_difference < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not importlib.util.find_spec("official"), reason="the Model Garden is not installed")
def test_a_model_of_tensorflow_hub_says_how_its_texts_are_read(fixtures: Path, tmp_path: Path) -> None:
    report = exported(fixtures / "garden-hub", tmp_path)
    with bertonnx.load(report.path, "cpu") as model:
        lower, upper = model.tokenize(["a", "A"])
    assert lower.pieces[0].ids.tolist() != upper.pieces[0].ids.tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not importlib.util.find_spec("official"), reason="the Model Garden is not installed")
def test_a_saved_model_says_that_its_encoder_was_changed(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="was made with inner_activation relu"):
        exported(fixtures / "garden-relu", tmp_path)


CONVERSIONS: Mapping[str, tuple[str, str, tuple[str, ...], dict[str, Any]]] = {
    "albert": ("google-albert", "AlbertForPreTraining", (), {}),
    "discriminator": ("google-electra", "ElectraForPreTraining", ("discriminator",), {}),
    "generator": ("google-electra", "ElectraForMaskedLM", ("generator",), {"task": "fill-mask"}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CONVERSIONS)
def test_googles_names_become_what_transformers_makes_of_them(
    case: str, fixtures: Path, tmp_path: Path
) -> None:
    import transformers
    from safetensors.torch import load_file

    name, kind, more, options = CONVERSIONS[case]
    located = locate(fixtures / name / "source", Trust())
    assert located is not None
    replicate("it", located, tmp_path, ExportOptions(**options))
    own = load_file(tmp_path / "model.safetensors")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.architectures == [kind]
    model = getattr(transformers, kind)(config)
    family = importlib.import_module(f"transformers.models.{config.model_type}.modeling_{config.model_type}")
    load = getattr(family, f"load_tf_weights_in_{config.model_type}")
    load(model, config, str(located.paths[0]), *more)
    theirs = {key: value for key, value in model.state_dict().items() if not key.endswith("position_ids")}
    tied = {key for key in theirs if ".decoder." in key or key == "generator_lm_head.weight"}
    assert set(own) == set(theirs) - tied
    assert all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.filterwarnings("ignore")
def test_the_generator_predicts_as_in_tensorflow(fixtures: Path, tmp_path: Path) -> None:
    report = exported(fixtures / "google-electra", tmp_path, task="fill-mask", verify_with=("tensorflow",))
    assert report.card.source["layout"] == "google-electra-generator"
    assert furthest(report, fixtures / "google-electra", LOGITS) < 1
    # The one file has two models, and the account says which was read.
    compared = bertonnx.compare_weights(report.path, fixtures / "google-electra" / "source")
    assert sum(one.difference == 0 for one in compared) == len(compared) == 28
