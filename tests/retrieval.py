"""What Sentence-Transformers and PyLate write beside a transformer, without the libraries."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bertonnx.models.tasks import Task

__all__ = ["VECTOR", "dense", "write_folder", "write_modules"]

VECTOR = 16
"""Length of the vectors of tokens."""

_PLACES: Mapping[str, str] = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "PyLateDense": "pylate.models.Dense.Dense",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
_TOKENS = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
Modules = Sequence[tuple[str, Mapping[str, Any]]]


def write_modules(folder: Path, row: Task, *, width: int) -> None:
    """Make a transformer's folder one of the task's kind, as small as can be."""
    late = [
        ("Transformer", {"query_expansion": {"strategy": "fixed", "length": 16}, "document_length": 64}),
        ("Dense", {**dense(width), **_TOKENS}),
        ("MultiVectorMask", {"skiplist_words": list(string.punctuation)}),
        ("Normalize", _TOKENS),
    ]
    sparse = [("Transformer", {"transformer_task": "fill-mask"}), ("SpladePooling", {})]
    write_folder(folder, row.kinds[0], sparse if row.headed else late)


def dense(width: int, vector: int = VECTOR) -> dict[str, Any]:
    """Return the configuration of a projection."""
    identity = "torch.nn.modules.linear.Identity"
    return {
        "in_features": width,
        "out_features": vector,
        "bias": False,
        "activation_function": identity,
    }


def write_folder(folder: Path, kind: str, modules: Modules, **settings: Any) -> None:
    """Write modules.json, the configuration and weights of each module, and those of the whole model."""
    listed = []
    for number, (name, config) in enumerate(modules):
        place = "" if number == 0 else f"{number}_{name}"
        listed.append({"idx": number, "name": str(number), "path": place, "type": _PLACES[name]})
        file = folder / place / ("config.json" if number else "sentence_bert_config.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(config))
        if name.endswith("Dense"):
            shape = (config["out_features"], config["in_features"])
            weight = torch.randn(shape, generator=torch.Generator().manual_seed(number))
            save_file({"linear.weight": weight}, file.parent / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(listed))
    whole = {"model_type": kind, **settings}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(whole))
