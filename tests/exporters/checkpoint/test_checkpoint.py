"""From a folder to a checkpoint: what is read, what is chosen, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError, SourceError, UnsupportedError, UsageError
from bertonnx.exporters.checkpoint.length import Limit, require_language
from bertonnx.exporters.options import Trust
from tests.checkpoints import SMALL, edit_json, edit_weights, message, read, save
from tests.tiny import save_tiny

# What is read


def test_a_classifier(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = {0: "bad", 1: "fair", 2: "good"}
    save(tmp_path, "BertForSequenceClassification", id2label=names, label2id={v: k for k, v in names.items()})
    found = read(tmp_path)
    assert (found.family, found.task) == ("bert", "text-classification")
    assert (found.labels, found.problem_type, found.activation) == (
        ("bad", "fair", "good"),
        "single_label_classification",
        "softmax",
    )
    assert (found.max_length, found.pad_token_id, found.truncation_side) == (64, 0, "right")
    assert found.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert (found.pooling, found.width, found.mask_token) == (None, None, None)
    assert not found.model.training
    assert found.config._attn_implementation == "eager"
    assert any("BertForSequenceClassification" in note for note in map(str, found.notes))
    assert capfd.readouterr() == ("", "")


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    wanted = load_file(tmp_path / "model.safetensors")["embeddings.word_embeddings.weight"]
    for dtype in (torch.float16, torch.bfloat16):

        def halve(tensors: dict[str, torch.Tensor], dtype: torch.dtype = dtype) -> dict[str, torch.Tensor]:
            return {name: tensor.to(dtype) for name, tensor in tensors.items()}

        edit_weights(tmp_path, halve)
        edit_json(tmp_path / "config.json", dtype=str(dtype).removeprefix("torch."))
        model = read(tmp_path).model
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        table: Any = model.get_input_embeddings()
        wanted = wanted.to(dtype)
        assert torch.equal(table.weight, wanted.float())


def test_sharded_safetensors(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    whole = read(tmp_path).model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.manual_seed(0)
    maker: Any = transformers.BertModel
    maker(maker.config_class(**SMALL)).save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    parts = read(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    next(tmp_path.glob("model-00002-*")).unlink()
    said = message(CheckpointError, tmp_path)
    assert "model-00002-of-" in said
    assert "is not there" in said


def test_pickled_weights_with_consent(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    model = read(tmp_path, trust=Trust(allow_pickle=True)).model
    assert torch.equal(model.state_dict()["encoder.layer.0.output.dense.weight"],
                       tensors["encoder.layer.0.output.dense.weight"])  # fmt: skip


@pytest.mark.parametrize(
    ("model_class", "task"),
    [
        ("BertModel", "feature-extraction"),
        ("BertForPreTraining", "fill-mask"),
        ("BertForMaskedLM", "fill-mask"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("BertForMultipleChoice", "feature-extraction"),
        ("ElectraForPreTraining", "feature-extraction"),
        ("ElectraForMaskedLM", "fill-mask"),
        ("XLMWithLMHeadModel", "fill-mask"),
        ("FlaubertWithLMHeadModel", "fill-mask"),
        ("FlaubertForQuestionAnsweringSimple", "question-answering"),
    ],
)
def test_the_task_comes_from_the_architecture(tmp_path: Path, model_class: str, task: str) -> None:
    found = read(save(tmp_path, model_class))
    assert found.task == task
    assert any(task in note and model_class in note for note in map(str, found.notes))


def test_no_architecture_means_features(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    edit_json(tmp_path / "config.json", architectures=None)
    found = read(tmp_path)
    assert found.task == "feature-extraction"
    assert any("no architecture" in note for note in map(str, found.notes))


def test_the_first_usable_of_several_architectures(tmp_path: Path) -> None:
    save(tmp_path, "BertForMaskedLM")
    edit_json(tmp_path / "config.json", architectures=["BertForNextSentencePrediction", "BertForMaskedLM"])
    assert read(tmp_path).task == "fill-mask"


def test_fill_mask_knows_its_mask(tmp_path: Path) -> None:
    found = read(save(tmp_path, "BertForMaskedLM"))
    assert found.mask_token == "[MASK]"
    assert found.mask_token_id == Tokenizer.from_str(found.tokenizer_text).token_to_id("[MASK]")


def test_the_pooler_may_be_missing_where_it_is_not_used(tmp_path: Path) -> None:
    save(tmp_path, "BertForMaskedLM")
    found = read(tmp_path, task="feature-extraction")
    assert found.task == "feature-extraction"
    assert any("cls.predictions" in note and "no use" in note for note in map(str, found.notes))


def test_foreign_weights_are_named_in_a_note(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    edit_weights(tmp_path, lambda tensors: {**tensors, "strange.thing.weight": torch.zeros(3)})
    assert any("strange.thing" in note for note in map(str, read(tmp_path).notes))


# Tasks that are refused


def test_an_unknown_task(tmp_path: Path) -> None:
    said = message(UsageError, save(tmp_path, "BertModel"), task="summarization")
    assert "--task summarization" in said
    assert "feature-extraction, text-classification" in said


def test_a_head_that_the_checkpoint_has_not(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    said = message(UnsupportedError, tmp_path, task="question-answering")
    assert "cannot serve question-answering" in said
    assert "qa_outputs.weight" in said
    assert said.endswith("--task feature-extraction or --task text-classification")


def test_classifiers_of_texts_and_of_tokens_are_told_apart(tmp_path: Path) -> None:
    # Their weights have the same names, so that the one loads as the other and answers nonsense.
    save(tmp_path, "BertForTokenClassification")
    said = message(UnsupportedError, tmp_path, task="text-classification")
    assert "its classifier is that of BertForTokenClassification" in said
    assert said.endswith("--task feature-extraction or --task token-classification")


def test_a_tied_head_is_found_missing_too(tmp_path: Path) -> None:
    said = message(UnsupportedError, save(tmp_path, "BertModel"), task="fill-mask")
    assert "cls.predictions.bias" in said
    assert said.endswith("--task feature-extraction")


def test_heads_that_share_layers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens: dict[str, Any] = {
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "cls_token_id": 3,
        "sep_token_id": 1,
    }
    save(tmp_path, "ModernBertForMaskedLM", **tokens)
    capfd.readouterr()
    said = message(UnsupportedError, tmp_path, task="text-classification")
    assert "(classifier.bias, classifier.weight)" in said
    assert said.endswith("--task feature-extraction, --task fill-mask or --task sparse-embedding")
    assert capfd.readouterr() == ("", "")


def test_a_head_of_which_a_part_is_missing(tmp_path: Path) -> None:
    save(tmp_path, "BertForMaskedLM")
    gone = "cls.predictions.transform.dense.weight"
    edit_weights(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if k != gone})
    for task in (None, "fill-mask"):
        assert f"fill-mask needs: {gone};" in message(CheckpointError, tmp_path, task=task)


@pytest.mark.parametrize("model_class", ["RoFormerForMaskedLM", "BigBirdForMaskedLM"])
def test_transformers_writes_nothing_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model_class: str
) -> None:
    save(tmp_path, model_class)
    capfd.readouterr()
    assert read(tmp_path).task == "fill-mask"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("asked", [None, "question-answering"])
def test_the_beam_search_head_of_xlm(tmp_path: Path, asked: str | None) -> None:
    said = message(UnsupportedError, save(tmp_path, "XLMForQuestionAnswering"), task=asked)
    assert "XLMForQuestionAnswering is the beam-search head" in said


def test_a_gap_of_the_family_table(tmp_path: Path) -> None:
    save(tmp_path, "EsmModel", tokenizer="bpe", position_embedding_type="rotary", pad_token_id=1)
    said = message(UnsupportedError, tmp_path, task="question-answering")
    assert "transformers has no such head for it" in said
    assert "--task feature-extraction, --task text-classification" in said


def test_inputs_of_the_tokenizer_that_no_file_can_hold(tmp_path: Path) -> None:
    save(tmp_path, "RoCBertForSequenceClassification")
    names = ["input_ids", "token_type_ids", "attention_mask", "input_shape_ids", "input_pronunciation_ids"]
    edit_json(tmp_path / "tokenizer_config.json", model_input_names=names)
    said = message(UnsupportedError, tmp_path)
    assert "roc_bert model makes input_pronunciation_ids and input_shape_ids too" in said


# Weights


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    gone = "bert.encoder.layer.1.attention.self.query.weight"
    edit_weights(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if k != gone})
    for task in (None, "text-classification", "feature-extraction"):
        said = message(CheckpointError, tmp_path, task=task)
        assert "lacks 1 weights" in said
        assert gone.removeprefix("bert.") in said


def test_a_head_that_config_promises_and_weights_lack(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    edit_weights(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if "classifier" not in k})
    said = message(CheckpointError, tmp_path)
    assert "classifier.bias, classifier.weight" in said
    assert "--task feature-extraction" in said


def test_only_a_few_missing_weights_are_named(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    edit_weights(
        tmp_path, lambda tensors: {f"own.{k}" if "layer.1" in k else k: v for k, v in tensors.items()}
    )
    said = message(CheckpointError, tmp_path)
    assert " and 12 more; it holds others that BertModel has not: own.encoder.layer.1." in said
    assert said.count("encoder.layer.1") == 8


def test_mismatched_shapes(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    edit_json(tmp_path / "config.json", intermediate_size=128)
    said = message(CheckpointError, tmp_path)
    assert "encoder.layer.0.intermediate.dense" in said
    assert "has shape (64," in said
    assert "config.json asks for (128," in said


def test_more_labels_than_the_head_has(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    edit_json(tmp_path / "config.json", id2label={"0": "a", "1": "b", "2": "c"}, label2id=None)
    said = message(CheckpointError, tmp_path)
    assert "id2label names 3 labels: a, b, c" in said
    assert "classifier.weight has shape (2, 32)" in said


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification", num_labels=3)
    edit_json(tmp_path / "config.json", id2label=None, label2id=None)
    said = message(CheckpointError, tmp_path)
    assert "config.json asks for (2,)" in said
    assert "(id2label is not there)" in said


def test_nan_in_the_weights(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    for value in (float("nan"), float("inf")):

        def damage(tensors: dict[str, torch.Tensor], value: float = value) -> dict[str, torch.Tensor]:
            tensors["encoder.layer.0.output.dense.bias"][3] = value
            return tensors

        edit_weights(tmp_path, damage)
        said = message(CheckpointError, tmp_path)
        assert "encoder.layer.0.output.dense.bias" in said
        assert "NaN or infinity" in said


def test_huge_numbers_are_numbers(tmp_path: Path) -> None:
    """Their sum is infinite."""
    save(tmp_path, "BertModel")
    name = "encoder.layer.0.output.dense.bias"

    def enlarge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[name][:] = 3e38
        return tensors

    edit_weights(tmp_path, enlarge)
    assert float(read(tmp_path).model.state_dict()[name].min()) > 2e38

    def damage(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[name][:2] = torch.tensor([float("inf"), float("-inf")])
        return tensors

    edit_weights(tmp_path, damage)
    assert name in message(CheckpointError, tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 200, 20_000])
def test_truncated_safetensors(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path, "BertModel") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    said = message(CheckpointError, tmp_path)
    assert str(path) in said
    assert "damaged or cut short" in said
    assert "download" in said


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("metadata", [{"made_by": "me"}, {"format": "np"}])
def test_safetensors_that_do_not_say_what_saved_them(
    tmp_path: Path, metadata: dict[str, str], shards: int
) -> None:
    """Version 5 of transformers reads them for what they are; version 4 refuses all metadata but its own."""
    tensors = load_file(save(tmp_path, "BertModel") / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    weight_map = {}
    for part in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-0000{part + 1}-of-00002.safetensors"
        held = dict(list(tensors.items())[part::shards])
        save_file(held, tmp_path / name, metadata=metadata)
        weight_map.update(dict.fromkeys(held, name))
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = read(tmp_path).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(("name", "library"), [("tf", "TensorFlow"), ("flax", "Flax")])
def test_safetensors_of_another_library(tmp_path: Path, name: str, library: str) -> None:
    path = save(tmp_path, "BertModel") / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": name})
    said = message(UnsupportedError, tmp_path)
    assert f"was saved by {library} (its metadata says format {name})" in said
    assert "from_pretrained('folder').save_pretrained('new')" in said
    assert "download" not in said


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    path = save(tmp_path, "BertModel") / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in message(CheckpointError, tmp_path)


def test_a_damaged_pickle(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle")
    said = message(CheckpointError, tmp_path, trust=Trust(allow_pickle=True))
    assert "cannot be read" in said


def test_a_config_with_values_of_the_wrong_kind(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    edit_json(tmp_path / "config.json", hidden_size="many")
    said = message(CheckpointError, tmp_path)
    # Version 5 of transformers looks at kinds itself.
    assert "cannot be used" in said or "no model can be made of config.json (TypeError: " in said


# Labels and activations


@pytest.mark.parametrize(
    ("settings", "problem_type", "activation"),
    [
        ({"num_labels": 3}, "single_label_classification", "softmax"),
        ({"num_labels": 1}, "regression", "sigmoid"),
        ({"num_labels": 1, "problem_type": "regression"}, "regression", "none"),
        ({"num_labels": 2, "problem_type": "regression"}, "regression", "none"),
        (
            {"num_labels": 4, "problem_type": "multi_label_classification"},
            "multi_label_classification",
            "sigmoid",
        ),
    ],
)
def test_activations_of_hugging_face(
    tmp_path: Path, settings: dict[str, Any], problem_type: str, activation: str
) -> None:
    found = read(save(tmp_path, "BertForSequenceClassification", **settings))
    assert (found.problem_type, found.activation) == (problem_type, activation)
    assert found.labels == tuple(f"LABEL_{i}" for i in range(settings["num_labels"]))


def test_token_classification_uses_softmax(tmp_path: Path) -> None:
    found = read(save(tmp_path, "BertForTokenClassification", num_labels=5))
    assert (found.activation, found.problem_type, len(found.labels)) == ("softmax", None, 5)


def test_doubled_labels(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    edit_json(tmp_path / "config.json", id2label={"0": "same", "1": "same"}, label2id=None)
    said = message(CheckpointError, tmp_path)
    assert "same label (same)" in said


def test_labels_with_a_gap(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    edit_json(tmp_path / "config.json", id2label={"0": "a", "2": "b"}, label2id=None)
    assert "count from 0" in message(CheckpointError, tmp_path)


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({}, None),
        ({"finetuning_task": "mrpc"}, True),
        ({"finetuning_task": "sst2"}, False),
        ({"id2label": {"0": "entailment", "1": "contradiction"}, "label2id": None}, True),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, True),
    ],
)
def test_text_pairs(tmp_path: Path, changes: dict[str, Any], pairs: bool | None) -> None:
    save(tmp_path, "BertForSequenceClassification")
    edit_json(tmp_path / "config.json", **changes)
    found = read(tmp_path)
    assert found.pairs is pairs


# Pooling


def test_plain_checkpoints_are_pooled_by_the_mean(tmp_path: Path) -> None:
    found = read(save(tmp_path, "BertModel"))
    assert (found.pooling, found.normalize, found.width, len(found.layers)) == ("mean", False, 32, 1)
    assert any("pooling and normalize" in note for note in map(str, found.notes))
    chosen = read(tmp_path, pooling="cls", normalize=True)
    assert (chosen.pooling, chosen.normalize) == ("cls", True)
    joined = read(tmp_path, pooling="mean,weightedmean")
    assert (joined.pooling, joined.width) == ("mean,weightedmean", 64)


def test_pooling_of_another_task(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    assert "--pooling is for feature-extraction" in message(UsageError, tmp_path, pooling="mean")
    assert "--normalize is for feature-extraction" in message(UsageError, tmp_path, normalize=False)
    assert "mean, cls, max, last" in message(UsageError, tmp_path, pooling="sum")


def test_the_model_gives_what_transformers_gives(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    ids = torch.tensor([[2, 10, 11, 3]])
    other: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.inference_mode():
        got = read(tmp_path).model(input_ids=ids).logits.numpy()
        wanted = other.eval()(input_ids=ids).logits.numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_sizes_beyond_any_memory_are_named_beside_those_of_the_weights(tmp_path: Path) -> None:
    # PyTorch's own words ("can't allocate memory") would have the user download the checkpoint again.
    folder = save(tmp_path / "m", "BertForSequenceClassification")
    edit_json(folder / "config.json", vocab_size=10**12)
    text = message(CheckpointError, folder)
    assert "word_embeddings.weight has shape (1300, 32), and config.json asks for (1000000000000, 32)" in text


@pytest.mark.parametrize("layers", [-1, 10**9])
def test_layers_that_no_encoder_has_are_refused_before_any_is_made(tmp_path: Path, layers: int) -> None:
    folder = save(tmp_path / "m", "BertForSequenceClassification")
    edit_json(folder / "config.json", num_hidden_layers=layers)
    assert f"config.json has num_hidden_layers {layers}" in message(CheckpointError, folder)


def test_a_key_of_a_wrong_kind_is_named(tmp_path: Path) -> None:
    save(tmp_path, "BertForSequenceClassification")
    edit_json(tmp_path / "config.json", hidden_size="32")
    assert "hidden_size" in message(CheckpointError, tmp_path)


def test_an_adaptive_softmax_has_no_logits(tmp_path: Path) -> None:
    save_tiny(tmp_path, "xlm", "fill-mask")
    edit_json(tmp_path / "config.json", asm=True)
    said = message(UnsupportedError, tmp_path)
    assert said.startswith("config.json has asm true, so it cannot be exported for fill-mask: its words are")
    assert said.endswith("with --task feature-extraction")
    assert read(tmp_path, task="feature-extraction").task == "feature-extraction"


def test_an_encoder_ranks_nothing(tmp_path: Path) -> None:
    save_tiny(tmp_path, "bert", "feature-extraction")
    said = message(UnsupportedError, tmp_path, task="text-ranking")
    assert "this checkpoint is BertModel, which has none; export it with --task feature-extraction" in said


def test_an_xmod_must_say_its_language() -> None:
    config: Any = SimpleNamespace(model_type="xmod", languages=["en_XX", "de_DE"], default_language=None)
    with pytest.raises(UnsupportedError, match=r"config.json has no default_language.*: en_XX, de_DE$"):
        require_language(config)
    config.default_language = "de_DE"
    assert require_language(config) == Limit()


@pytest.mark.parametrize("key", ["summary_use_proj", "summary_proj_to_labels"])
def test_a_summary_that_is_no_number_for_each_class(tmp_path: Path, key: str) -> None:
    changed: dict[str, Any] = {key: False}
    save_tiny(tmp_path, "xlm", "text-classification", **changed)
    said = message(UnsupportedError, tmp_path)
    assert said.startswith(f"config.json has {key} false, so it cannot be exported for text-classification: ")
    assert said.endswith("with --task feature-extraction")


@pytest.mark.parametrize("family", ["DebertaForMaskedLM", "DebertaV2ForMaskedLM"])
def test_a_head_that_version_4_cannot_fill(family: str, tmp_path: Path) -> None:
    folder = save(tmp_path, family, legacy=False, relative_attention=True)
    if transformers.__version__.startswith("4"):
        said = message(CheckpointError, folder)
        assert f"transformers {transformers.__version__} leaves the weights " in said
        assert 'pip install --upgrade "bertonnx[export]" transformers' in said
    else:
        assert read(folder).task == "fill-mask"


def test_code_of_its_own_runs_with_consent_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = save(tmp_path / "it", "BertModel")
    (folder / "modeling_doubled.py").write_text(
        "from transformers import BertConfig, BertModel\n\n"
        "class DoubledConfig(BertConfig):\n    model_type = 'doubled'\n\n"
        "class Doubled(BertModel):\n    config_class = DoubledConfig\n\n"
        "    def forward(self, *values, **names):\n        made = super().forward(*values, **names)\n"
        "        made.last_hidden_state = 2 * made.last_hidden_state\n        return made\n"
    )
    whole = read(folder)
    code = {"AutoConfig": "modeling_doubled.DoubledConfig", "AutoModel": "modeling_doubled.Doubled"}
    edit_json(folder / "config.json", model_type="doubled", auto_map=code)
    assert "brings its own Python code" in message(SourceError, folder)
    found = read(folder, trust=Trust(trust_remote_code=True), task="feature-extraction")
    # Its `forward` names no input.
    assert found.input_names == whole.input_names
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        doubled, plain = (each.model(input_ids=ids).last_hidden_state for each in (found, whole))
    torch.testing.assert_close(doubled, 2 * plain)
