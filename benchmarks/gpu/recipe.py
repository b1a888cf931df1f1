"""Models too large to carry around: their graphs without weights, and the weights from their names.

`strip` makes the files where Optimum is installed; `fill` completes them anywhere. Every weight is drawn
from a generator that its own name seeds, so that each engine gets the same model, and speed does not
depend on the values.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

import common
from peers.texts import LONGEST

__all__ = ["SHAPES", "Shape", "build", "fill", "state", "strip"]

PRECISIONS = ("fp16", "fp32")
VOCABULARY = 30522
_SMALL = 64
"""Numbers of the largest tensor that stays in the file: shapes, masks, scalars."""


@dataclass(frozen=True)
class Shape:
    """A BERT's sizes."""

    layers: int
    width: int
    heads: int
    inner: int


SHAPES: Mapping[str, Shape] = {
    "tiny": Shape(2, 64, 4, 128),
    "minilm": Shape(6, 384, 12, 1536),
    "bert-base": Shape(12, 768, 12, 3072),
    "bert-large": Shape(24, 1024, 16, 4096),
}


def state(shape: Shape) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a `BertModel` without pooler, by its own names."""
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, shape.width),
        "embeddings.position_embeddings.weight": (LONGEST, shape.width),
        "embeddings.token_type_embeddings.weight": (2, shape.width),
        **_norm("embeddings.LayerNorm", shape.width),
    }
    for number in range(shape.layers):
        layer = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            sizes |= _linear(f"{layer}.attention.{part}", shape.width, shape.width)
        sizes |= _norm(f"{layer}.attention.output.LayerNorm", shape.width)
        sizes |= _linear(f"{layer}.intermediate.dense", shape.width, shape.inner)
        sizes |= _linear(f"{layer}.output.dense", shape.inner, shape.width)
        sizes |= _norm(f"{layer}.output.LayerNorm", shape.width)
    return {name: _drawn(name, size) for name, size in sizes.items()}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _drawn(name: str, size: tuple[int, ...]) -> NDArray[np.float32]:
    dice = np.random.default_rng(zlib.crc32(name.encode()))
    around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    return around + np.float32(0.02) * dice.standard_normal(size, dtype=np.float32)


def strip(folder: Path, name: str, tokenizer: Path, *, alone: bool = False) -> None:
    """Write the graphs of one shape without weights: bertonnx's in fp16 and fp32, and Optimum's.

    Needs `bertonnx[export]`.

    Args:
        folder: where to write NAME-fp16.onnx, NAME-fp32.onnx and NAME-optimum.
        name: one of `SHAPES`.
        tokenizer: a Sentence-Transformers folder of an uncased BERT, whose weights are replaced.
        alone: write fp16 only, where nothing is compared.
    """
    import bertonnx

    checkpoint = folder / "checkpoint"
    _checkpoint(SHAPES[name], tokenizer, checkpoint)
    whole = folder / "whole.onnx"
    for precision in PRECISIONS[:1] if alone else PRECISIONS:
        bertonnx.export(checkpoint, whole, precision=precision, force=True)
        _strip(whole, folder / f"{name}-{precision}.onnx", SHAPES[name])
    whole.unlink()
    if not alone:
        _optimum(checkpoint, folder, name)
    shutil.rmtree(checkpoint)


def _optimum(checkpoint: Path, folder: Path, name: str) -> None:
    theirs, target = folder / "optimum", folder / f"{name}-optimum"
    cli = str(Path(sys.executable).with_name("optimum-cli"))
    task = ["--task", "feature-extraction", "--library", "transformers"]
    common.measure([cli, "export", "onnx", "--model", str(checkpoint), *task, str(theirs)])
    shutil.copytree(theirs, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.onnx*"))
    _strip(theirs / "model.onnx", target / "model.onnx", SHAPES[name])
    shutil.rmtree(theirs)


def _checkpoint(shape: Shape, tokenizer: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(tokenizer, target)
    (target / "model.safetensors").unlink(missing_ok=True)
    build(shape).save_pretrained(target)
    for file, changes in (
        ("sentence_bert_config.json", {"max_seq_length": LONGEST}),
        ("tokenizer.json", {"padding": None, "truncation": None}),
        ("1_Pooling/config.json", {"word_embedding_dimension": shape.width}),
    ):
        data = json.loads((target / file).read_text(encoding="utf-8"))
        (target / file).write_text(json.dumps({**data, **changes}), encoding="utf-8")


def build(shape: Shape) -> Any:
    """Return the `BertModel` in PyTorch, fp32 on CPU, attention by SDPA."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        attn_implementation="sdpa",
    )
    model = BertModel(config, add_pooling_layer=False)
    weights = {name: torch.from_numpy(array) for name, array in state(shape).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or any(not name.endswith(("position_ids", "token_type_ids")) for name in missing):
        raise RuntimeError(f"BertModel has other weights than expected: {missing}, {unexpected}")
    return model.eval()


def _strip(source: Path, target: Path, shape: Shape) -> None:
    """Copy a graph without the numbers of its weights; each tensor's `doc_string` says which weight it is."""
    model = onnx.load(str(source))
    known: dict[bytes, str] = {}
    for name, array in state(shape).items():
        for dtype in (np.float32, np.float16):
            known[array.astype(dtype).tobytes()] = name
            known[array.T.astype(dtype).tobytes()] = name if array.ndim < 2 else f"{name} transposed"
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size <= _SMALL or not np.issubdtype(array.dtype, np.floating):
            continue
        if array.tobytes() not in known:
            raise RuntimeError(
                f"{source.name}: {tensor.name} {array.shape} is none of the checkpoint's weights"
            )
        tensor.doc_string = known[array.tobytes()]
        tensor.ClearField("raw_data")
    onnx.save(model, str(target))


def fill(source: Path, target: Path, shape: Shape) -> None:
    """Write a stripped graph with its weights."""
    model, weights = onnx.load(str(source)), state(shape)
    for tensor in model.graph.initializer:
        if not tensor.doc_string:
            continue
        name, _, transposed = tensor.doc_string.partition(" ")
        array = weights[name].T if transposed else weights[name]
        dtype = np.float16 if tensor.data_type == onnx.TensorProto.FLOAT16 else np.float32
        tensor.raw_data = np.ascontiguousarray(array, dtype=dtype).tobytes()
        tensor.ClearField("doc_string")
    onnx.save(model, str(target))
