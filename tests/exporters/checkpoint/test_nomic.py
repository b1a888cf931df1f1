"""nomic_bert in the words of its own code on the Hub: read as transformers' class, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bertonnx.errors import CheckpointError, SourceError
from bertonnx.exporters.checkpoint.config_reads import Reads
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.nomic import nomic_keys
from tests.checkpoints import edit_json, make, message, read, refused
from tests.tiny import save_tiny

LIVE = Reads({"rope_parameters": None})
CODE = {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}

# As of nomic-embed-text-v1.5, with small sizes.
OLD: dict[str, Any] = {
    **{"activation_function": "swiglu", "attn_pdrop": 0.0, "causal": False, "dense_seq_output": True},
    **{"fused_bias_fc": True, "layer_norm_epsilon": 0.02, "max_trained_positions": 2048},
    **{"mlp_fc1_bias": False, "mlp_fc2_bias": False, "n_embd": 32, "n_head": 4, "n_inner": 48, "n_layer": 2},
    **{"n_positions": 96, "pad_vocab_size_multiple": 64, "parallel_block": False, "prenorm": False},
    **{"qkv_proj_bias": False, "rotary_emb_base": 50, "rotary_emb_fraction": 1.0, "use_rms_norm": False},
    **{"rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None},
    **{"scale_attn_weights": True, "type_vocab_size": 2, "model_type": "nomic_bert", "vocab_size": 1400},
}


def test_it_computes_what_transformers_does(tmp_path: Path) -> None:
    import transformers

    folder = save_tiny(
        tmp_path,
        "nomic_bert",
        "feature-extraction",
        vocab_size=1408,
        layer_norm_eps=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": 50.0},
    )
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    said = json.loads((folder / "config.json").read_text())
    kept = {key: said[key] for key in ("architectures", "pad_token_id", "transformers_version")}
    (folder / "config.json").write_text(json.dumps({**kept, **OLD, "auto_map": CODE}))
    found = read(folder)
    assert (found.task, found.config.hidden_size, found.private_keys) == ("feature-extraction", 32, ())
    assert "in the words of nomic's own code" in "\n".join(map(str, found.notes))
    ids = torch.tensor([[2, *range(10, 40), 3]])
    with torch.no_grad():
        expected, got = (
            model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            for model in (reference, found.model)
        )
    assert (got - expected).abs().max() < 1e-5
    # Code of a tokenizer is another matter.
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    assert "tokenizer_config.json names it for AutoTokenizer" in message(SourceError, folder)


def test_a_key_that_is_not_there_has_the_default_of_that_code() -> None:
    needed = {
        key: OLD[key] for key in ("activation_function", "mlp_fc1_bias", "mlp_fc2_bias", "qkv_proj_bias")
    }
    found = nomic_keys({"n_embd": 64, "rotary_emb_fraction": 1.0, **needed}, LIVE, Account())
    assert found == {
        **{"hidden_size": 64, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 256},
        **{"max_position_embeddings": 1024, "layer_norm_eps": 1e-5, "vocab_size": 50257},
        **{"hidden_act": "silu", "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    }
    in_others = {"hidden_size": 64, "rotary_emb_base": 3}
    assert nomic_keys(in_others, LIVE, Account()) == in_others


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("prenorm", True), ("causal", True), ("use_rms_norm", True), ("num_experts", 8)),
        *(("rotary_emb_interleaved", True), ("rotary_emb_fraction", 0.5), ("rotary_scaling_factor", 2.0)),
        *(("qkv_proj_bias", True), ("mlp_fc1_bias", ...), ("activation_function", "gelu")),
    ],
)
def test_what_transformers_does_not_compute(key: str, value: object) -> None:
    raw = {name: said for name, said in {**OLD, key: value}.items() if said is not ...}
    with pytest.raises(CheckpointError, match=f"config.json has {key} "):
        nomic_keys(raw, LIVE, Account())


def test_two_names_that_contradict_each_other() -> None:
    assert nomic_keys({**OLD, "hidden_size": 32}, LIVE, Account())["hidden_size"] == 32
    with pytest.raises(CheckpointError, match="has n_embd 32 and hidden_size 48, which are two names"):
        nomic_keys({**OLD, "hidden_size": 48}, LIVE, Account())


def test_code_of_other_families_is_needed(tmp_path: Path) -> None:
    config = {"model_type": "xlm-roberta", "auto_map": {"AutoModel": "own.Model"}}
    make(tmp_path, config__json=json.dumps(config), model__safetensors=b"", tokenizer__json="{}")
    assert "brings its own Python code (config.json names it for AutoModel)" in refused(SourceError, tmp_path)
