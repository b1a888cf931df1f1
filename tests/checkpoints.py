"""Tiny random checkpoints on disk, and ways to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertonnx.errors import BertonnxError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint, load
from bertonnx.exporters.checkpoint.folder import resolve
from bertonnx.exporters.quiet import quiet
from tests.tokenizers_zoo import pretrained

__all__ = ["SMALL", "edit_json", "edit_weights", "message", "read", "save"]

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 1300,
}
XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64, "vocab_size": 1300}


def save(
    folder: Path,
    model_class: str,
    *,
    tokenizer: str = "wordpiece",
    model_max_length: int = 512,
    **settings: Any,
) -> Path:
    """Save a tiny random checkpoint with its tokenizer."""
    torch.manual_seed(0)
    sizes = XLM if model_class.startswith(("XLMF", "XLMW", "XLMM", "Flaubert")) else SMALL
    with quiet():  # some families warn when they are imported
        maker: Any = getattr(transformers, model_class)
        model = maker(maker.config_class(**{**sizes, **settings}))
        model.save_pretrained(folder)
        pretrained(tokenizer, model_max_length=model_max_length).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file; None removes."""
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def read(folder: Path, **options: Any) -> Checkpoint:
    return load(resolve(folder, allow_pickle=options.get("allow_pickle", False)), **options)


def message(error: type[BertonnxError], folder: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read(folder, **options)
    assert type(caught.value) is error
    return str(caught.value)
