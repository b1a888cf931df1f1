"""The whole GPU measurement in one sitting: throughput, latency, agreement, beside PyTorch and Optimum.

    python benchmarks/gpu.py --prepare FOLDER          # where bertonnx[cpu,export] is installed
    python benchmarks/gpu.py FOLDER [--part 1.0] [--rounds 5]          # on the machine with the GPU
    python benchmarks/gpu.py FOLDER --rehearse         # the same code on a CPU, tiny: 1 min

It has been rehearsed on a CPU, and has not run on a GPU yet.

`--prepare` writes graphs without weights (8 MB; the weights are drawn again from their names), and where
`BERTONNX_SHARED` names a folder with models/sst2-minilm and data/sst2_dev.tsv the sentiment model in fp16
(46 MB) with fp32's labels. The machine with the GPU needs torch, transformers, onnx, tokenizers and
onnxruntime-gpu, and no exporter; Optimum is measured where it is installed, else a row says so. It fills
the weights into a folder of temporary files (4 GB).

Workload: 100,000 different texts of 8 to 512 tokens, evenly spread as the CPU workload's, from text to
vectors in host memory, for MiniLM's and bert-base's sizes; single texts of 16, 128 and 512 tokens; and
bert-large's sizes at 384 tokens, as a share of the bf16 matrix rate measured in the same sitting. Engines
take turns, every other round backwards; medians count. `gpu/engines.py` says how each is set up. About
40 minutes on one H200; `--part 0.2` a quarter of that.

Bars: fp16 throughput at least the best torch engine's, unpadded included, and 2.5 times Optimum's; single
texts sooner than every torch engine; 40% of the matrix rate; fp32 within 1e-3 of the CPU; 99.9% of fp16's
labels as fp32's. Written to `results/gpu.md` unless rehearsed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE / "gpu"), str(HERE / "peers"), *sys.path]

import common  # noqa: E402
import numpy as np  # noqa: E402
from texts import LATENCY_LENGTHS, source, useful_flops  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "transformers", "optimum-onnx", "tokenizers", "numpy")
MODELS = ("minilm", "bert-base")
TEXTS, LARGE_TEXTS, LARGE_TOKENS = 100_000, 4096, 384
SHORTEST, LONGEST = 8, 512
LATENCY_RUNS = 48
REHEARSED_TEXTS, REHEARSED_RUNS = 48, 4
REFERENCE = "torch-sorted"
_DID_NOT_RUN = "bertonnx or torch did not run"

OF_OPTIMUM, OF_MATRIX, FP32_APART, LABELS_SAME = 2.5, 0.4, 1e-3, 0.999


@dataclass
class Entry:
    """What was measured of one engine; seconds."""

    engine: Any
    throughput: list[float] = field(default_factory=list)
    latency: dict[int, list[float]] = field(default_factory=dict)
    cosine: float = float("nan")
    error: str = ""


def main() -> None:
    options = _options()
    if options.prepare:
        _prepare(options.folder)
        return
    from recipe import SHAPES, fill

    import bertonnx

    models = ("tiny",) if options.rehearse else MODELS
    with tempfile.TemporaryDirectory(prefix="bertonnx-cuda-") as folder:
        work = Path(folder)
        for file in sorted(options.folder.glob("*-fp*.onnx")):
            name = file.stem.rpartition("-")[0]
            if name in SHAPES and (name in models or (name == "bert-large" and not options.rehearse)):
                fill(file, work / file.name, SHAPES[name])
        parts = [_introduction(options), _device(options.device)]
        for name in models:
            parts += list(_model(name, options, work))
        parts += list(_large("tiny" if options.rehearse else "bert-large", options, work))
        parts += list(_agreement(models, options, work))
    body = "\n\n".join(parts)
    if options.rehearse:
        print(body)
    else:
        common.publish("gpu", title=f"bertonnx {bertonnx.__version__} on CUDA", body=body, packages=PACKAGES)
    if _DID_NOT_RUN in body:
        raise SystemExit(f"not measured: {_DID_NOT_RUN}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where --prepare wrote, or shall write, its files")
    parser.add_argument("--prepare", action="store_true", help="make the files; needs bertonnx[export]")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU; publishes nothing")
    parser.add_argument("--part", type=float, default=1.0, help="share of the texts, over 0 and at most 1")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not 0 < options.part <= 1:
        parser.error("--part is a share, over 0 and at most 1")
    if options.rehearse:
        options.part, options.rounds = REHEARSED_TEXTS / TEXTS, min(options.rounds, 2)
    options.device = "cpu" if options.rehearse else "cuda"
    options.runs = REHEARSED_RUNS if options.rehearse else LATENCY_RUNS
    return options


def _prepare(folder: Path) -> None:
    from recipe import SHAPES, prepare

    import bertonnx

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer.json"
    data = json.loads((common.minilm() / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.write_text(json.dumps({**data, "padding": None, "truncation": None}), encoding="utf-8")
    for name in SHAPES:
        _say(f"preparing {name}")
        prepare(folder, name, common.minilm(), alone=name == "bert-large")
    shared = Path(os.environ.get("BERTONNX_SHARED", ""))
    if not os.environ.get("BERTONNX_SHARED"):
        _say("BERTONNX_SHARED names no folder: the sentiment model is left out")
        return
    _say("preparing the sentiment model")
    checkpoint = shared / "models" / "sst2-minilm"
    bertonnx.export(checkpoint, folder / "sst2-fp16.onnx", precision="fp16", force=True)
    lines = (shared / "data" / "sst2_dev.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[0] for line in lines]
    with tempfile.TemporaryDirectory() as aside:
        path = bertonnx.export(checkpoint, Path(aside, "sst2.onnx")).path
        with bertonnx.load(path, "cpu") as model:
            labels = [item["label"] for item in model.classify(texts)]
    (folder / "sst2-labels.json").write_text(json.dumps({"texts": texts, "labels": labels}), encoding="utf-8")


def _introduction(options: argparse.Namespace) -> str:
    rehearsed = "**A rehearsal on a CPU with a tiny model: the figures mean nothing.**\n\n"
    return (rehearsed if options.rehearse else "") + (
        f"From text to embeddings (mean pooling, length 1), {options.rounds} rounds in turn, every other "
        "backwards; medians. Random weights, the same for all. The cosine is the least to that of torch "
        "SDPA, sorted, over 512 texts. TFLOP/s are useful ones: padding is not counted."
    )


def _device(device: str) -> str:
    if device == "cpu":
        return "## Device\n\n- the CPU"
    import torch

    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
    said = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"## Device\n\n- {said or torch.cuda.get_device_name()}\n- CUDA of torch: {torch.version.cuda}"


def mixed(count: int, tokenizer: Tokenizer, *, lengths: Callable[[np.random.Generator], int]) -> list[str]:
    """Return different texts of so many tokens each, special tokens included.

    Words are tokenised one by one, so a text's length is the sum of its words'.
    """
    dice = np.random.default_rng(0)
    words = np.array(" ".join(source()[1]).split())
    known = {word: len(tokenizer.encode(word, add_special_tokens=False).ids) for word in set(words.tolist())}
    sizes = np.array([known[word] for word in words.tolist()])
    words, sizes = np.concatenate([words, words]), np.concatenate([sizes, sizes])
    ends = np.cumsum(sizes)
    texts: dict[str, None] = {}
    while len(texts) < count:
        length = lengths(dice) - 2
        start = int(dice.integers(len(words) // 2))
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + length, side="right"))
        missing = length - (int(ends[stop - 1]) - before if stop > start else 0)
        texts[" ".join([*words[start:stop].tolist(), *["the"] * missing])] = None
    return list(texts)


def _model(name: str, options: argparse.Namespace, work: Path) -> Iterator[str]:
    from recipe import SHAPES

    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = mixed(
        max(1, round(TEXTS * options.part)),
        tokenizer,
        lengths=lambda dice: int(dice.integers(SHORTEST, LONGEST + 1)),
    )
    tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    singles = {n: mixed(8, tokenizer, lengths=lambda _, n=n: n) for n in LATENCY_LENGTHS}
    entries = _loaded(name, options, work)
    _warm_up(name, entries, texts, singles)
    for number in range(options.rounds):
        _say(f"{name}: round {number + 1} of {options.rounds}")
        for entry in _turn(entries, number):
            _guarded(entry, lambda entry=entry: entry.throughput.append(_seconds(entry.engine, texts)))
        for length, given in singles.items():
            for entry in _turn(entries, number):
                _guarded(
                    entry,
                    lambda entry=entry, length=length, given=given: _latency(
                        entry, length, given, options.runs
                    ),
                )
    shape = SHAPES[name]
    flops = useful_flops(tokens, layers=shape.layers, width=shape.width, inner=shape.inner)
    yield f"## {name}"
    yield f"{len(texts)} texts, {np.mean(tokens):.0f} tokens on average.\n\n" + _table(
        entries, len(texts), flops
    )
    yield from _model_verdicts(name, entries)


def _loaded(name: str, options: argparse.Namespace, work: Path) -> dict[str, Entry]:
    from engines import ENGINES, Setup
    from recipe import SHAPES, fill

    optimum = options.folder / f"{name}-optimum"
    filled = work / optimum.name
    filled.mkdir()
    for file in optimum.iterdir():
        if file.suffix != ".onnx":
            (filled / file.name).write_bytes(file.read_bytes())
    fill(optimum / "model.onnx", filled / "model.onnx", SHAPES[name])
    files = {precision: work / f"{name}-{precision}.onnx" for precision in ("fp32", "fp16")}
    setup = Setup(SHAPES[name], files, filled, options.folder / "tokenizer.json", options.device)
    entries = {}
    for key, made in ENGINES.items():
        _say(f"{name}: loading {key}")
        entries[key] = Entry(made)
        _guarded(entries[key], lambda entry=entries[key]: setattr(entry, "engine", entry.engine(setup)))
    return entries


def _warm_up(name: str, entries: dict[str, Entry], texts: list[str], singles: dict[int, list[str]]) -> None:
    """Tune batch sizes, compile, fill caches, and compare the vectors."""
    from engines import BUDGETS

    sample = texts[: max(64, len(texts) // 20)]
    vectors: dict[str, Any] = {}

    def warm(key: str, entry: Entry) -> None:
        if entry.engine.budget is not None:
            seconds = {}
            for budget in BUDGETS:
                entry.engine.budget = budget
                entry.engine.embed(sample)  # memory is laid out, and code compiled
                seconds[budget] = _seconds(entry.engine, sample)
            entry.engine.budget = min(seconds, key=lambda budget: seconds[budget])
        vectors[key] = entry.engine.embed(texts[:512])
        entry.engine.embed(sample)
        for given in singles.values():
            for text in given:
                entry.engine.embed([text])

    for key, entry in _working(entries):
        _say(f"{name}: warming up {key}")
        _guarded(entry, lambda key=key, entry=entry: warm(key, entry))
    if REFERENCE not in vectors:
        raise SystemExit(f"the reference, {REFERENCE}, failed: {entries[REFERENCE].error}")
    for key, found in vectors.items():
        entries[key].cosine = float((found * vectors[REFERENCE]).sum(axis=1).min())


def _seconds(engine: Any, texts: Sequence[str]) -> float:
    began = time.perf_counter()
    engine.embed(texts)
    return time.perf_counter() - began


def _latency(entry: Entry, length: int, given: Sequence[str], runs: int) -> None:
    entry.latency.setdefault(length, []).extend(
        _seconds(entry.engine, [given[i % len(given)]]) for i in range(runs)
    )


def _working(entries: dict[str, Entry]) -> list[tuple[str, Entry]]:
    return [(key, entry) for key, entry in entries.items() if not entry.error]


def _turn(entries: dict[str, Entry], number: int) -> list[Entry]:
    working = [entry for _, entry in _working(entries)]
    return working if number % 2 else working[::-1]


def _guarded(entry: Entry, work: Callable[[], object]) -> None:
    """Note what an engine raises on its row; the others go on."""
    try:
        work()
    except Exception as error:  # whatever a library raises is a cell of the table
        entry.error = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _say(f"  failed: {entry.error}")


def _table(entries: dict[str, Entry], texts: int, flops: float) -> str:
    ours = common.median(entries["bertonnx"].throughput) if not entries["bertonnx"].error else float("nan")
    rows = []
    for _, entry in sorted(_working(entries), key=lambda item: common.median(item[1].throughput)):
        seconds = common.median(entry.throughput)
        rows.append(
            (
                entry.engine.name,
                entry.engine.precision,
                f"{texts / seconds:.0f}",
                f"{flops / seconds / 1e12:.2f}",
                f"{seconds / ours:.2f}",
                *(f"{1e3 * common.median(entry.latency[n]):.2f}" for n in LATENCY_LENGTHS),
                f"{entry.cosine:.5f}",
                entry.engine.budget or "",
            )
        )
    failed = [
        f"Not measured: {entry.engine.name} ({entry.engine.precision}): {entry.error}"
        for entry in entries.values()
        if entry.error
    ]
    header = ("", "precision", "texts/s", "TFLOP/s", "bertonnx fp16: times as fast")
    latency = [f"{n} tokens, ms" for n in LATENCY_LENGTHS]
    table = common.table((*header, *latency, "cosine", "tokens a batch"), rows)
    return "\n\n".join([table, *failed])


def _model_verdicts(name: str, entries: dict[str, Entry]) -> Iterator[str]:
    good = dict(_working(entries))
    peers = {key: entry for key, entry in good.items() if entry.engine.torch}
    if "bertonnx" not in good or not peers:
        yield common.verdict(False, f"{name}: all of it", _DID_NOT_RUN)
        return
    ours = good["bertonnx"]
    best = min(peers.values(), key=lambda entry: common.median(entry.throughput))
    ratio = common.median(best.throughput) / common.median(ours.throughput)
    claim = f"{name}: fp16 throughput at least that of the best torch engine ({best.engine.name})"
    yield common.verdict(ratio >= 1, claim, f"{ratio:.2f} times")
    if "optimum" in good:
        ratio = common.median(good["optimum"].throughput) / common.median(ours.throughput)
        claim = f"{name}: fp16 throughput at least {OF_OPTIMUM} times Optimum's ORTModel"
        yield common.verdict(ratio >= OF_OPTIMUM, claim, f"{ratio:.2f} times")
    for length in LATENCY_LENGTHS:
        first = min(peers.values(), key=lambda entry: common.median(entry.latency[length]))
        theirs, own = (1e3 * common.median(entry.latency[length]) for entry in (first, ours))
        claim = f"{name}: one text of {length} tokens sooner than every torch engine ({first.engine.name})"
        yield common.verdict(own < theirs, claim, f"{own:.2f} ms against {theirs:.2f}")


def _large(name: str, options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Measure one long length, and the rate of matrix products around it."""
    from engines import matrix_rate
    from recipe import SHAPES

    import bertonnx

    shape, tokenizer = SHAPES[name], Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = mixed(max(8, round(LARGE_TEXTS * options.part)), tokenizer, lengths=lambda _: LARGE_TOKENS)
    flops = useful_flops(
        [LARGE_TOKENS] * len(texts), layers=shape.layers, width=shape.width, inner=shape.inner
    )
    size, rates, speeds = (256 if options.rehearse else 8192), [], []
    with bertonnx.load(work / f"{name}-fp16.onnx", options.device) as model:
        model.embed(texts)
        for _ in range(options.rounds):
            rates.append(matrix_rate(options.device, size))
            began = time.perf_counter()
            model.embed(texts)
            speeds.append(flops / (time.perf_counter() - began) / 1e12)
    share = common.median(speeds) / common.median(rates)
    yield (
        f"## {name} at {LARGE_TOKENS} tokens\n\n{len(texts)} texts from text to vectors: "
        f"{common.median(speeds):.3g} TFLOP/s; bf16 products of {size} x {size} in the same sitting: "
        f"{common.median(rates):.3g} TFLOP/s."
    )
    claim = f"{name} at {LARGE_TOKENS} tokens: at least {OF_MATRIX:.0%} of the bf16 matrix rate"
    yield common.verdict(share >= OF_MATRIX, claim, f"{share:.0%}")


