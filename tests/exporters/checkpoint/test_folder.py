"""What a checkpoint's folder must hold, and what is refused at sight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.auto import modeling_auto

from bertonnx.errors import CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.encoders import in_place_of_code, require_encoder
from bertonnx.exporters.checkpoint.source import resolve
from bertonnx.exporters.options import Trust
from bertonnx.models.families import FAMILIES, Family
from tests.checkpoints import BERT, make, message, refused
from tests.tiny import save_tiny


def test_sharded_weights_are_weights(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT)
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert resolve(tmp_path).folder == tmp_path


def test_pickled_weights_need_consent(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT, pytorch_model__bin="x")
    said = refused(SourceError, tmp_path)
    assert "pytorch_model.bin" in said
    assert "can run any code" in said
    assert "--allow-pickle" in said
    assert "safe_serialization=True" in said
    assert resolve(tmp_path, trust=Trust(allow_pickle=True)).folder == tmp_path


@pytest.mark.parametrize(
    ("file", "kind", "advice"),
    [
        ("flax_model.msgpack", "Flax", "from_flax=True"),
        ("model.onnx", "ONNX", "bertonnx run"),
        ("onnx/model.onnx", "ONNX", "bertonnx run"),
        ("openvino_model.bin", "OpenVINO", "PyTorch checkpoint"),
        ("model.gguf", "GGUF", "PyTorch checkpoint"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_foreign_weights_are_named(
    tmp_path: Path, file: str, kind: str, advice: str, with_config: bool
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    if with_config:
        make(tmp_path, config__json=BERT)
    said = refused(SourceError, tmp_path)
    assert f"only {kind} weights ({file})" in said
    assert advice in said


def test_no_weights_at_all(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT)
    said = refused(SourceError, tmp_path)
    assert "has no weights" in said
    assert "config.json" in said


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("model.fp16.safetensors", "model.safetensors"),
        ("pytorch_model.fp16.bin", "pytorch_model.bin"),
    ],
)
def test_weights_of_a_variant_alone(tmp_path: Path, file: str, name: str) -> None:
    make(tmp_path, config__json=BERT)
    (tmp_path / file).touch()
    said = refused(SourceError, tmp_path)
    assert f"under the name of a variant alone ({file})" in said
    assert said.endswith(f"rename the one that you want to {name}")


def test_a_folder_that_is_no_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    make(tmp_path, notes__txt="x")
    said = refused(SourceError, tmp_path)
    assert "no config.json" in said
    assert "notes.txt" in said
    assert "save_pretrained" in said


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "it holds nothing" in refused(SourceError, tmp_path)


def test_an_adapter_needs_its_weights(tmp_path: Path) -> None:
    make(tmp_path, adapter_config__json='{"peft_type": "LORA"}', README__md="x")
    said = refused(SourceError, tmp_path)
    assert "a PEFT adapter without weights: adapter_model.safetensors is not there" in said
    for name in ("pytorch_adapter.bin", "adapter.safetensors"):
        (tmp_path / name).touch()
        assert f"an adapter of AdapterHub's library adapters ({name})" in refused(SourceError, tmp_path)
        (tmp_path / name).unlink()


def test_adapters_with_names_lie_one_folder_below(tmp_path: Path) -> None:
    make(tmp_path, french___adapter_config__json="{}", german___adapter_config__json="{}")
    said = refused(SourceError, tmp_path)
    assert "holds adapters in french, german" in said
    assert f"bertonnx export {tmp_path}/french" in said


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_custom_code_needs_consent(tmp_path: Path, file: str) -> None:
    make(tmp_path, config__json=BERT, model__safetensors="x")
    content = {"model_type": "bert", "auto_map": {"AutoModel": "modeling.Mine"}}
    (tmp_path / file).write_text(json.dumps(content))
    said = refused(SourceError, tmp_path)
    assert "its own Python code" in said
    assert file in said
    assert "AutoModel" in said
    assert "--trust-remote-code" in said
    assert resolve(tmp_path, trust=Trust(trust_remote_code=True)).folder == tmp_path


@pytest.mark.parametrize(("content", "reason"), [("{", "read as JSON"), ("[1]", "an object is expected")])
def test_a_broken_config_is_named(tmp_path: Path, content: str, reason: str) -> None:
    make(tmp_path, config__json=content, model__safetensors="x")
    said = refused(CheckpointError, tmp_path)
    assert str(tmp_path / "config.json") in said
    assert reason in said


def test_a_config_without_model_type(tmp_path: Path) -> None:
    make(tmp_path, config__json="{}", model__safetensors="x")
    assert "no model_type" in refused(CheckpointError, tmp_path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gpt2"}, "generates text"),
        ({"model_type": "t5"}, "generates text"),
        ({"model_type": "bert", "is_decoder": True}, "generates text"),
        ({"model_type": "layoutlm"}, "bbox"),
        ({"model_type": "vit"}, "no text encoder of that kind"),
        ({"model_type": "nonsense"}, "has no code of it"),
    ],
)
def test_families_that_cannot_work(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    make(tmp_path, config__json=json.dumps(config), model__safetensors="x")
    said = refused(UnsupportedError, tmp_path)
    assert reason in said
    assert config["model_type"] in said


@pytest.mark.parametrize("code", [None, {}])
def test_code_that_is_none(code: object) -> None:
    config = {"model_type": "bert", "auto_map": code}
    assert in_place_of_code(config, trusted=False) == {"model_type": "bert"}


def test_architectures_that_are_no_list() -> None:
    with pytest.raises(CheckpointError, match="which is no list, so that no task"):
        require_encoder({"model_type": "bert", "architectures": "BertForMaskedLM"}, "folder")


@pytest.mark.parametrize("odd", [None, 5, ["BertModel"]])
def test_architectures_that_are_no_names(odd: object) -> None:
    with pytest.raises(CheckpointError, match="which names no class with"):
        require_encoder({"model_type": "bert", "architectures": ["BertModel", odd]}, "folder")


def test_a_decoder_outside_the_table_of_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES, "mixed", "MixedForCausalLM")
    with pytest.raises(UnsupportedError, match="is a mixed model that generates text"):
        require_encoder({"model_type": "mixed"}, "folder")


def test_a_family_that_needs_a_newer_transformers(tmp_path: Path) -> None:
    make(tmp_path, config__json='{"model_type": "funnel"}', model__safetensors="x")
    FAMILIES.register(Family("funnel", since="99.0"))
    try:
        said = refused(UnsupportedError, tmp_path)
    finally:
        FAMILIES.unregister("funnel")
    assert "is a funnel model" in said
    assert 'pip install --upgrade "bertonnx[export]" transformers' in said


def test_a_family_outside_the_table_that_reads_text(tmp_path: Path) -> None:
    make(tmp_path, config__json='{"model_type": "yoso"}', model__safetensors="x")
    assert resolve(tmp_path).folder == tmp_path


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_byte_order_mark(name: str, tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "m") / name
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    said = message(CheckpointError, tmp_path / "m")
    assert said.startswith(f"{file} begins with a byte order mark")
    assert said.endswith("save it again as UTF-8 without one")


def test_pickles_in_a_folder_that_modules_json_names(tmp_path: Path) -> None:
    inner = save_tiny(tmp_path / "m" / "encoder", "bert", "feature-extraction")
    torch.save(load_file(inner / "model.safetensors"), inner / "pytorch_model.bin")
    (inner / "model.safetensors").unlink()
    kind = "sentence_transformers.models.Transformer"
    modules = [{"idx": 0, "name": "0", "path": "encoder", "type": kind}]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        SourceError, match=r"weights only in pickle files \(pytorch_model.bin\).*allow_pickle"
    ):
        resolve(tmp_path / "m")
