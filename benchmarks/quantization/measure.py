"""A model measured with every engine, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import bertonnx
from bertonnx.runtime.modelfile.modelfile import read_model_file
from common import minilm, table, verdict
from quantization.cases import Case, agreements, same
from quantization.engines import CTRANSLATE2, STOCK, Array, Engine, Run, engines_of, token_ids, unit

__all__ = ["measure_case", "size_of_bert_base"]

TOKENS = 512

Batch = tuple[list[int], Array]


def measure_case(case: Case, folder: Path, rounds: int) -> str:
    engines = list(engines_of(case.source, case.output, folder))
    encoded = token_ids(read_model_file(folder / "fp32.onnx"), case.texts)
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


def rank_correlation(first: Sequence[Array], second: Sequence[Array]) -> float:
    """Return Spearman's, of the cosines between neighbouring sentences (n - 1 pairs) of both."""
    ranks = []
    for results in (first, second):
        vectors = unit(np.array(results, dtype=np.float64))
        ranks.append((vectors[1:] * vectors[:-1]).sum(axis=1).argsort().argsort())
    return float(np.corrcoef(*ranks)[0, 1])


def cells(case: Case, engine: Engine, reference: Engine, encoded: Sequence[Array]) -> list[str]:
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


def equal_lengths(encoded: Sequence[Array]) -> Iterator[Batch]:
    groups: dict[int, list[int]] = {}
    for place, ids in enumerate(encoded):
        groups.setdefault(len(ids), []).append(place)
    for length in sorted(groups, reverse=True):
        size = max(1, TOKENS // length)
        for start in range(0, len(groups[length]), size):
            places = groups[length][start : start + size]
            yield places, np.stack([encoded[place] for place in places])


def predict(run: Run, batches: Sequence[Batch], threads: int) -> list[Array]:
    with ThreadPoolExecutor(threads) as pool:
        outputs = list(pool.map(run, [ids for _, ids in batches]))
    results: list[Array] = [np.empty(0)] * sum(len(places) for places, _ in batches)
    for (places, _), output in zip(batches, outputs, strict=True):
        for place, row in zip(places, output, strict=True):
            results[place] = row
    return results


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
