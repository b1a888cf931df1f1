"""Checkpoints that TensorFlow makes here and now, of every kind, against what it computes of them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed; sh tools/environments.sh tensorflow")

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
    "hf-pretraining": ({}, LOGITS, True),
    "hf-answers": ({}, SPANS, True),
    "hf-weights": ({}, LOGITS, True),
    "hf-tf2": ({}, LOGITS, True),
    "hf-saved": ({}, LOGITS, True),
    "distilbert": ({}, LOGITS, True),
    "roberta-words": ({}, LOGITS, True),
    "xlm-roberta": ({}, LOGITS, True),
    "albert": ({}, LOGITS, True),
    "electra": ({}, LOGITS, True),
    "hub-backbone": ({}, LAST, True),
    "hub-weights": ({}, LAST, False),
    "hub-classifier": ({}, LOGITS, True),
    "hub-words-preset": ({}, LOGITS, True),
    "garden-1": ({}, LAST, True),
    "garden-2": ({}, LAST, True),
    "garden-saved": ({}, LAST, True),
    "garden-classifier": ({}, LOGITS, False),
    "garden-tokens": ({"task": "ner"}, LOGITS, False),
    "garden-span": ({"task": "question-answering"}, SPANS, False),
    "garden-words": ({}, LOGITS, False),
}

MADE = [name for name in CASES if importlib.util.find_spec("official") or not name.startswith("garden")]
"""The Model Garden asks for an older TensorFlow, so that it is tried where it was installed by hand."""


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixtures")
    script = Path(__file__).with_name("make_fixtures.py")
    subprocess.run([sys.executable, script, folder, *MADE], check=True)
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
