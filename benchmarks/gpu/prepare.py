"""What `--prepare` writes where bertonnx[cpu,export] is installed."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import bertonnx
import common
from common import say
from gpu.recipe import SHAPES, strip

__all__ = ["prepare"]


def prepare(folder: Path) -> None:
    """Write the graphs of every shape without weights, and the sentiment model with fp32's labels."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer.json"
    data = json.loads((common.minilm() / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.write_text(json.dumps({**data, "padding": None, "truncation": None}), encoding="utf-8")
    for name in SHAPES:
        say(f"preparing {name}")
        strip(folder, name, common.minilm(), alone=name == "bert-large")
    shared = os.environ.get("BERTONNX_SHARED")
    if shared:
        say("preparing the sentiment model")
        _sentiment(folder, Path(shared))
    else:
        say("BERTONNX_SHARED names no folder: the sentiment model is left out")


def _sentiment(folder: Path, shared: Path) -> None:
    checkpoint = shared / "models" / "sst2-minilm"
    bertonnx.export(checkpoint, folder / "sst2-fp16.onnx", precision="fp16", force=True)
    texts = [text for text, _ in common.sst2(shared)]
    with tempfile.TemporaryDirectory() as aside:
        path = bertonnx.export(checkpoint, Path(aside, "sst2.onnx")).path
        with bertonnx.load(path, "cpu") as model:
            labels = [item["label"] for item in model.classify(texts)]
    (folder / "sst2-labels.json").write_text(json.dumps({"texts": texts, "labels": labels}), encoding="utf-8")
