"""A checkpoint's tokenizer and its longest input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError, UnsupportedError, UsageError
from bertonnx.exporters.options import Trust
from bertonnx.models.hard_texts import HARD_TEXTS
from tests.checkpoints import edit_json, message, read, save
from tests.tokenizers_zoo import pretrained

# Tokenizers


@pytest.mark.parametrize(
    ("model_class", "kind"),
    [("BertModel", "wordpiece"), ("RobertaModel", "bpe"), ("XLMRobertaModel", "unigram")],
)
def test_the_written_tokenizer_gives_the_checkpoints_ids(tmp_path: Path, model_class: str, kind: str) -> None:
    found = read(save(tmp_path, model_class, tokenizer=kind))
    auto: Any = transformers.AutoTokenizer
    own = auto.from_pretrained(tmp_path)
    written = Tokenizer.from_str(found.tokenizer_text)
    for text in HARD_TEXTS:
        assert written.encode(text).ids == own(text)["input_ids"]
    assert json.loads(found.tokenizer_text)["padding"] is None
    assert ("token_type_ids" in found.input_names) is (kind == "wordpiece")


def test_padding_and_truncation_are_left_behind(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    written = Tokenizer.from_str(read(tmp_path).tokenizer_text)
    assert len(written.encode("a").ids) == 3
    assert len(written.encode("a " * 40).ids) == 42


def test_a_vocabulary_without_a_tokenizer_json_is_converted(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    vocabulary = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab()
    for path in tmp_path.glob("*token*"):
        path.unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    own: Any = transformers.BertTokenizer.from_pretrained(tmp_path)
    written = Tokenizer.from_str(read(tmp_path).tokenizer_text)
    assert written.encode("Hello, world!").ids == own("Hello, world!")["input_ids"]


def test_no_tokenizer(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    for path in tmp_path.glob("*token*"):
        path.unlink()
    said = message(CheckpointError, tmp_path)
    assert "has no tokenizer" in said
    assert "save_pretrained" in said


def test_a_tokenizer_without_a_fast_version(tmp_path: Path) -> None:
    _only(
        save(tmp_path, "RobertaModel"), {"vocab.txt": "the 1\nfilm 2\n", "bpe.codes": "t h 1\nth e</w> 2\n"}
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PhobertTokenizer"}')
    said = message(CheckpointError, tmp_path)
    assert "a PhobertTokenizer, has no fast version" in said
    assert "put a tokenizer.json" in said
    assert "PreTrainedTokenizerFast" in said


def _only(folder: Path, files: dict[str, str]) -> Path:
    """Leave these files in a folder in place of its tokenizer."""
    for path in folder.glob("*token*"):
        path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def test_a_tokenizer_class_that_cannot_be_loaded_is_replaced_by_tokenizer_json(tmp_path: Path) -> None:
    save(tmp_path, "XLMWithLMHeadModel")
    edit_json(tmp_path / "tokenizer_config.json", tokenizer_class="XLMTokenizer")
    assert read(tmp_path).task == "fill-mask"
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("{}")
    said = message(CheckpointError, tmp_path)
    assert "cannot be loaded" in said
    assert "put a tokenizer.json" in said


def _own_code(folder: Path, monkeypatch: pytest.MonkeyPatch, loaded: Any) -> str:
    """Return what is said where a folder's own tokenizer code, which is trusted, makes `loaded`."""
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.Own"]})
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: loaded)
    return message(CheckpointError, folder, trust=Trust(trust_remote_code=True))


def test_a_tokenizer_with_python_code_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import pre_tokenizers

    class Jieba:
        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, part: [part])

    save(tmp_path, "BertModel")
    loaded: Any = pretrained("wordpiece")
    loaded.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Jieba())
    said = _own_code(tmp_path, monkeypatch, loaded)
    assert "splits texts with Python code" in said
    assert "put a tokenizer.json" in said


def test_a_class_that_splits_with_python_code(tmp_path: Path) -> None:
    save(tmp_path, "RoFormerModel")
    edit_json(tmp_path / "tokenizer_config.json", tokenizer_class="RoFormerTokenizer")
    said = message(CheckpointError, tmp_path)
    assert "a RoFormerTokenizer" in said
    assert "splits texts with Python code" in said
    assert "PreTrainedTokenizerFast" in said


