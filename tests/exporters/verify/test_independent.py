"""The finished graph against what Sentence-Transformers and peft give by themselves."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer

import bertonnx
from bertonnx.errors import MissingDependencyError, ParityError, UsageError
from bertonnx.exporters.checkpoint import embedding
from bertonnx.exporters.checkpoint.sentence_layers import Pool
from bertonnx.exporters.quiet import quiet
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.wording import COMMAND_LINE
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    encoder = save_tiny(folder / "encoder", task="feature-extraction")
    with quiet():
        made = SentenceTransformer(
            str(encoder),
            device="cpu",
            prompts={"query": "find: ", "document": ""},
            default_prompt_name="query",
        )
        made.save(str(folder / "made"))
    return folder / "made"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    base = save_tiny(folder / "base")
    with quiet():
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
        settings = peft.LoraConfig(
            task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False
        )
        peft.get_peft_model(model, settings).save_pretrained(str(folder / "made"))
    return folder / "made"


def export(source: Path, folder: Path, **options: Any) -> Card:
    folder.mkdir(exist_ok=True)
    return bertonnx.export(source, folder / "model.onnx", optimize="basic", **options).card


def test_embeddings_with_every_prompt(embedder: Path, tmp_path: Path) -> None:
    card = export(embedder, tmp_path, verify_with=["sentence-transformers"])
    assert card.parity is not None
    found = card.parity.independent["sentence-transformers"]
    # Ten texts, and three again with the prompt that is not empty.
    assert found.texts == 13
    assert 0 < found.max_abs_difference < 1e-4
    assert Card.from_json(card.to_json()) == card


@pytest.fixture
def unresolved() -> Iterator[None]:
    """Let what rows name be looked up anew, in the test and after it."""
    resolve.cache_clear()
    yield
    resolve.cache_clear()


# The order counts: what was changed is as it was before what rows name is forgotten again.
def test_what_this_exporter_misreads_is_found(
    unresolved: None,  # noqa: ARG001
    embedder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = embedding.planned_embedding
    layers = (Pool(modes=("cls",)),)
    # Misread, graph and PyTorch agree, for both are made of what was read.
    monkeypatch.setattr(
        embedding,
        "planned_embedding",
        lambda *a, **k: replace(planned(*a, **k), layers=layers, pooling="cls"),
    )
    monkeypatch.delenv("BERTONNX_VERIFY")
    assert export(embedder, tmp_path).pooling == "cls"
    for options in ({"verify_with": ["sentence-transformers"]}, {}):
        monkeypatch.setenv("BERTONNX_VERIFY", "1")
        with pytest.raises(ParityError) as caught:
            export(embedder, tmp_path / "x", **options)
        said = str(caught.value)
        assert "the exported graph and sentence-transformers 5" in said
        assert "disagree on sentence_embedding of the text 'Ada Lovelace wrote" in said
        assert not (tmp_path / "x" / "model.onnx").exists()


def test_scores_of_pairs(tmp_path: Path) -> None:
    save_tiny(tmp_path / "plain", labels=("score",))
    with quiet():
        CrossEncoder(str(tmp_path / "plain"), device="cpu").save_pretrained(str(tmp_path / "made"))
    card = export(tmp_path / "made", tmp_path)
    assert card.parity is not None
    assert card.parity.independent["sentence-transformers"].texts == 5


def test_an_adapter_unmerged(adapter: Path, tmp_path: Path) -> None:
    card = export(adapter, tmp_path)
    assert card.parity is not None
    assert card.parity.independent["peft"].texts == 10
    assert card.source["adapter"] == "LORA"
    assert card.saved_by["peft"] == peft.__version__
    assert {"adapter_config.json", "adapter_model.safetensors", "base/model.safetensors"} <= card.files.keys()
    assert str(card.source["base"]).endswith("base")
    encoder = export(adapter, tmp_path / "encoder", task="feature-extraction", verify_with=["peft"])
    assert encoder.parity is not None
    assert encoder.parity.independent["peft"].max_abs_difference < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("sentence-transformers", {"source": "tagger"}, "and this is token-classification"),
        (
            "sentence-transformers",
            {"task": "feature-extraction", "pooling": "max"},
            "and you chose otherwise",
        ),
        ("peft", {"source": "base"}, "holds no adapter"),
    ],
)
def test_what_cannot_be_checked(
    adapter: Path, tmp_path: Path, name: str, options: dict[str, Any], why: str
) -> None:
    source = adapter.parent / options.pop("source", "made")
    if not source.exists():
        save_tiny(source, task="token-classification")
    with pytest.raises(UsageError) as caught:
        export(source, tmp_path, verify_with=[name], **options)
    said = caught.value.worded(COMMAND_LINE)
    assert f"--verify-with {name} cannot check this export" in said
    assert why in said


def test_libraries_that_are_not_there(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="it can be sentence-transformers, peft"):
        export(adapter, tmp_path, verify_with=["keras"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as caught:
        export(adapter, tmp_path, verify_with=["sentence-transformers"])
    assert 'pip install "bertonnx[export]" sentence-transformers' in caught.value.worded(COMMAND_LINE)
