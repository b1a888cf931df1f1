"""The ways to run a model, from ids (batch, tokens) to the compared output (batch, ...)."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bertonnx
from bertonnx.exporters.int8.texts import TEXTS
from bertonnx.runtime.modelfile.modelfile import ModelFile, read_model_file
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.session.session import import_onnxruntime
from bertonnx.runtime.tokenization import TextTokenizer
from common import feeds

__all__ = ["CTRANSLATE2", "STOCK", "Array", "Engine", "Run", "engines_of", "token_ids", "unit"]

Array = NDArray[Any]
Run = Callable[[Array], Array]

CTRANSLATE2 = "CTranslate2 INT8"

STOCK: Mapping[str, Mapping[str, bool]] = {
    "ORT dynamic, per channel": {"per_channel": True, "reduce_range": True},
    "ORT dynamic, U8U8": {"unsigned": True},
}


@dataclass
class Engine:
    """One way to run a model: ids (batch, tokens) to the compared output (batch, ...)."""

    name: str
    run: Run
    megabytes: float
    seconds: dict[int, float] = field(default_factory=dict)
    results: list[Array] = field(default_factory=list)
    alone: list[Array] = field(default_factory=list)

    def speed(self, reference: Engine, threads: int) -> float:
        """Return how many times faster than another engine it is."""
        return reference.seconds[threads] / self.seconds[threads]


def engines_of(source: Path, output: str, folder: Path) -> Iterator[Engine]:
    """Yield the engines of a checkpoint, fp32 and bertonnx's INT8 first.

    Args:
        source: the checkpoint.
        output: name of the output to compare.
        folder: where to put their files; `fp32.onnx` is bertonnx's.
    """
    fp32 = folder / "fp32.onnx"
    bertonnx.export(source, fp32, force=True)
    yield onnx_engine("fp32", fp32, output, optimize=False)
    bertonnx.export(source, folder / "int8.onnx", force=True, quantize=True)
    yield onnx_engine("bertonnx INT8", folder / "int8.onnx", output, optimize=False)
    for name, options in STOCK.items():
        path = stock(fp32, folder / "stock.onnx", options)
        yield onnx_engine(name, path, output, optimize=True)
    for maker in (ctranslate2_engine, openvino_engine):
        try:
            yield maker(source, output, folder)
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)


def stock(source: Path, target: Path, options: Mapping[str, bool]) -> Path:
    import_onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    kind = QuantType.QUInt8 if options.get("unsigned") else QuantType.QInt8
    quantize_dynamic(
        source,
        target,
        per_channel=options.get("per_channel", False),
        reduce_range=options.get("reduce_range", False),
        weight_type=kind,
        extra_options={"DefaultTensorType": 1},
    )
    return target


def onnx_engine(name: str, path: Path, output: str, *, optimize: bool) -> Engine:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {item.name for item in session.get_inputs()}

    def run(ids: Array) -> Array:
        result: Array = session.run([output], {k: v for k, v in feeds(ids).items() if k in names})[0]
        return result

    return Engine(name, run, path.stat().st_size / 1e6)


def ctranslate2_engine(source: Path, output: str, folder: Path) -> Engine:
    import ctranslate2
    import torch
    import transformers
    from ctranslate2.converters import TransformersConverter

    target = folder / "ctranslate2"
    # The task's head is not part of the converted encoder; it runs in float32 here.
    encoder = transformers.AutoModel.from_pretrained(source, dtype=torch.float32)
    encoder.save_pretrained(folder / "encoder")
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder / "encoder")
    TransformersConverter(str(folder / "encoder")).convert(str(target), quantization="int8", force=True)
    converted = ctranslate2.Encoder(
        str(target), device="cpu", compute_type="int8", inter_threads=2, intra_threads=1
    )
    head = task_head(source, output)

    def run(ids: Array) -> Array:
        hidden = np.array(converted.forward_batch(ids.tolist()).last_hidden_state)
        return head(hidden)

    megabytes = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    return Engine(CTRANSLATE2, run, megabytes)


def task_head(source: Path, output: str) -> Run:
    """Return what turns (batch, tokens, width) into the compared output, in float32."""
    import torch
    import transformers

    if output == "sentence_embedding":
        return lambda hidden: unit(hidden.mean(axis=1))
    (architecture,) = json.loads((source / "config.json").read_text())["architectures"]
    of_tokens = architecture.endswith("ForTokenClassification")
    model = getattr(transformers, architecture).from_pretrained(source, dtype=torch.float32)
    weights = model.state_dict()
    arrays = {name: tensor.numpy() for name, tensor in weights.items() if "encoder" not in name}

    def run(hidden: Array) -> Array:
        if not of_tokens:
            dense = hidden[:, 0] @ arrays["bert.pooler.dense.weight"].T + arrays["bert.pooler.dense.bias"]
            hidden = np.tanh(dense)
        result: Array = hidden @ arrays["classifier.weight"].T + arrays["classifier.bias"]
        return result

    return run


def openvino_engine(source: Path, output: str, folder: Path) -> Engine:
    import nncf
    import openvino

    plain = folder / "plain.onnx"
    bertonnx.export(source, plain, force=True, optimize="none")
    file = read_model_file(plain)
    pieces = [ids[None] for ids in token_ids(file, TEXTS)]
    model = openvino.Core().read_model(plain)
    dataset = nncf.Dataset([{k: v for k, v in feeds(ids).items() if k in file.inputs} for ids in pieces])
    model = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(pieces))
    openvino.save_model(model, folder / "openvino.xml", compress_to_fp16=False)
    settings = {"INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 2}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(ids: Array) -> Array:
        request = compiled.create_infer_request()
        request.infer({k: v for k, v in feeds(ids).items() if k in file.inputs})
        return np.array(request.get_tensor(output).data)

    return Engine("OpenVINO INT8 (NNCF)", run, (folder / "openvino.bin").stat().st_size / 1e6)


def token_ids(file: ModelFile, texts: Sequence[str]) -> list[Array]:
    """Return each text's tokens as the model reads them, cut at its limit."""
    tokenizer = TextTokenizer(file.tokenizer, file.card)
    encoded = tokenizer.encode([Row(text) for text in texts])
    return [item.pieces[0].ids for item in encoded if isinstance(item, Encoded)]


def unit(vectors: Array) -> Array:
    result: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result
