"""The tables, the bars that were set, and the charts."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from bertonnx.runtime.bench.chart import Bars, svg
from common import table, verdict

__all__ = ["body", "charts"]

OURS, OURS_INT8 = "bertonnx", "bertonnx-int8"
LENGTHS = ("16", "128", "512")

FASTER, OF_SGEMM = 1.15, {"minilm": 0.88, "bert-base": 0.94}
INT8_GAIN = 1.6

Results = dict[str, Any]

_INTRODUCTION = """\
From text to embeddings (mean pooling, length 1), one process for each entry, in turn on the same machine,
every other round backwards; an entry that waits is stopped. GFLOP/s are useful ones: padding is not
counted. "bertonnx: times as fast" is the entry's median time over bertonnx's of the same precision (an
entry of its own choice of precision is compared with fp32). Entries that sort their texts had their batch
size tuned in the warm-up. The cosine is to torch's fp32 vectors of the mixed passages, the least of them."""


def body(results: Results) -> str:
    """Return the results in Markdown."""
    parts = [_INTRODUCTION]
    if results["quick"]:
        parts.append("**A quick trial with few texts and rounds: not a result to be quoted.**")
    for name, measured in results["models"].items():
        parts += [f"## {name}", *_model(name, measured, results["rounds"])]
    return "\n\n".join(parts)


def charts(results: Results) -> Iterator[tuple[str, str]]:
    """Yield for each model and workload a name and an SVG."""
    for name, measured in results["models"].items():
        for workload, about in measured["texts"].items():
            speeds = {
                entry["name"]: about["flops"] / median(entry["seconds"][workload]) / 1e9
                for entry in _good(measured).values()
            }
            bars = tuple(sorted(speeds.items(), key=lambda item: -item[1]))
            ours = frozenset(bar for bar, _ in bars if bar.startswith("bertonnx"))
            title = f"{name}, {about['texts']} {workload} texts: more is better"
            yield f"{name}-{workload}", svg(Bars(title, "useful GFLOP/s", bars, marked=ours))


def _model(name: str, measured: Results, rounds: int) -> Iterator[str]:
    peak = measured["sgemm"]
    yield (
        f"Texts from {measured['source']}; {rounds} rounds. SGEMM in the same run "
        f"({', '.join(measured['kernels'])}): "
        f"median {median(peak):.0f}, {min(peak):.0f} to {max(peak):.0f} GFLOP/s."
    )
    for workload in measured["texts"]:
        yield _throughput(measured, workload)
    yield _latency(measured)
    failed = [entry for entry in measured["engines"].values() if "error" in entry]
    yield from (f"Not measured: {entry['name']}: {entry['error']}" for entry in failed)
    yield from _verdicts(name, measured)


def _good(measured: Results) -> Results:
    return {peer: entry for peer, entry in measured["engines"].items() if "error" not in entry}


def _throughput(measured: Results, workload: str) -> str:
    about, good = measured["texts"][workload], _good(measured)
    rows = []
    for entry in sorted(good.values(), key=lambda entry: median(entry["seconds"][workload])):
        seconds = entry["seconds"][workload]
        ours = good.get(OURS_INT8 if entry["precision"] == "int8" else OURS)
        speed = about["flops"] / median(seconds) / 1e9
        rows.append(
            (
                entry["name"],
                entry["precision"],
                f"{median(seconds):.2f}",
                f"{min(seconds):.2f}",
                f"{about['texts'] / median(seconds):.0f}",
                f"{speed:.0f}",
                f"{speed / median(measured['sgemm']):.2f}",
                f"{median(seconds) / median(ours['seconds'][workload]):.2f}" if ours else "",
                f"{entry['cosine']['least']:.5f}",
                (entry.get("budget") or {}).get(workload) or "",
            )
        )
    header = ("", "precision", "median s", "minimum s", "texts/s", "GFLOP/s", "of SGEMM")
    mean = about["tokens"] / about["texts"]
    return f"### {about['texts']} {workload} texts, {mean:.0f} tokens on average\n\n" + table(
        (*header, "bertonnx: times as fast", "cosine", "tokens a batch"), rows
    )


def _latency(measured: Results) -> str:
    rows = [
        (
            entry["name"],
            entry["precision"],
            *(f"{1000 * median(entry['latency'][length]):.1f}" for length in LENGTHS),
            *(f"{1000 * min(entry['latency'][length]):.1f}" for length in LENGTHS),
        )
        for entry in _good(measured).values()
        if entry["latency"]
    ]
    header = ("", "precision", *(f"{n}, median ms" for n in LENGTHS), *(f"{n}, minimum" for n in LENGTHS))
    return f"### One text of so many tokens\n\n{table(header, rows)}"


def _verdicts(name: str, measured: Results) -> Iterator[str]:
    good = _good(measured)
    if OURS not in good:
        return
    for workload, about in measured["texts"].items():
        times = {peer: median(entry["seconds"][workload]) for peer, entry in good.items()}
        rivals = [peer for peer in good if good[peer]["precision"] == "fp32" and peer != OURS]
        best = min(rivals, key=lambda peer: times[peer])
        yield _ratio(f"{workload}: fp32 against {good[best]['name']}", times[best] / times[OURS], FASTER)
        share = about["flops"] / times[OURS] / 1e9 / median(measured["sgemm"])
        yield _ratio(f"{workload}: fp32 of SGEMM", share, OF_SGEMM[name])
        rivals = [peer for peer in good if good[peer]["precision"] == "int8" and peer != OURS_INT8]
        if OURS_INT8 in good and rivals:
            best = min(rivals, key=lambda peer: times[peer])
            gain = times[best] / times[OURS_INT8]
            yield _ratio(f"{workload}: INT8 against {good[best]['name']}", gain, FASTER)
        if OURS_INT8 in good and name == "bert-base":
            yield _ratio(f"{workload}: INT8 against our fp32", times[OURS] / times[OURS_INT8], INT8_GAIN)
    for precision, ours in (("fp32", OURS), ("int8", OURS_INT8)):
        yield from _single(good, precision, ours)


def _single(good: Results, precision: str, ours: str) -> Iterator[str]:
    """Compare single texts with the best peer of the same precision."""
    for length in LENGTHS:
        times = {
            peer: median(entry["latency"][length])
            for peer, entry in good.items()
            if entry["latency"] and entry["precision"] == precision
        }
        rivals = [peer for peer in times if peer != ours]
        if ours in times and rivals:
            best = min(rivals, key=lambda peer: times[peer])
            claim = f"one text of {length} tokens: {precision} against {good[best]['name']}"
            yield _ratio(claim, times[best] / times[ours], 1.0)


def _ratio(claim: str, value: float, bar: float) -> str:
    return verdict(value >= bar, f"{claim}, at least {bar:g} times", f"{value:.2f}")
