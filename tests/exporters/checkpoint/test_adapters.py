"""PEFT adapters, against peft's own forward with the adapter unmerged."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from bertonnx.errors import CheckpointError, MissingDependencyError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.adapters import Adapter
from bertonnx.exporters.checkpoint.merging import merge
from bertonnx.exporters.options import Trust
from bertonnx.exporters.quiet import quiet
from bertonnx.models.tasks import task as task_named
from tests.checkpoints import edit_json, make, message, read
from tests.tiny import save_tiny

TARGETS = ["query", "value"]


def trained(
    folder: Path,
    base: Path,
    settings: peft.PeftConfig,
    *,
    auto_class: str = "AutoModelForSequenceClassification",
    **changes: Any,
) -> Any:
    """Save an adapter whose every weight is random, as after training; return peft's model of it."""
    torch.manual_seed(0)
    with quiet():
        maker: Any = getattr(transformers, auto_class)
        model = peft.get_peft_model(maker.from_pretrained(base, **changes), settings)
        for parameter in model.parameters():
            if parameter.requires_grad:
                # What is 0 at first would leave the model as it was.
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(str(folder))
    return model.eval()


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "task_type": "SEQ_CLS", "target_modules": TARGETS, **settings})


def merged(folder: Path, base: Path) -> Any:
    """Return a classifier with an adapter merged."""
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    settings = json.loads((folder / "adapter_config.json").read_text())
    return merge(Adapter(folder, settings, base, str(base)), model)


def answers(model: Any) -> list[np.ndarray]:
    """Return what a model gives for two texts of random ids."""
    ids = torch.randint(0, 1000, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return [value.numpy() for value in found.values() if isinstance(value, torch.Tensor)]


def assert_same(model: Any, reference: Any) -> None:
    for got, wanted in zip(answers(model), answers(reference), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.fixture(scope="module")
def classifier_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "classifier")


@pytest.fixture(scope="module")
def encoder_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "encoder", task="feature-extraction")


LORA: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True, "lora_alpha": 3},
    "weight-decomposed": {"use_dora": True},
    "biases": {"bias": "all"},
    "biases of its own": {"bias": "lora_only"},
    "some layers": {"layers_to_transform": [1]},
    "ranks": {"rank_pattern": {"layer.0.*query": 2}, "alpha_pattern": {"value": 5}},
    "embeddings": {"target_modules": ["word_embeddings", "dense"]},
    "a pooler": {"modules_to_save": ["pooler"]},
    "single tokens": {"trainable_token_indices": {"word_embeddings": [5, 6]}},
    "biased": {"lora_bias": True},
    "principal components": {"init_lora_weights": "pissa"},
}


@pytest.mark.parametrize("kind", LORA)
def test_lora(tmp_path: Path, classifier_base: Path, kind: str) -> None:
    reference = trained(tmp_path, classifier_base, lora(**LORA[kind]))
    assert_same(merged(tmp_path, classifier_base), reference)


