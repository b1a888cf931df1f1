"""gte in the words of its own code on the Hub: read as transformers' class, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bertonnx.errors import CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.config_reads import Reads
from bertonnx.exporters.checkpoint.gte import gte_keys
from bertonnx.exporters.checkpoint.keys import Account
from tests.checkpoints import edit_json, make, read, refused
from tests.tiny import missing_code, save_tiny

LIVE = Reads({"rope_parameters": None})
CODE = {
    "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
    "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel",
}

# As of gte-multilingual-base.
OLD: dict[str, Any] = {
    **{"layer_norm_type": "layer_norm", "logn_attention_clip1": False, "logn_attention_scale": False},
    **{"model_type": "new", "pack_qkv": True, "position_embedding_type": "rope", "rope_theta": 20.0},
    **{"unpad_inputs": False, "use_memory_efficient_attention": False},
}
NTK = {"factor": 8.0, "type": "ntk"}


@pytest.mark.parametrize("task", ["feature-extraction", "text-classification", "fill-mask"])
def test_it_computes_what_transformers_does(tmp_path: Path, task: str) -> None:
    import transformers
    from safetensors.torch import load_file, save_file

    rotary = {"rope_type": "default", "rope_theta": 20.0}
    folder = save_tiny(tmp_path, "gte", task, rope_parameters=rotary)
    auto_class = {
        "feature-extraction": transformers.AutoModel,
        "text-classification": transformers.AutoModelForSequenceClassification,
        "fill-mask": transformers.AutoModelForMaskedLM,
    }[task]
    reference = auto_class.from_pretrained(folder).eval()
    said = json.loads((folder / "config.json").read_text())
    heads = [name.replace("Gte", "New") for name in said["architectures"]]
    kept = {key: value for key, value in said.items() if key not in ("rope_parameters", "model_type")}
    (folder / "config.json").write_text(json.dumps({**kept, **OLD, "architectures": heads, "auto_map": CODE}))
    # The names of weights are that code's too: those of an encoder start with "new." beside a head.
    file = folder / "model.safetensors"
    weights = {name.replace("gte.", "new.", 1): tensor for name, tensor in load_file(file).items()}
    assert any(name.endswith("attention.qkv_proj.weight") for name in weights)
    save_file(weights, file, metadata={"format": "pt"})
    found = read(folder)
    assert (found.task, found.family, found.private_keys) == (task, "gte", ())
    assert "in the words of gte's own code" in "\n".join(map(str, found.notes))
    ids = torch.tensor([[2, *range(10, 40), 3]])
    with torch.no_grad():
        expected, got = (
            model(ids, attention_mask=torch.ones_like(ids))[0] for model in (reference, found.model)
        )
    assert (got - expected).abs().max() < 1e-5


def test_frequencies_of_scaled_positions(tmp_path: Path) -> None:
    """Against the formula of that code: of a larger base, and all divided by a root of the factor."""
    folder = save_tiny(tmp_path, "gte", "feature-extraction")
    edit_json(folder / "config.json", rope_parameters=None, rope_scaling=NTK, **OLD)
    found: Any = read(folder).model
    size = 32 // 4
    wanted = (20.0 * 8) ** (-torch.arange(0, size, 2) / size) / 8 ** (2 / size)
    torch.testing.assert_close(found.rotary_emb.inv_freq, wanted)


def test_a_key_that_is_not_there_has_the_default_of_that_code() -> None:
    found = gte_keys(
        {"pack_qkv": True, "hidden_size": 64, "rope_scaling": {**NTK, "factor": 1}}, LIVE, Account()
    )
    assert (found["max_position_embeddings"], found["vocab_size"], found["hidden_size"]) == (2048, 30528, 64)
    assert found["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}
    in_others = {"hidden_size": 64, "rope_theta": 3}
    assert gte_keys(in_others, LIVE, Account()) == in_others


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("pack_qkv", False), ("position_embedding_type", "absolute"), ("layer_norm_type", "rms_norm")),
        *(("logn_attention_scale", True), ("rope_scaling", {"type": "linear", "factor": 2.0})),
        *(("rope_scaling", {**NTK, "mixed_b": 0.6}), ("rope_scaling", {**NTK, "factor": -1})),
        *(("rope_scaling", {**NTK, "floor": 1}), ("rope_scaling", 3), ("hidden_act", "relu")),
    ],
)
def test_what_transformers_does_not_compute(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"config.json has {key} "):
        gte_keys({**OLD, "architectures": ["NewForMaskedLM"], key: value}, LIVE, Account())


def test_which_transformers_has_code_of_the_same_model(tmp_path: Path) -> None:
    def said(**config: Any) -> str:
        make(tmp_path, config__json=json.dumps(config), model__safetensors=b"", tokenizer__json="{}")
        return refused(SourceError, tmp_path)

    place = "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta"
    flash = {"AutoConfig": f"{place}.XLMRobertaFlashConfig"}
    jina = said(model_type="xlm-roberta", auto_map=flash, lora_adaptations=["a"])
    assert "brings its own Python code (config.json names it for AutoConfig)" in jina
    assert "transformers 5 has code of this model (jina_embeddings_v3), which does not read" in jina
    # Anybody may call a class so.
    other = said(model_type="mine", auto_map=CODE)
    assert other.endswith("add --trust-remote-code")
    if missing_code("gte"):
        old = said(auto_map=CODE, **OLD)
        assert old.endswith(
            "add --trust-remote-code; transformers 5 has code of this model (gte), and none else is needed: "
            'pip install --upgrade "bertonnx[export]" transformers'
        )
        make(tmp_path, config__json=json.dumps(OLD))
        assert "is a gte (by its own code: new) model" in refused(UnsupportedError, tmp_path)
