"""Pairs of texts: a second segment without an embedding, and what question answering goes by."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

import bertonnx
from bertonnx.errors import CheckpointError, UnsupportedError, UsageError
from tests.checkpoints import edit_json, message, read, save
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


def test_the_token_that_stands_for_no_answer(tmp_path: Path) -> None:
    save(tmp_path, "BertForQuestionAnswering")
    found = read(tmp_path)
    assert found.cls_token_id == Tokenizer.from_str(found.tokenizer_text).token_to_id("[CLS]")
    edit_json(tmp_path / "tokenizer_config.json", cls_token=None)
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    assert read(tmp_path).cls_token_id == -1
    edit_json(tmp_path / "tokenizer_config.json", cls_token="[SEP]")
    found = read(tmp_path)
    assert found.cls_token_id == Tokenizer.from_str(found.tokenizer_text).token_to_id("[SEP]")


def test_a_context_before_its_question(tmp_path: Path) -> None:
    """So transformers' pipeline and `run_qa.py` put them where padding is on the left."""
    save(tmp_path, "BertForQuestionAnswering")
    edit_json(tmp_path / "tokenizer_config.json", padding_side="left")
    assert "puts the context before the question" in message(UnsupportedError, tmp_path)
    save(tmp_path / "other", "BertForTokenClassification")
    edit_json(tmp_path / "other" / "tokenizer_config.json", padding_side="left")
    assert (read(tmp_path / "other").padding_side, read(tmp_path / "other").cls_token_id) == ("left", None)


def test_special_tokens_that_results_go_by(tmp_path: Path) -> None:
    save(tmp_path / "tags", "BertForTokenClassification")
    save(tmp_path / "words", "BertForMaskedLM")
    (tags, words) = (read(tmp_path / name) for name in ("tags", "words"))
    ids = Tokenizer.from_str(tags.tokenizer_text).get_vocab()
    assert (tags.unk_token_id, tags.left_out_id) == (ids["[UNK]"], None)
    assert (words.unk_token_id, words.left_out_id) == (None, ids["[PAD]"])
    for folder in (tmp_path / "tags", tmp_path / "words"):
        edit_json(folder / "tokenizer_config.json", unk_token=None, pad_token=None)
        (folder / "special_tokens_map.json").unlink(missing_ok=True)
    assert (read(tmp_path / "tags").unk_token_id, read(tmp_path / "words").left_out_id) == (-1, -1)
