"""What the peers run: one checkpoint in the form that each of them wants, made once and kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
from peers.embedding import padded, tokenizer
from peers.engines import Setup
from peers.texts import LONGEST, quantization_texts

__all__ = ["MODELS", "Shape", "prepare"]

EXPORT = """
import sys
import bertonnx
checkpoint, target, precision, least = sys.argv[1:]
int8 = {"quantize": True, "min_agreement": float(least)} if precision == "int8" else {}
bertonnx.export(checkpoint, target, **int8)
"""


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and the share of the workloads that is enough for it."""

    layers: int
    width: int
    inner: int
    part: float


MODELS = {
    "minilm": Shape(layers=6, width=384, inner=1536, part=1.0),
    "bert-base": Shape(layers=12, width=768, inner=3072, part=1 / 16),
}
"""all-MiniLM-L6-v2, and bert-base-uncased's shapes with random weights: speed does not depend on them."""


def prepare(name: str, folder: Path, cores: int) -> tuple[Setup, dict[str, str]]:
    """Return where a model lies in every form, and for engines whose form could not be made, why.

    Args:
        name: one of `MODELS`.
        folder: where to keep them; bertonnx's own files are kept where the other benchmarks keep theirs.
        cores: how many cores an engine may use.
    """
    checkpoint = _once(folder / "checkpoint", _minilm if name == "minilm" else _bert_base)
    setup = Setup(
        checkpoint=checkpoint,
        onnx=_once(folder / "onnx", lambda path: _optimum(checkpoint, path)),
        sentence_onnx=_once(folder / "sentence-onnx", lambda path: _sentence_onnx(checkpoint, path)),
        ctranslate2=_once(folder / "ctranslate2", lambda path: _ctranslate2(checkpoint, path)),
        openvino_int8=_once(
            folder / "openvino-int8", lambda path: _openvino_int8(folder / "onnx", path, quantization_texts())
        ),
        ours=common.cache() / f"peers-{name}.onnx",
        ours_int8=common.cache() / f"peers-{name}-int8.onnx",
        cores=cores,
    )
    problems = {}
    for engine, target in (("bertonnx", setup.ours), ("bertonnx-int8", setup.ours_int8)):
        try:
            # Random weights agree with nothing; the least agreement is for weights that mean something.
            least = "0" if name == "bert-base" else "0.99"
            if not target.is_file():
                precision = "int8" if engine == "bertonnx-int8" else "fp32"
                common.measure(common.python(EXPORT, checkpoint, target, precision, least))
        except RuntimeError as error:
            problems[engine] = str(error).strip().splitlines()[-1]
    return setup, problems


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(target.name + ".new")
        shutil.rmtree(aside, ignore_errors=True)
        make(aside)
        aside.rename(target)
    return target


def _minilm(target: Path) -> None:
    """Copy all-MiniLM-L6-v2, for texts of up to 512 tokens: all peers shall read the whole text."""
    shutil.copytree(common.minilm(), target)
    _edit(target / "sentence_bert_config.json", max_seq_length=LONGEST)
    _edit(target / "tokenizer.json", padding=None, truncation=None)


def _bert_base(target: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    _minilm(target)
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(target)
    _edit(target / "1_Pooling" / "config.json", word_embedding_dimension=MODELS["bert-base"].width)


def _edit(path: Path, **changes: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")


def _optimum(checkpoint: Path, target: Path) -> None:
    cli = str(Path(sys.executable).with_name("optimum-cli"))
    command = [cli, "export", "onnx", "--model", str(checkpoint), "--task", "feature-extraction"]
    subprocess.run([*command, "--library", "transformers", str(target)], check=True, capture_output=True)


def _sentence_onnx(checkpoint: Path, target: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint), backend="onnx", device="cpu", model_kwargs={"export": True})
    model.save_pretrained(str(target))


def _ctranslate2(checkpoint: Path, target: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(checkpoint)).convert(str(target))


def _openvino_int8(onnx: Path, target: Path, texts: Sequence[str]) -> None:
    """Quantize as NNCF's documentation shows for transformers."""
    import nncf
    import openvino

    model = openvino.Core().read_model(onnx / "model.onnx")
    inputs = {name for item in model.inputs for name in item.names}
    feeds = []
    for encoding in tokenizer(onnx / "tokenizer.json").encode_batch(list(texts)):
        ids, mask = padded([encoding.ids])
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
        feeds.append({name: array for name, array in every.items() if name in inputs})
    quantized = nncf.quantize(
        model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds)
    )
    target.mkdir()
    openvino.save_model(quantized, target / "model.xml", compress_to_fp16=False)