OTHERS: Mapping[str, Callable[..., peft.PeftConfig]] = {
    "IA3": lambda **more: peft.IA3Config(target_modules=TARGETS, feedforward_modules=[], **more),
    "LOHA": lambda **more: peft.LoHaConfig(r=2, target_modules=TARGETS, **more),
    "LOKR": lambda **more: peft.LoKrConfig(r=2, target_modules=TARGETS, **more),
    "OFT": lambda **more: peft.OFTConfig(oft_block_size=8, r=0, target_modules=TARGETS, **more),
    "BOFT": lambda **more: peft.BOFTConfig(boft_block_size=4, target_modules=TARGETS, **more),
    "VERA": lambda **more: peft.VeraConfig(r=4, target_modules=TARGETS, **more),
    "FOURIERFT": lambda **more: peft.FourierFTConfig(n_frequency=20, target_modules=TARGETS, **more),
    "HRA": lambda **more: peft.HRAConfig(r=2, target_modules=TARGETS, **more),
    "LN_TUNING": lambda **more: peft.LNTuningConfig(target_modules=["LayerNorm"], **more),
    "ADALORA": lambda **more: peft.AdaLoraConfig(
        target_modules=TARGETS, total_step=10, init_r=4, target_r=2, **more
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds(tmp_path: Path, classifier_base: Path, kind: str) -> None:
    reference = trained(tmp_path, classifier_base, OTHERS[kind](task_type="SEQ_CLS"))
    assert_same(merged(tmp_path, classifier_base), reference)


def test_a_kind_that_depends_on_the_text_is_refused(tmp_path: Path, classifier_base: Path) -> None:
    with quiet():
        trained(tmp_path, classifier_base, lora(alora_invocation_tokens=[5, 6]))
    with pytest.raises(UnsupportedError, match="LORA adapter"):
        merged(tmp_path, classifier_base)


def test_merging_that_changes_answers_is_refused(
    tmp_path: Path, classifier_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, classifier_base, lora())
    # As a kind that peft merges in part would.
    monkeypatch.setattr(peft.tuners.lora.Linear, "merge", lambda *_, **__: None)
    with pytest.raises(UnsupportedError, match="changes what the model computes"):
        merged(tmp_path, classifier_base)


def test_a_base_model_beside_an_adapter_in_half_precision(tmp_path: Path, classifier_base: Path) -> None:
    with quiet():
        half = transformers.AutoModelForSequenceClassification.from_pretrained(classifier_base).half()
        half.save_pretrained(tmp_path)
    reference = trained(tmp_path, classifier_base, lora())
    shutil.copy(classifier_base / "tokenizer.json", tmp_path)
    shutil.copy(classifier_base / "tokenizer_config.json", tmp_path)
    found, wanted = answers(read(tmp_path).model)[0], answers(reference)[0]
    np.testing.assert_allclose(found, wanted, atol=2e-2)


@pytest.mark.parametrize("named", [True, False])
def test_an_adapter_beside_its_base_model(tmp_path: Path, classifier_base: Path, *, named: bool) -> None:
    shutil.copytree(classifier_base, tmp_path, dirs_exist_ok=True)
    reference = trained(tmp_path, classifier_base, lora())
    # What it was trained on is often a folder of another machine.
    edit_json(tmp_path / "adapter_config.json", base_model_name_or_path=str(tmp_path) if named else "/gone/x")
    checkpoint = read(tmp_path)
    assert_same(checkpoint.model, reference)
    assert checkpoint.labels == ("negative", "neutral", "positive")
    note = f"the LORA adapter in {tmp_path.name} is merged into the weights beside it"
    assert note in map(str, checkpoint.notes)


def test_weights_beside_an_adapter_that_hold_it_already(tmp_path: Path, classifier_base: Path) -> None:
    model = trained(tmp_path, classifier_base, lora())
    for name, parameter in model.named_parameters():
        # As little as training may change weights.
        if "lora_B" in name:
            parameter.data *= 1e-3
    model.save_pretrained(str(tmp_path))
    model.merge_and_unload().save_pretrained(tmp_path)
    said = message(CheckpointError, tmp_path)
    assert f"not those of the base model {classifier_base}" in said
    assert "remove adapter_config.json" in said


def test_a_base_model_relative_to_the_adapter(tmp_path: Path, classifier_base: Path) -> None:
    shutil.copytree(classifier_base, tmp_path / "model")
    reference = trained(tmp_path / "adapter", classifier_base, lora())
    edit_json(
        tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="../model", revision="main"
    )
    checkpoint = read(tmp_path / "adapter")
    assert_same(checkpoint.model, reference)
    assert checkpoint.source.adapter is not None
    assert checkpoint.source.adapter.base_id == "../model"


@pytest.mark.parametrize("base", ["/no/such/folder", "", "."])
def test_a_base_model_that_cannot_be_had(tmp_path: Path, classifier_base: Path, base: str) -> None:
    trained(tmp_path, classifier_base, lora())
    edit_json(tmp_path / "adapter_config.json", base_model_name_or_path=base)
    with pytest.raises((SourceError, CheckpointError)) as caught:
        read(tmp_path)
    said = str(caught.value)
    assert f"{tmp_path} is a PEFT adapter of {base!r}" in said
    assert f"base_model_name_or_path of {tmp_path / 'adapter_config.json'}" in said


TASKS: Mapping[str, tuple[str, str]] = {
    "feature-extraction": ("FEATURE_EXTRACTION", "AutoModel"),
    "text-classification": ("SEQ_CLS", "AutoModelForSequenceClassification"),
    "token-classification": ("TOKEN_CLS", "AutoModelForTokenClassification"),
    "question-answering": ("QUESTION_ANS", "AutoModelForQuestionAnswering"),
}


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_the_head_is_the_adapters_own(tmp_path: Path, encoder_base: Path, task: str, *, typed: bool) -> None:
    kind, auto_class = TASKS[task]
    row = task_named(task)
    settings = lora(task_type=kind if typed else None)
    if not typed and row.labelled:
        settings.modules_to_save = ["classifier"]
    elif not typed and row.pair_is_cut:
        settings.modules_to_save = ["qa_outputs"]
    labels = {"num_labels": 5} if row.labelled else {}
    reference = trained(tmp_path, encoder_base, settings, auto_class=auto_class, **labels)
    checkpoint = read(tmp_path)
    assert checkpoint.task == task
    assert checkpoint.labels == (tuple(f"LABEL_{i}" for i in range(5)) if row.labelled else ())
    if row.raw_outputs == ("last_hidden_state",):
        # The pooler of transformers' own model is random, and no task reads it.
        found, wanted = (model(torch.tensor([[2, 5, 6, 3]]))[0] for model in (checkpoint.model, reference))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    else:
        assert_same(checkpoint.model, reference)


def test_segments_that_peft_does_not_hand_on(tmp_path: Path, encoder_base: Path) -> None:
    kinds = ("QUESTION_ANS", "TOKEN_CLS")
    for kind, task in zip(kinds, ("question-answering", "token-classification"), strict=True):
        folder = tmp_path / kind
        folder.mkdir()
        reference = trained(folder, encoder_base, lora(task_type=kind), auto_class=TASKS[task][1])
        found = read(folder)
        ids, segments = torch.tensor([[2, 5, 6, 3, 7, 3]]), torch.tensor([[0, 0, 0, 0, 1, 1]])
        given = {"token_type_ids": segments} if "token_type_ids" in found.input_names else {}
        with torch.no_grad():
            wanted = reference(input_ids=ids, token_type_ids=segments)[0]
            torch.testing.assert_close(found.model(input_ids=ids, **given)[0], wanted, atol=1e-4, rtol=0)
        said = "\n".join(map(str, found.notes))
        assert ("token_type_ids is not read: peft hands none on" in said) == (not given)


def test_names_of_labels_beside_the_adapter(tmp_path: Path, encoder_base: Path) -> None:
    reference = trained(tmp_path, encoder_base, lora(), num_labels=2)
    reference.config.id2label = {0: "no", 1: "yes"}
    reference.config.label2id = {"no": 0, "yes": 1}
    reference.config.save_pretrained(tmp_path)
    assert read(tmp_path).labels == ("no", "yes")
    edit_json(tmp_path / "config.json", id2label={"0": "no", "1": "yes", "2": "?"}, label2id=None)
    assert "a head of 2 labels" in message(CheckpointError, tmp_path)
    edit_json(tmp_path / "config.json", hidden_act="relu")
    assert "hidden_act 'relu'" in message(CheckpointError, tmp_path)


def test_tasks_that_an_adapter_cannot_serve(tmp_path: Path, classifier_base: Path) -> None:
    trained(tmp_path, classifier_base, lora())
    said = message(UnsupportedError, tmp_path, task="fill-mask")
    assert "was trained for text-classification" in said
    assert "--task text-classification or --task feature-extraction" in said
    edit_json(tmp_path / "adapter_config.json", task_type="CAUSAL_LM")
    said = message(UnsupportedError, tmp_path)
    assert "task_type CAUSAL_LM" in said
    assert "--task fill-mask" in said


def test_an_encoder_out_of_an_adapted_classifier(tmp_path: Path, classifier_base: Path) -> None:
    reference = trained(tmp_path, classifier_base, lora())
    checkpoint = read(tmp_path, task="feature-extraction")
    assert_same(checkpoint.model, reference.base_model.model.bert)


def test_a_head_that_stays_with_the_base_model(tmp_path: Path, classifier_base: Path) -> None:
    with quiet():
        torch.manual_seed(0)
        model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(classifier_base)
        try:
            model.add_adapter(lora(init_lora_weights=False))
        except ValueError as error:
            pytest.skip(f"transformers wants another peft: {error}")
        model.save_pretrained(tmp_path)
    assert not any("classifier" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    checkpoint = read(tmp_path)
    assert_same(checkpoint.model, model.eval())
    assert checkpoint.labels == ("negative", "neutral", "positive")


def test_weights_that_nobody_saved(tmp_path: Path) -> None:
    # Its pooler is made at random for a classifier, and peft keeps the classifier alone.
    base = save_tiny(tmp_path / "base", task="fill-mask")
    trained(tmp_path / "adapter", base, lora(), num_labels=2)
    said = message(CheckpointError, tmp_path / "adapter")
    assert "holds bert.pooler.dense.bias, bert.pooler.dense.weight" in said
    assert "train again with bert.pooler.dense in modules_to_save" in said
    assert "--task feature-extraction" in said
    assert read(tmp_path / "adapter", task="feature-extraction").task == "feature-extraction"


def test_tokens_that_were_added_before_training(tmp_path: Path, classifier_base: Path) -> None:
    own = transformers.AutoTokenizer.from_pretrained(classifier_base)
    own.add_tokens(["<new>"])
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier_base)
        model.resize_token_embeddings(len(own))
        reference: Any = peft.get_peft_model(model, lora(modules_to_save=["word_embeddings"]))
        reference.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    checkpoint = read(tmp_path)
    assert "<new>" in checkpoint.tokenizer_text
    assert_same(checkpoint.model, reference.eval())
    assert checkpoint.config.vocab_size == len(own)


def test_a_key_that_peft_does_not_know(tmp_path: Path, classifier_base: Path) -> None:
    trained(tmp_path, classifier_base, lora())
    edit_json(tmp_path / "adapter_config.json", use_magic=True, use_nothing=[])
    said = message(CheckpointError, tmp_path)
    assert "adapter_config.json has use_magic true, which peft" in said
    assert "--ignore-key use_magic" in said
    assert 'pip install --upgrade "bertonnx[export,adapters]"' in said
    checkpoint = read(tmp_path, ignore_keys=("use_magic",))
    assert checkpoint.ignored_keys == ("adapter_config.json: use_magic",)


def test_weights_that_do_not_fit(tmp_path: Path, classifier_base: Path) -> None:
    trained(tmp_path, classifier_base, lora())
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    first = sorted(tensors)[0]
    save_file({**tensors, "base_model.model.bert.other.lora_A.weight": torch.ones(2, 2)}, file)
    assert "1 of its weights have no place there (base_model.model.bert.other" in message(
        CheckpointError, tmp_path
    )
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, file)
    assert "and 1 are missing" in message(CheckpointError, tmp_path)
    save_file({**tensors, first: torch.ones(3, 3)}, file)
    assert "peft cannot apply the LORA adapter" in message(CheckpointError, tmp_path)
    save_file({**tensors, first: torch.full_like(tensors[first], float("nan"))}, file)
    assert "peft cannot merge" in message(UnsupportedError, tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    assert "adapter's weights" in message(CheckpointError, tmp_path)


def test_pickled_adapters_need_consent(tmp_path: Path, classifier_base: Path) -> None:
    reference = trained(tmp_path, classifier_base, lora())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    said = message(SourceError, tmp_path)
    assert "adapter_model.bin" in said
    assert "--allow-pickle" in said
    assert_same(read(tmp_path, trust=Trust(allow_pickle=True)).model, reference)


def test_without_peft(tmp_path: Path, classifier_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, classifier_base, lora())
    monkeypatch.setitem(sys.modules, "peft", None)
    said = message(MissingDependencyError, tmp_path)
    assert "is a PEFT adapter (LORA)" in said
    assert 'pip install "bertonnx[export,adapters]"' in said


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"])
def test_prompts_cannot_be_merged(tmp_path: Path, kind: str) -> None:
    make(tmp_path, adapter_config__json=json.dumps({"peft_type": kind}), adapter_model__safetensors="x")
    assert f"is a {kind} adapter: it adds virtual tokens" in message(UnsupportedError, tmp_path)


def test_kinds_that_are_unknown(tmp_path: Path) -> None:
    make(tmp_path, adapter_config__json='{"peft_type": "NEWEST"}', adapter_model__safetensors="x")
    assert "is a NEWEST adapter, which peft" in message(UnsupportedError, tmp_path)
    make(tmp_path, adapter_config__json='{"config": {"r": 8}, "model_type": "bert"}')
    assert "names no peft_type, as one of AdapterHub's library adapters" in message(
        UnsupportedError, tmp_path
    )


def test_a_base_model_that_is_another_at_each_load(tmp_path: Path, classifier_base: Path) -> None:
    trained(tmp_path, classifier_base, lora(init_lora_weights="pissa"))
    assert read(tmp_path).task == "text-classification"
    # peft then takes random numbers to find the principal components by.
    edit_json(tmp_path / "adapter_config.json", init_lora_weights="pissa_niter_4")
    said = message(CheckpointError, tmp_path)
    assert (
        'adapter_config.json has init_lora_weights "pissa_niter_4", by which peft takes approximate' in said
    )
    assert "save it as a plain LoRA" in said


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_an_adapter_in_a_sentence_transformers_folder(tmp_path: Path, encoder_base: Path, place: str) -> None:
    with quiet():
        embedder: Any = SentenceTransformer(str(encoder_base), device="cpu")
        try:
            embedder.add_adapter(lora(task_type="FEATURE_EXTRACTION", init_lora_weights=False))
        except ValueError as error:
            pytest.skip(f"transformers wants another peft: {error}")
        embedder.save(str(tmp_path))
    if place:
        # As versions before 2 laid it out.
        (tmp_path / place).mkdir()
        for file in tmp_path.glob("*"):
            if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
                file.rename(tmp_path / place / file.name)
        modules = json.loads((tmp_path / "modules.json").read_text())
        (tmp_path / "modules.json").write_text(json.dumps([{**modules[0], "path": place}, *modules[1:]]))
    checkpoint = read(tmp_path)
    assert (checkpoint.task, checkpoint.pooling) == ("feature-extraction", "mean")
    ids = torch.tensor([[2, 17, 25, 40, 3]])
    embedder.eval()
    with torch.no_grad():
        wanted = embedder[0].auto_model(input_ids=ids)[0]
        found = checkpoint.model(input_ids=ids)[0]
        base = transformers.AutoModel.from_pretrained(encoder_base)(input_ids=ids)[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert float((base - wanted).abs().max()) > 0.1


def test_a_fine_tuned_sentiment_model_with_an_adapter(tmp_path: Path) -> None:
    shared = os.environ.get("BERTONNX_SHARED")
    if shared is None:
        pytest.skip("real models are needed: set BERTONNX_SHARED to a folder with models/ and data/")
    base = Path(shared) / "models" / "sst2-minilm"
    with quiet():
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            base, torch_dtype=torch.float32
        )
        settings = peft.LoraConfig(r=8, target_modules=TARGETS, init_lora_weights=False)
        peft.get_peft_model(model, settings).save_pretrained(str(tmp_path))
    for file in base.iterdir():
        (tmp_path / file.name).symlink_to(file)
    own = transformers.AutoTokenizer.from_pretrained(base)
    logits = read(tmp_path).model(**own("the plot is thin but the actors shine", return_tensors="pt")).logits
    assert logits.softmax(-1).tolist()[0] == pytest.approx([0.893, 0.107], abs=5e-4)
