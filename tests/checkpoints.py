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
from bertonnx.exporters.checkpoint.source import Source, resolve
from bertonnx.exporters.options import ExportOptions, Trust
from bertonnx.exporters.quiet import quiet
from bertonnx.wording import COMMAND_LINE
from tests.tokenizers_zoo import pretrained

__all__ = ["BERT", "SMALL", "bare", "edit_json", "edit_weights", "make", "message", "read", "refused", "save"]

BERT = json.dumps({"model_type": "bert", "architectures": ["BertModel"]}).encode()

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 1300,
}
NO_TRUST = Trust()
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


def bare(task: str, **changes: Any) -> Checkpoint:
    """Return a checkpoint without a model or a tokenizer, for what looks at its other fields."""
    nothing: Any = None
    fields: dict[str, Any] = {
        "source": Source("nowhere", "folder", None, Path("nowhere")),
        "model": nothing,
        "config": nothing,
        "family": "bert",
        "task": task,
        "traced": task,
        "tokenizer_text": "",
        "labels": (),
        "problem_type": None,
        "activation": "none",
        "pairs": None,
        "pooling": "mean",
        "normalize": False,
        "layers": (),
        "width": None,
        "also": (),
        "sparse": None,
        "late": None,
        "similarity": None,
        "prompts": {},
        "default_prompt": None,
        "pooled_prompt": True,
        "max_length": 64,
        "mask_token": None,
        "mask_token_id": None,
        "cls_token_id": None,
        "unk_token_id": None,
        "pad_token_id": 0,
        "left_out_id": None,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_spaces": False,
        "input_names": (),
        "notes": (),
    }
    return Checkpoint(**(fields | changes))


def make(folder: Path, **files: bytes | str) -> Path:
    """Write files; `__` in a keyword stands for a dot and `___` for a slash."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def refused(error: type[BertonnxError], source: Path, revision: str | None = None) -> str:
    """Return the message with which a source is refused, as the command line words it."""
    with pytest.raises(error) as caught:
        resolve(source, revision)
    return caught.value.worded(COMMAND_LINE)


def edit_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file; None removes."""
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def read(folder: Path, *, trust: Trust = NO_TRUST, **options: Any) -> Checkpoint:
    """Read a checkpoint; `options` are fields of `ExportOptions`."""
    return load(resolve(folder, trust=trust), ExportOptions(**options))


def message(error: type[BertonnxError], folder: Path, *, trust: Trust = NO_TRUST, **options: Any) -> str:
    """Return the message with which a checkpoint is refused, as the command line words it."""
    with pytest.raises(error) as caught:
        read(folder, trust=trust, **options)
    assert type(caught.value) is error
    return caught.value.worded(COMMAND_LINE)
