"""Pairs of texts for models that have no embedding for a second segment."""

from __future__ import annotations

from pathlib import Path

import pytest

import bertonnx
from bertonnx.errors import CheckpointError, UsageError
from tests.tiny import save_tiny


def test_a_classifier_without_a_second_segment_reads_single_texts(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", "bert", "text-classification", type_vocab_size=1)
    report = bertonnx.export(source, tmp_path / "model.onnx")
    assert report.card.pairs is False
    assert "single texts only: type_vocab_size is 1" in " ".join(map(str, report.notes))
    with bertonnx.load(report.path, "cpu") as model:
        assert len(model.predict(["It rains."])) == 1
        with pytest.raises(UsageError, match="trained for text-classification of single ones"):
            model.predict(["It rains."], ["It pours."])


@pytest.mark.parametrize("task", ["text-ranking", "question-answering"])
def test_a_task_of_pairs_is_refused(tmp_path: Path, task: str) -> None:
    source = save_tiny(tmp_path / "checkpoint", "bert", task, type_vocab_size=1)
    with pytest.raises(CheckpointError, match="type_vocab_size 1, and the tokenizer gives the second text"):
        bertonnx.export(source, tmp_path / "model.onnx")


def test_a_tokenizer_without_segments_leaves_pairs_as_they_are(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", "roberta", "text-classification")
    assert bertonnx.export(source, tmp_path / "model.onnx").card.pairs is None