def _agreement(models: Sequence[str], options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Compare the device with the CPU: fp32's numbers, and fp16's labels."""
    import bertonnx

    yield "## Agreement"
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = mixed(64, tokenizer, lengths=lambda dice: int(dice.integers(SHORTEST, LONGEST + 1)))
    for name in models:
        path = work / f"{name}-fp32.onnx"
        with bertonnx.load(path, "cpu") as cpu, bertonnx.load(path, options.device) as other:
            apart = float(np.abs(cpu.embed(texts) - other.embed(texts)).max())
        claim = f"{name}: fp32 within {FP32_APART:g} of the CPU"
        yield common.verdict(apart <= FP32_APART, claim, f"{apart:.2g}")
    noted = options.folder / "sst2-labels.json"
    if not noted.is_file():
        yield "Not measured: fp16's labels; --prepare ran without BERTONNX_SHARED."
        return
    expected = json.loads(noted.read_text(encoding="utf-8"))
    with bertonnx.load(options.folder / "sst2-fp16.onnx", options.device) as model:
        labels = [item["label"] for item in model.classify(expected["texts"])]
    same = float(np.mean([a == b for a, b in zip(labels, expected["labels"], strict=True)]))
    claim = f"sentiment model: at least {LABELS_SAME:.1%} of fp16's labels are fp32's"
    yield common.verdict(same >= LABELS_SAME, claim, f"{same:.2%} of {len(labels)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
