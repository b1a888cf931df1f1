"""Folders of models with many vectors for a text: what is read of them, and what is refused by name."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bertonnx.errors import BertonnxError, CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.sentence_layers import Dense, Normalize
from bertonnx.models.retrieval import LateInteraction, Side
from tests.checkpoints import edit_json, edit_weights, message, read, save
from tests.retrieval import dense, write_folder

WIDTH = 32
MASK = {"skiplist_words": ["the", "a", "nosuchword"]}
TOKENS = {"module_input_name": "token_embeddings"}
PYLATE: Mapping[str, Any] = {
    "prompts": {},
    "similarity_fn_name": "MaxSim",
    "query_prefix": "the ",
    "document_prefix": "a",
    "query_length": 12,
    "document_length": 40,
    "attend_to_expansion_tokens": False,
    "skiplist_words": ["."],
    "do_query_expansion": True,
}


def native(
    folder: Path,
    options: Mapping[str, Any],
    mask: Mapping[str, Any] = MASK,
    projection: Mapping[str, Any] | None = None,
    encoder: tuple[str, Mapping[str, Any]] = ("BertModel", {}),
    **settings: Any,
) -> Path:
    name, sizes = encoder
    save(folder, name, **sizes)
    modules = [
        ("Transformer", options),
        ("Dense", projection or dense(WIDTH)),
        ("MultiVectorMask", mask),
        ("Normalize", TOKENS),
    ]
    write_folder(folder, "MultiVectorEncoder", modules, **settings)
    return folder


def pylate(folder: Path, **changes: Any) -> Path:
    save(folder, "BertModel")
    settings = {key: value for key, value in {**PYLATE, **changes}.items() if value is not ...}
    # It takes the longest input of the latest call along when it saves.
    modules = [
        ("Transformer", {"max_seq_length": 11}),
        ("PyLateDense", {**dense(WIDTH), "use_residual": False}),
    ]
    write_folder(folder, "ColBERT", modules, **settings)
    return folder


def stanford(folder: Path, metadata: Mapping[str, Any] | None = None) -> Path:
    save(folder, "BertModel")
    edit_json(folder / "config.json", architectures=["HF_ColBERT"])
    weight = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))
    edit_weights(
        folder, lambda w: {**{f"bert.{name}": value for name, value in w.items()}, "linear.weight": weight}
    )
    if metadata is not None:
        (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


def late_of(found: Checkpoint) -> LateInteraction:
    assert found.task == "multi-vector"
    assert found.late is not None
    return found.late


def ids_of(folder: Path, *tokens: str) -> tuple[int, ...]:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return tuple(sorted(vocabulary[token] for token in tokens if token in vocabulary))


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    expansion = {"strategy": "min", "length": 10, "attend": True, "token": "[SEP]"}
    options = {"query_expansion": expansion, "query_length": 20, "document_length": 50}
    prompts = {"query": "find: ", "document": ""}
    found = read(native(tmp_path, options, similarity_fn_name="meanmaxsim", prompts=prompts))
    late = late_of(found)
    assert (late.width, late.mean, found.max_length, found.default_prompt) == (16, True, 50, "document")
    (end,) = ids_of(tmp_path, "[SEP]")
    assert late.sides["query"] == Side(max_length=20, expanded=10, filler=end, attended=True)
    assert late.sides["document"] == Side(max_length=50, skipped=ids_of(tmp_path, "the", "a"))
    assert [type(layer) for layer in found.layers] == [Dense, Normalize]
    assert found.prompts == prompts


def test_where_nothing_is_filled_up(tmp_path: Path) -> None:
    late = late_of(read(native(tmp_path, {}, {"skiplist_words": ["the"], "skiplist_tasks": ["query"]})))
    assert late.sides == {"query": Side(skipped=ids_of(tmp_path, "the")), "document": Side()}


def test_a_folder_of_pylate(tmp_path: Path) -> None:
    found = read(pylate(tmp_path))
    late = late_of(found)
    (mask,) = ids_of(tmp_path, "[MASK]")
    (query,), (document,) = ids_of(tmp_path, "the"), ids_of(tmp_path, "a")
    assert late.sides["query"] == Side(max_length=12, marker=query, expanded=12, filler=mask)
    assert late.sides["document"] == Side(max_length=40, marker=document, skipped=ids_of(tmp_path, "."))
    # Its list of modules ends before vectors are normalized.
    assert isinstance(found.layers[-1], Normalize)
    assert found.max_length == 40


def test_pylate_before_it_had_a_name(tmp_path: Path) -> None:
    pylate(tmp_path, do_query_expansion=False, skiplist_words=..., document_prefix="")
    edit_json(tmp_path / "config_sentence_transformers.json", model_type=None)
    sides = late_of(read(tmp_path)).sides
    assert (sides["query"].expanded, sides["query"].max_length) == (None, 12)
    assert sides["document"].marker is None
    assert sides["document"].skipped == ids_of(tmp_path, *string.punctuation)


def test_documents_of_another_length(tmp_path: Path) -> None:
    found = read(pylate(tmp_path), max_length=60)
    assert (found.max_length, late_of(found).sides["document"].max_length) == (60, None)
    assert late_of(found).sides["query"].max_length == 12


def test_a_checkpoint_of_stanford(tmp_path: Path) -> None:
    said = {"query_maxlen": 24, "doc_maxlen": 40, "attend_to_mask_tokens": True, "mask_punctuation": False}
    tokens = {"query_token_id": "the", "doc_token_id": "a", "dim": 8, "lr": 1e-5}
    found = read(stanford(tmp_path, {**said, **tokens}))
    late = late_of(found)
    (mask,), (query,), (document,) = (ids_of(tmp_path, token) for token in ("[MASK]", "the", "a"))
    asked = Side(max_length=24, marker=query, expanded=24, filler=mask, attended=True)
    assert late.sides == {"query": asked, "document": Side(max_length=40, marker=document)}
    assert late.width == 8
    assert not any("linear.weight" in str(note) for note in found.notes)


REFUSED: Mapping[str, tuple[type[BertonnxError], Mapping[str, Any], str]] = {
    "marker": (CheckpointError, {}, "the tokenizer has no token '[unused0]', which marks a side"),
    "width": (CheckpointError, {"dim": 128}, "dim 128, and linear.weight makes vectors of 8 numbers"),
    "distance": (UnsupportedError, {"similarity": "l2"}, "similarity 'l2', and bertonnx follows cosine"),
    "rectified": (UnsupportedError, {"relu": True}, "relu True"),
    "unknown key": (CheckpointError, {"temperature": 3}, "artifact.metadata has temperature 3"),
    "length": (CheckpointError, {"query_maxlen": 2}, "query_maxlen 2, which leaves no room for text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_stanford_checkpoints_that_are_refused(name: str, tmp_path: Path) -> None:
    kind, metadata, why = REFUSED[name]
    assert why in message(kind, stanford(tmp_path, metadata))


def test_a_projection_that_is_missing(tmp_path: Path) -> None:
    stanford(tmp_path)
    edit_weights(tmp_path, lambda w: {name: value for name, value in w.items() if name != "linear.weight"})
    assert "have no linear.weight, which projects vectors" in message(CheckpointError, tmp_path)


def test_a_projection_of_another_width(tmp_path: Path) -> None:
    said = message(CheckpointError, native(tmp_path, {}, projection=dense(48)))
    assert "the module Dense reads 48 values, and the step before it gives 32" in said


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"query_expansion": {"strategy": "any", "length": 9}}, "whose strategy is none of fixed, min"),
        ({"query_expansion": {"strategy": "fixed", "length": 9, "side": 1}}, "query_expansion.side 1"),
        ({"query_expansion": {"strategy": "fixed", "length": 900}}, "filled up to 900 tokens, and the model"),
        ({"query_expansion": {"strategy": "min", "length": 9, "token": "§§"}}, "no token '§§', which fills"),
        ({"document_length": 0}, "document_length 0, which leaves no room"),
        ({"passage_length": 9}, "passage_length 9"),
    ],
)
def test_options_that_are_refused(options: Mapping[str, Any], why: str, tmp_path: Path) -> None:
    assert why in message(CheckpointError, native(tmp_path, options))


@pytest.mark.parametrize(
    ("length", "attend", "every", "refused"),
    [(11, False, 3, True), (10, False, 3, False), (11, True, 3, False), (11, False, 1, False)],
)
def test_fillers_that_see_no_token_of_a_query(
    length: int, attend: bool, every: int, refused: bool, tmp_path: Path
) -> None:
    # The text is [CLS] and [SEP]: of 11 tokens the last is 9 behind it, and a layer sees 8.
    sizes = {"local_attention": 16, "global_attn_every_n_layers": every, "pad_token_id": 0}
    expansion = {"strategy": "min", "length": length, "attend": attend}
    native(tmp_path, {"query_expansion": expansion}, encoder=("ModernBertModel", sizes))
    if refused:
        said = message(UnsupportedError, tmp_path)
        assert "11 tokens that none attends to" in said
        assert "a query_length of at most 10" in said
    else:
        assert late_of(read(tmp_path)).sides["query"].expanded == length


def test_documents_that_are_pictures(tmp_path: Path) -> None:
    said = message(UnsupportedError, native(tmp_path, {}, {"keep_only_token_ids": [7]}))
    assert "has keep_only_token_ids [7]" in said


def test_a_checkpoint_without_a_projection(tmp_path: Path) -> None:
    said = message(UnsupportedError, save(tmp_path, "BertModel"), task="colbert")
    assert "it has no weights that project vectors of tokens; what can are folders of" in said


def test_a_key_that_nobody_reads(tmp_path: Path) -> None:
    assert "has query_suffix " in message(CheckpointError, pylate(tmp_path, query_suffix="?"))
