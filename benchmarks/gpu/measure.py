"""What is measured on the GPU: throughput, single texts, one long length, agreement with the CPU."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import bertonnx
import common
from common import say
from gpu.engines import BUDGETS, ENGINES, Setup, matrix_rate
from gpu.recipe import SHAPES, fill
from gpu.report import FP32_APART, LABELS_SAME, OF_MATRIX, Entry, results, verdicts, working
from gpu.texts import exactly, passages
from peers.texts import LATENCY_LENGTHS, useful_flops

__all__ = ["agreement", "large", "model"]

TEXTS, LARGE_TEXTS, LARGE_TOKENS = 100_000, 4096, 384
REFERENCE = "torch-sorted"


def model(name: str, options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Measure one model's sizes with every engine, and yield what is to be said.

    Args:
        name: one of `SHAPES`.
        options: of the command line.
        work: where bertonnx's filled graphs lie.
    """
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = passages(max(1, round(TEXTS * options.part)), tokenizer)
    tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    singles = {n: exactly(n, 8, tokenizer) for n in LATENCY_LENGTHS}
    entries = _loaded(name, options, work)
    _warm_up(name, entries, texts, singles)
    for number in range(options.rounds):
        say(f"{name}: round {number + 1} of {options.rounds}")
        for entry in _turn(entries, number):
            # A slow one gets a part of the texts; it says so by its name.
            some = texts[: max(1, round(len(texts) * entry.engine.part))]
            with _excused(entry):
                entry.throughput.append(_seconds(entry.engine, some) * len(texts) / len(some))
        for length, given in singles.items():
            for entry in _turn(entries, number):
                with _excused(entry):
                    seconds = (_seconds(entry.engine, [given[i % len(given)]]) for i in range(options.runs))
                    entry.latency.setdefault(length, []).extend(seconds)
    shape = SHAPES[name]
    flops = useful_flops(tokens, layers=shape.layers, width=shape.width, inner=shape.inner)
    yield f"## {name}"
    yield f"{len(texts)} texts, {np.mean(tokens):.0f} tokens on average."
    yield results(entries, len(texts), flops)
    yield from verdicts(name, entries)


def _loaded(name: str, options: argparse.Namespace, work: Path) -> dict[str, Entry]:
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
        if options.engines and key not in options.engines:
            continue
        say(f"{name}: loading {key}")
        entries[key] = Entry(made)
        with _excused(entries[key]):
            entries[key].engine = made(setup)
    return entries


def _warm_up(name: str, entries: dict[str, Entry], texts: list[str], singles: dict[int, list[str]]) -> None:
    """Tune batch sizes, compile, fill caches, and compare the vectors."""
    sample = texts[: max(64, len(texts) // 20)]
    vectors: dict[str, Any] = {}
    for key, entry in working(entries).items():
        say(f"{name}: warming up {key}")
        with _excused(entry):
            _tune(entry.engine, sample)
            vectors[key] = entry.engine.embed(texts[:512])
            entry.engine.embed(sample)
            for given in singles.values():
                for text in given:
                    entry.engine.embed([text])
    if REFERENCE not in vectors:
        raise SystemExit(f"the reference, {REFERENCE}, failed: {entries[REFERENCE].error}")
    for key, found in vectors.items():
        entries[key].cosine = float((found * vectors[REFERENCE]).sum(axis=1).min())


def _tune(engine: Any, sample: Sequence[str]) -> None:
    """Take the fastest batch size, of an engine that has one."""
    if engine.budget is None:
        return
    seconds = {}
    for budget in BUDGETS:
        engine.budget = budget
        engine.embed(sample)  # Memory is laid out, and code compiled.
        seconds[budget] = _seconds(engine, sample)
    engine.budget = min(seconds, key=lambda budget: seconds[budget])


def _seconds(engine: Any, texts: Sequence[str]) -> float:
    began = time.perf_counter()
    engine.embed(texts)
    return time.perf_counter() - began


def _turn(entries: dict[str, Entry], number: int) -> list[Entry]:
    """Return the engines that still work, every other round backwards."""
    found = list(working(entries).values())
    return found if number % 2 else found[::-1]


@contextmanager
def _excused(entry: Entry) -> Iterator[None]:
    """Note what an engine raises on its row; the others go on."""
    try:
        yield
    except Exception as error:  # whatever a library raises is a cell of the table
        entry.error = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        say(f"  failed: {entry.error}")


def large(name: str, options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Measure one long length, and the rate of matrix products around it."""
    shape, tokenizer = SHAPES[name], Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = exactly(LARGE_TOKENS, max(8, round(LARGE_TEXTS * options.part)), tokenizer)
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


def agreement(models: Sequence[str], options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Compare the device with the CPU: fp32's numbers, and fp16's labels."""
    yield "## Agreement"
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = passages(64, tokenizer)
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