def test_a_tokenizer_that_changes_when_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "BertModel")
    other = pretrained("wordpiece", lowercase=False)
    own: Any = pretrained("wordpiece")
    monkeypatch.setattr(type(own), "backend_tokenizer", property(lambda _: other._tokenizer))
    said = _own_code(tmp_path, monkeypatch, own)
    assert "gives other ids than" in said
    assert "for example for '   leading and trailing   '" in said


def test_a_broken_tokenizer_file(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    assert "tokenizer.json cannot be read as JSON" in message(CheckpointError, tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "cannot be loaded" in message(CheckpointError, tmp_path)


def test_words_that_are_split_at_random(tmp_path: Path) -> None:
    save(tmp_path, "RobertaModel", tokenizer="bpe")
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    edit_json(tmp_path / "tokenizer.json", model={**data["model"], "dropout": 0.25})
    assert "has dropout 0.25 in its model" in message(CheckpointError, tmp_path)


def test_more_tokens_than_embeddings(tmp_path: Path) -> None:
    save(tmp_path, "BertModel", vocab_size=100)
    said = message(CheckpointError, tmp_path)
    assert "no embedding for" in said
    assert "(100)" in said
    assert "the model has 100, so the highest id is 99" in said
    assert "resize_token_embeddings" in said


def test_fill_mask_without_a_mask_token(tmp_path: Path) -> None:
    save(tmp_path, "BertForMaskedLM")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (tmp_path / name).is_file():  # version 5 of transformers writes the first alone
            edit_json(tmp_path / name, mask_token=None)
    said = message(CheckpointError, tmp_path)
    assert "no mask token" in said
    assert "tokenizer_config.json" in said


# Length


@pytest.mark.parametrize(
    ("model_class", "tokenizer", "settings", "limit"),
    [
        ("BertModel", "wordpiece", {}, 64),
        ("BertModel", "wordpiece", {"model_max_length": 40}, 40),
        ("BertModel", "wordpiece", {"model_max_length": 10**30}, 64),
        ("RobertaModel", "bpe", {}, 62),
        ("RobertaModel", "bpe", {"pad_token_id": 0}, 63),
        ("RobertaModel", "bpe", {"pad_token_id": -1}, 64),
        ("MPNetModel", "bpe", {}, 62),
        ("DistilBertModel", "wordpiece", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, 64),
        ("DebertaV2Model", "wordpiece", {"position_biased_input": False, "relative_attention": True}, 512),
        ("BertForQuestionAnswering", "wordpiece", {"max_position_embeddings": 512}, 384),
        ("NystromformerModel", "wordpiece", {}, 64),
        ("XLMWithLMHeadModel", "wordpiece", {}, 64),
    ],
)
def test_the_longest_input(
    tmp_path: Path, model_class: str, tokenizer: str, settings: dict[str, Any], limit: int
) -> None:
    found = read(save(tmp_path, model_class, tokenizer=tokenizer, **settings))
    assert found.max_length == limit
    ids = torch.full((1, limit), 7)
    with torch.inference_mode():
        found.model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_no_limit_anywhere_is_said(tmp_path: Path) -> None:
    save(tmp_path, "DebertaV2Model", position_biased_input=False, model_max_length=10**30)
    found = read(tmp_path)
    assert found.max_length == 64
    assert any("limits the input: 64 tokens" in note for note in map(str, found.notes))


def test_max_length_may_only_shorten(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    assert read(tmp_path, max_length=32).max_length == 32
    said = message(UsageError, tmp_path, max_length=65)
    assert "--max-length 65" in said
    assert "at most 64" in said
    assert "at least 5" in message(UsageError, tmp_path, max_length=4)


def test_big_bird_stays_below_block_sparse_attention(tmp_path: Path) -> None:
    settings = {"block_size": 4, "num_random_blocks": 1, "max_position_embeddings": 128}
    found = read(save(tmp_path, "BigBirdModel", tokenizer="unigram", **settings))
    assert found.max_length == (5 + 2 * 1) * 4
    assert found.config.attention_type == "original_full"
    said = next(note for note in map(str, found.notes) if "has attention_type block_sparse" in note)
    assert "up to 28 tokens" in said
    full = read(save(tmp_path / "f", "BigBirdModel", tokenizer="unigram", attention_type="original_full"))
    assert full.max_length == 64


def test_nystromformer_with_landmarks(tmp_path: Path) -> None:
    save(tmp_path, "NystromformerModel", num_landmarks=8, segment_means_seq_len=16)
    said = message(UnsupportedError, tmp_path)
    assert "num_landmarks 8" in said
    assert "padded to exactly 16" in said
