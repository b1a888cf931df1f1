"""Tables of labels that say two things."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from bertonnx.errors import CheckpointError
from tests.checkpoints import edit_json, message, read, save

NAMES = {"0": "contradiction", "1": "neutral", "2": "entailment"}


@pytest.mark.parametrize("told", [{"entailment": 0, "neutral": 1, "contradiction": 2}, {"entailment": "0"}])
def test_entailment_by_two_numbers(tmp_path: Path, told: dict[str, object]) -> None:
    folder = save(tmp_path / "m", "BertForSequenceClassification", num_labels=3)
    edit_json(folder / "config.json", id2label=NAMES, label2id=told)
    # transformers' zero-shot pipeline believes the table that its classifier does not read.
    config = transformers.AutoConfig.from_pretrained(folder)
    assert int(config.label2id["entailment"]) == 0
    assert config.id2label[2] == "entailment"
    said = message(CheckpointError, folder)
    assert "label2id gives entailment the number 0, and id2label gives it 2; make them agree" in said


@pytest.mark.parametrize("told", [None, {}, {"LABEL_0": 0, "LABEL_1": 1}, {"entailment": 2}])
def test_a_table_that_says_nothing_else(tmp_path: Path, told: object) -> None:
    folder = save(tmp_path / "m", "BertForSequenceClassification", num_labels=3)
    edit_json(folder / "config.json", id2label=NAMES, label2id=told)
    assert read(folder).labels == tuple(NAMES.values())
