"""What the peers run: one checkpoint in the form that each of them wants, made once and kept."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
from peers.embedding import padded, tokenizer
from peers.engine import Setup
from peers.texts import LONGEST, quantization_texts

__all__ = ["MODELS", "Shape", "interpreter", "prepare", "quantize_by_nncf"]

EXPORT = """
import sys
import bertonnx
checkpoint, target, precision, least = sys.argv[1:]
int8 = {"quantize": True, "min_agreement": float(least)} if precision == "int8" else {}
bertonnx.export(checkpoint, target, **int8)
"""

OPTIMUM = """
import sys
from optimum.commands.optimum_cli import main
checkpoint, target = sys.argv[1:]
task = ["--task", "feature-extraction", "--library", "transformers"]
sys.argv = ["optimum-cli", "export", "onnx", "--model", checkpoint, *task, target]
main()
"""

OPTIMUM_INT8 = """
import sys
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
onnx, target, processor = sys.argv[1:]
config = getattr(AutoQuantizationConfig, processor)(is_static=False, per_channel=True)
quantizer = ORTQuantizer.from_pretrained(onnx, file_name="model.onnx")
quantizer.quantize(save_dir=target, quantization_config=config)
"""

SENTENCE = """
import sys
from sentence_transformers import SentenceTransformer
checkpoint, target, backend = sys.argv[1:]
model = SentenceTransformer(checkpoint, backend=backend, device="cpu", model_kwargs={"export": True})
model.save_pretrained(target)
"""

OPENVINO_INT8 = """
import sys
from pathlib import Path
from peers.prepare import quantize_by_nncf
quantize_by_nncf(*map(Path, sys.argv[1:]))
"""

CTRANSLATE2 = """
import sys
from ctranslate2.converters import TransformersConverter
TransformersConverter(sys.argv[1]).convert(sys.argv[2])
"""


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and how much is enough to measure it.

    Attributes:
        layers: how many there are.
        width: of the hidden states.
        inner: width of the feed-forward part.
        short: share of the sentences.
        mixed: share of the passages.
        runs: for each length of single texts, how many are run in a round.
        budgets: padded tokens a batch that entries are tuned over.
    """

    layers: int
    width: int
    inner: int
    short: float
    mixed: float
    runs: tuple[int, int, int]
    budgets: tuple[int, ...]


MODELS = {
    "minilm": Shape(
        layers=6, width=384, inner=1536, short=0.35, mixed=0.08, runs=(16, 8, 3), budgets=(512, 2048)
    ),
    "bert-base": Shape(
        layers=12, width=768, inner=3072, short=0.05, mixed=0.03, runs=(6, 3, 2), budgets=(256, 512)
    ),
}
"""all-MiniLM-L6-v2, and bert-base-uncased's shapes with random weights: speed does not depend on them."""


def interpreter(environment: str) -> Path:
    """Return the Python of one of the two environments."""
    return Path(os.environ["BERTONNX_PEERS"], environment, "bin", "python")


def prepare(name: str, folder: Path) -> tuple[Setup, dict[str, str]]:
    """Return where a model lies in every form, and for engines whose form could not be made, why.

    Args:
        name: one of `MODELS`.
        folder: where to keep them; bertonnx's own files are kept where the other benchmarks keep theirs.
    """
    checkpoint = _once(folder / "checkpoint", _minilm if name == "minilm" else _bert_base)
    onnx = folder / "onnx"
    forms: dict[str, Callable[[Path], object]] = {
        "onnx": functools.partial(_by, "older", OPTIMUM, checkpoint),
        "onnx_int8": lambda path: _by("older", OPTIMUM_INT8, onnx, path, _processor()),
        "sentence_onnx": lambda path: _by("older", SENTENCE, checkpoint, path, "onnx"),
        "sentence_openvino": lambda path: _by("current", SENTENCE, checkpoint, path, "openvino"),
        "ctranslate2": functools.partial(_by, "current", CTRANSLATE2, checkpoint),
        "openvino_int8": functools.partial(_by, "current", OPENVINO_INT8, onnx),
    }
    paths = {form: _tried(folder / form.replace("_", "-"), make) for form, make in forms.items()}
    ours = {
        "ours": common.cache() / f"peers-{name}.onnx",
        "ours_int8": common.cache() / f"peers-{name}-int8.onnx",
    }
    problems = {}
    for engine, target in zip(("bertonnx", "bertonnx-int8"), ours.values(), strict=True):
        try:
            # Random weights agree with nothing; the least agreement is for weights that mean something.
            least = "0" if name == "bert-base" else "0.99"
            if not target.is_file():
                precision = "int8" if engine == "bertonnx-int8" else "fp32"
                _by("older", EXPORT, checkpoint, target, precision, least)
        except RuntimeError as error:
            problems[engine] = str(error).strip().splitlines()[-1]
            common.say(f"{engine}: {problems[engine]}")
    return Setup(checkpoint=checkpoint, cores=0, **paths, **ours), problems


def _once(target: Path, make: Callable[[Path], object]) -> Path:
    if not target.exists():
        common.say(f"making {target}")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(target.name + ".new")
        shutil.rmtree(aside, ignore_errors=True)
        make(aside)
        aside.rename(target)
    return target


def _tried(target: Path, make: Callable[[Path], object]) -> Path:
    """Return a form's folder; where it cannot be made, its engines fail and say so, and the others go on."""
    try:
        return _once(target, make)
    except RuntimeError as error:
        common.say(f"{target.name} cannot be made: {error}")
        return target


def _by(environment: str, code: str, *arguments: str | Path) -> None:
    """Run code with the packages of an environment."""
    common.measure([interpreter(environment), "-c", code, *arguments])


def _processor() -> str:
    """Return for which instructions Optimum shall quantize."""
    return "avx512_vnni" if common.instructions() & {"avx512_vnni"} else "avx2"


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
    # CTranslate2 asks for it, and newer transformers no longer write it.
    _edit(target / "config.json", position_embedding_type="absolute")
    _edit(target / "1_Pooling" / "config.json", word_embedding_dimension=MODELS["bert-base"].width)


def _edit(path: Path, **changes: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")


def quantize_by_nncf(onnx: Path, target: Path) -> None:
    """Quantize for OpenVINO as NNCF's documentation shows for transformers, with texts of the corpus."""
    import nncf
    import openvino

    model = openvino.Core().read_model(onnx / "model.onnx")
    inputs = {name for item in model.inputs for name in item.names}
    feeds = []
    for encoding in tokenizer(onnx / "tokenizer.json").encode_batch(quantization_texts()):
        ids, mask = padded([encoding.ids])
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
        feeds.append({name: array for name, array in every.items() if name in inputs})
    quantized = nncf.quantize(
        model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds)
    )
    target.mkdir()
    openvino.save_model(quantized, target / "model.xml", compress_to_fp16=False)
