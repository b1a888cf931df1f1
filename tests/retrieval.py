"""What Sentence-Transformers writes beside a transformer for sparse embeddings, without the library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertonnx.models.tasks import Task

__all__ = ["write_folder", "write_modules"]

_PLACES: Mapping[str, str] = {
    "Transformer": "sentence_transformers.base.modules.transformer",
    "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling",
}
Modules = Sequence[tuple[str, Mapping[str, Any]]]


def write_modules(folder: Path, row: Task, *, width: int) -> None:  # noqa: ARG001
    """Make a transformer's folder one of the task's kind, as small as can be."""
    options = {"transformer_task": "fill-mask", "max_seq_length": 96}
    write_folder(folder, row.kinds[0], [("Transformer", options), ("SpladePooling", {})])


def write_folder(folder: Path, kind: str, modules: Modules, **settings: Any) -> None:
    """Write modules.json, the configuration of each module, and that of the whole model."""
    listed = []
    for number, (name, config) in enumerate(modules):
        place = "" if number == 0 else f"{number}_{name}"
        listed.append({"idx": number, "name": str(number), "path": place, "type": f"{_PLACES[name]}.{name}"})
        file = folder / place / ("config.json" if number else "sentence_bert_config.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(listed))
    whole = {"model_type": kind, **settings}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(whole))
