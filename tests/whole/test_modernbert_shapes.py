"""ModernBERT as its well-known descendants have it: tiny weights under the keys of their public config.json.

Each is made by transformers' own class from the bases of its rotary positions, and its config.json is then
written in that model's words; what the export gives must be what the class gave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import bertonnx
from bertonnx.exporters.quiet import quiet
from tests.checkpoints import edit_json
from tests.tiny import save_tiny
from tests.tokenizers_zoo import pretrained

TEXTS = ["It's raining again.", "red planet " * 12]


def _rotary(full: float, sliding: float) -> dict[str, Any]:
    """Return the bases in the words of version 5."""
    return {
        "full_attention": {"rope_type": "default", "rope_theta": full},
        "sliding_attention": {"rope_type": "default", "rope_theta": sliding},
    }


# Name -> bases of full and sliding attention, tokenizer, changes of config.json, whether it pools by [CLS].
SHAPES: Mapping[str, tuple[float, float, str, dict[str, Any], bool]] = {
    # Saved before version 5, and its bases added by a later one: both forms stand in the file.
    "mmBERT": (
        160_000.0,
        160_000.0,
        "unigram",
        {
            "global_rope_theta": 160_000,
            "local_rope_theta": 160_000,
            "rope_parameters": _rotary(160_000.0, 160_000.0),
            "position_embedding_type": "sans_pos",
            "gradient_checkpointing": False,
            "layer_norm_eps": 1e-05,
            "global_attn_every_n_layers": 3,
            "transformers_version": "4.47.0.dev0",
        },
        False,
    ),
    "ettin": (
        160_000.0,
        160_000.0,
        "bpe",
        {
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 160_000.0,
            "rope_parameters": None,
            "layer_types": None,
            "position_embedding_type": "sans_pos",
            "causal_mask": False,
            "is_causal": False,
            "dtype": "float32",
            "layer_norm_eps": 1e-05,
            "repad_logits_with_grad": False,
            "sparse_prediction": False,
            "sparse_pred_ignore_index": -100,
            "global_attn_every_n_layers": 3,
            "transformers_version": "4.56.2",
        },
        False,
    ),
    "Granite": (
        80_000.0,
        10_000.0,
        "bpe",
        {
            "global_rope_theta": 80_000.0,
            "local_rope_theta": 10_000.0,
            "rope_parameters": None,
            "layer_types": None,
            "position_embedding_type": "absolute",
            "reference_compile": True,
            "deterministic_flash_attn": False,
            "global_attn_every_n_layers": 3,
            "transformers_version": "4.49.0",
        },
        True,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(name: str, tmp_path: Path) -> None:
    full, sliding, tokenizer, words, first = SHAPES[name]
    source = tmp_path / name
    own = _bases(full, sliding)
    every: dict[str, Any] = {} if "rope_parameters" in own else {"global_attn_every_n_layers": 3}
    save_tiny(
        source,
        "modernbert",
        "feature-extraction",
        tokenizer=tokenizer,
        num_hidden_layers=4,
        local_attention=8,
        **own,
        **every,
    )
    expected = _answers(source, tokenizer)
    edit_json(source / "config.json", **{key: None for key in (*own, "layer_types") if key not in words})
    edit_json(source / "config.json", **words)
    assert json.loads((source / "config.json").read_text())["global_rope_theta"] == full
    report = bertonnx.export(source, tmp_path / "model.onnx", pooling="cls" if first else "mean")
    with bertonnx.load(report.path, "cpu") as model:
        found = model.embed(TEXTS)
    for text, vectors in enumerate(expected):
        wanted = vectors[0] if first else vectors.mean(axis=0)
        assert np.abs(found[text] - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def _bases(full: float, sliding: float) -> dict[str, Any]:
    """Return the bases in the words of the installed version."""
    if transformers.__version__.startswith("4."):
        return {"global_rope_theta": full, "local_rope_theta": sliding}
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    return {
        "rope_parameters": _rotary(full, sliding),
        "layer_types": kinds,
        "global_attn_every_n_layers": None,
    }


def _answers(folder: Path, tokenizer: str) -> list[Any]:
    """Return the vectors of each text's tokens, as transformers' class makes them."""
    ids = [pretrained(tokenizer)(text, return_tensors="pt") for text in TEXTS]
    with quiet(), torch.no_grad():
        load: Any = transformers.AutoModel.from_pretrained
        model = load(folder).eval()
        return [model(**each).last_hidden_state[0].numpy() for each in ids]
