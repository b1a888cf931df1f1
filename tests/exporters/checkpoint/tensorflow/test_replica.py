"""Checkpoints that TensorFlow made, exported without it, against the numbers that it computed itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tensorflow_values import exported, furthest

pytest.importorskip("h5py", reason="h5py is not installed, which reads Keras' files")

DATA = Path(__file__).parent / "data"

LAST = {"last_hidden_state": "last_hidden_state"}
LOGITS = {"logits": "logits"}

CASES: Mapping[str, tuple[str, dict[str, Any], dict[str, str], str]] = {
    "words": ("google-pretraining", {}, {"logits": "gelu_logits"}, "fill-mask"),
    "words by tanh": (
        "google-pretraining",
        {"activation": "gelu_new"},
        {"logits": "gelu_new_logits"},
        "fill-mask",
    ),
    "encoder": (
        "google-pretraining",
        {"task": "feature-extraction"},
        {"last_hidden_state": "gelu_last_hidden_state"},
        "feature-extraction",
    ),
    "classifier beside slots": ("google-classifier", {}, {"logits": "gelu_logits"}, "text-classification"),
    "tokens": ("google-classifier", {"task": "ner"}, {"logits": "gelu_token_logits"}, "token-classification"),
    "answers": (
        "google-squad",
        {},
        {"start_logits": "gelu_start_logits", "end_logits": "gelu_end_logits"},
        "question-answering",
    ),
    "ALBERT": ("google-albert", {}, LOGITS, "fill-mask"),
    "Hugging Face": ("hf-tokens", {}, LOGITS, "token-classification"),
    "Model Garden": ("garden-2", {}, LAST, "feature-extraction"),
    "KerasHub": ("hub-classifier", {}, LOGITS, "text-classification"),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_tensorflows(case: str, tmp_path: Path) -> None:
    name, options, outputs, task = CASES[case]
    report = exported(DATA / name, tmp_path, **options)
    assert report.card.task == task
    assert report.card.source.get("hidden_act") == options.get("activation")
    assert furthest(report, DATA / name, outputs) < 1
