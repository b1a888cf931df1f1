"""Folders of sparse encoders: what is read of them, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bertonnx.errors import BertonnxError, CheckpointError, UnsupportedError, UsageError
from bertonnx.exporters.checkpoint.sentence_layers import Splade
from tests.checkpoints import message, read, save
from tests.retrieval import write_folder

MASKED = {"transformer_task": "fill-mask"}


def folder_of(
    folder: Path, pooling: Mapping[str, Any], options: Mapping[str, Any] = MASKED, **settings: Any
) -> Path:
    save(folder, "BertForMaskedLM")
    write_folder(folder, "SparseEncoder", [("Transformer", options), ("SpladePooling", pooling)], **settings)
    return folder


def test_what_a_folder_says(tmp_path: Path) -> None:
    pooling = {"pooling_strategy": "sum", "activation_function": "log1p_relu", "embedding_dimension": 1300}
    prompts = {"query": "find: ", "document": ""}
    folder = folder_of(tmp_path, pooling, max_active_dims=16, prompts=prompts, similarity_fn_name="dot")
    found = read(folder)
    (layer,) = found.layers
    assert isinstance(layer, Splade)
    assert (layer.strategy, layer.saturation) == ("sum", "log1p_relu")
    assert (found.task, found.traced, found.width) == ("sparse-embedding", "sparse-embedding", None)
    assert found.sparse is not None
    assert found.sparse.most == 16
    assert (found.prompts, found.similarity) == (prompts, "dot")
    notes = "\n".join(map(str, found.notes))
    assert "task sparse-embedding, because it is a SparseEncoder" in notes
    assert "the 16 heaviest words of a text are kept" in notes


def test_what_older_versions_wrote(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, {"pooling_strategy": "max", "word_embedding_dimension": None}, {"max_seq_length": 32}
    )
    text = (folder / "modules.json").read_text()
    old = text.replace("base.modules.transformer.Transformer", "sparse_encoder.models.MLMTransformer")
    (folder / "modules.json").write_text(old)
    found = read(folder)
    assert (found.task, found.max_length) == ("sparse-embedding", 32)


def test_a_masked_model_without_modules(tmp_path: Path) -> None:
    found = read(save(tmp_path, "BertForMaskedLM"), task="SPLADE")
    (layer,) = found.layers
    assert isinstance(layer, Splade)
    assert (layer.strategy, layer.saturation) == ("max", "relu")
    assert "the checkpoint does not say" in "\n".join(map(str, found.notes))
    # Nothing says of the same checkpoint that it embeds.
    assert read(tmp_path).task == "fill-mask"


REFUSED: Mapping[str, tuple[type[BertonnxError], Mapping[str, Any], str]] = {
    "strategy": (UnsupportedError, {"pooling_strategy": "mean"}, "SpladePooling mean cannot be exported"),
    "activation": (UnsupportedError, {"activation_function": "tanh"}, "one of relu, log1p_relu can"),
    "size": (CheckpointError, {"embedding_dimension": 30522}, "30522 words, and config.json has vocab_size"),
    "kind of size": (CheckpointError, {"embedding_dimension": "all"}, "which is no number of words"),
    "unknown key": (CheckpointError, {"temperature": 2}, "1_SpladePooling/config.json has temperature 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_poolings_that_are_refused(name: str, tmp_path: Path) -> None:
    kind, pooling, why = REFUSED[name]
    assert why in message(kind, folder_of(tmp_path, pooling))


@pytest.mark.parametrize("value", [0, -1, True, "all"])
def test_a_wrong_number_of_words(value: object, tmp_path: Path) -> None:
    said = message(CheckpointError, folder_of(tmp_path, {}, max_active_dims=value))
    assert f"max_active_dims {value!r}, which is no number of values" in said


def test_a_transformer_that_gives_no_words(tmp_path: Path) -> None:
    said = message(UnsupportedError, folder_of(tmp_path, {}, {}))
    assert "gives vectors for each token, where logits of words are wanted" in said


def test_a_model_without_its_head(tmp_path: Path) -> None:
    save(tmp_path, "BertModel")
    write_folder(tmp_path, "SparseEncoder", [("Transformer", MASKED), ("SpladePooling", {})])
    assert "weights that sparse-embedding needs: cls." in message(CheckpointError, tmp_path)
    (tmp_path / "modules.json").unlink()
    said = message(UnsupportedError, tmp_path, task="sparse-embedding")
    assert "cannot serve sparse-embedding: it has no weights for that head" in said


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("SparseStaticEmbedding", "it looks weights of words up in a table"),
        ("Router", "their folders are named in router_config.json"),
        ("SparseAutoEncoder", "turns a finished embedding into a sparse one"),
        ("Pooling", "it is a module of another kind of model"),
    ],
)
def test_modules_that_are_refused(module: str, why: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {})
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = f"sentence_transformers.sparse_encoder.modules.{module}"
    (folder / "modules.json").write_text(json.dumps(modules))
    said = message(UnsupportedError, folder)
    assert f"module {module} cannot be exported: " in said
    assert why in said


def test_the_module_that_no_model_can_have_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {})
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.sentence_transformer.modules.Pooling"
    place = "sentence_transformers.sparse_encoder.modules.SparseAutoEncoder"
    modules.append({"idx": 2, "name": "2", "path": "2_SparseAutoEncoder", "type": place})
    (folder / "modules.json").write_text(json.dumps(modules))
    assert "module SparseAutoEncoder cannot be exported" in message(UnsupportedError, folder)


def test_tasks_that_its_folder_does_not_serve(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {})
    said = message(UnsupportedError, folder, task="feature-extraction")
    assert "is a SparseEncoder, which cannot be exported for feature-extraction; what can" in said
    assert "--task sparse-embedding" in said
    # What its transformer's head is for is another thing.
    assert read(folder, task="fill-mask").task == "fill-mask"


def test_options_of_other_embeddings(tmp_path: Path) -> None:
    assert "--pooling is for feature-extraction" in message(
        UsageError, folder_of(tmp_path, {}), pooling="cls"
    )
