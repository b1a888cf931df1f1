"""The tables, the bars that were set, and the charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from bertonnx.runtime.bench.chart import Bars, svg
from common import table, verdict

__all__ = ["body", "charts"]

OURS = {"fp32": "bertonnx", "int8": "bertonnx-int8"}
LENGTHS = ("16", "128", "512")

FASTER = {"fp32": 1.0, "int8": 1.15}
OF_SGEMM = {"minilm": 0.88, "bert-base": 0.94}
INT8_GAIN = 1.6
LABELS = {"fp32": "fp32", "int8": "INT8"}

Results = dict[str, Any]

_INTRODUCTION = """\
From text to embeddings (mean pooling, length 1), one process for each entry, in turn on the same machine,
every other round backwards; an entry that waits is stopped. GFLOP/s are useful ones: padding is not
counted; "of SGEMM" is their share of the rate of matrix products on as many threads in the same cell.
"bertonnx: times as fast" is the entry's median time over bertonnx's of the same precision (an
entry of its own choice of precision is compared with fp32). Peers that were far behind after the first round
have one round. Entries that sort their texts had their batch size tuned in the warm-up. The cosine is to
torch's fp32 vectors of the mixed passages, the least of them and the mean."""


def body(results: Results) -> str:
    """Return the results in Markdown."""
    parts = [_INTRODUCTION]
    if results["quick"]:
        parts.append("**A quick trial with few texts and rounds: not a result to be quoted.**")
    parts.append(f"All cells took {results['minutes']:.0f} minutes.")
    every = [
        (name, threads, {**found, **_texts(about)})
        for name, about in results["models"].items()
        for threads, found in [(about["threads"], about), *about["fewer"].items()]
        if found["engines"]
    ]
    bars = [line for name, threads, found in every for line in _verdicts(name, threads, found)]
    met = sum(line.startswith("**met**") for line in bars)
    parts += ["## Bars", f"{met} of {len(bars)} are met.", *bars]
    for name, threads, found in every:
        parts += [f"## {name}, {_threads(threads)}", *_tables(found, results["rounds"])]
    return "\n\n".join(parts)


def _texts(about: Results) -> Results:
    return {what: about[what] for what in ("texts", "source")}


def _threads(count: int | str) -> str:
    return f"{count} thread{'s' * (int(count) > 1)}"


def charts(results: Results) -> Iterator[tuple[str, str]]:
    """Yield for each model and workload a name and an SVG; of the most threads."""
    for name, measured in results["models"].items():
        for workload, about in measured["texts"].items():
            speeds = {
                entry["name"]: about["flops"] / median(entry["seconds"][workload]) / 1e9
                for entry in measured["engines"].values()
                if workload in entry["seconds"]
            }
            bars = tuple(sorted(speeds.items(), key=lambda item: -item[1]))
            ours = frozenset(bar for bar, _ in bars if bar.startswith("bertonnx"))
            title = f"{name}, {about['texts']} {workload} texts: more is better"
            yield f"{name}-{workload}", svg(Bars(title, "useful GFLOP/s", bars, marked=ours))


def _tables(measured: Results, rounds: int) -> Iterator[str]:
    peak = measured["sgemm"]
    yield (
        f"Texts from {measured['source']}; {rounds} rounds. SGEMM in the same run "
        f"({', '.join(measured['kernels'])}): "
        f"median {median(peak):.0f}, {min(peak):.0f} to {max(peak):.0f} GFLOP/s."
    )
    for workload in measured["texts"]:
        yield _throughput(measured, workload)
    yield _latency(measured)
    for entry in measured["engines"].values():
        for task, why in entry["failed"].items():
            yield f"Not measured: {entry['name']}, {task}: {why}"


def _throughput(measured: Results, workload: str) -> str:
    about, engines = measured["texts"][workload], measured["engines"]
    there = [entry for entry in engines.values() if workload in entry["seconds"]]
    rows = []
    for entry in sorted(there, key=lambda entry: median(entry["seconds"][workload])):
        seconds = entry["seconds"][workload]
        kind = "int8" if entry["precision"] == "int8" else "fp32"
        ours = engines.get(OURS[kind], {"seconds": {}})["seconds"].get(workload)
        speed = about["flops"] / median(seconds) / 1e9
        cosine = entry.get("cosine")
        rows.append(
            (
                entry["name"],
                entry["precision"],
                len(seconds),
                f"{median(seconds):.2f}",
                f"{min(seconds):.2f}",
                f"{about['texts'] / median(seconds):.1f}",
                f"{speed:.0f}",
                f"{speed / median(measured['rates'][f'{kind} {workload}']):.2f}",
                f"{median(seconds) / median(ours):.2f}" if ours else "",
                *((f"{cosine[what]:.5f}" for what in ("least", "mean")) if cosine else ("", "")),
                entry["budget"].get(workload, ""),
            )
        )
    header = ("", "precision", "rounds", "median s", "minimum s", "texts/s", "GFLOP/s", "of SGEMM")
    last = ("bertonnx: times as fast", "cosine", "mean", "tokens a batch")
    mean = about["tokens"] / about["texts"]
    return f"### {about['texts']} {workload} texts, {mean:.0f} tokens on average\n\n" + table(
        (*header, *last), rows
    )


def _latency(measured: Results) -> str:
    rows = [
        (
            entry["name"],
            entry["precision"],
            *(f"{1000 * median(entry['latency'][length]):.1f}" for length in LENGTHS),
            *(f"{1000 * min(entry['latency'][length]):.1f}" for length in LENGTHS),
        )
        for entry in measured["engines"].values()
        if entry["latency"]
    ]
    header = ("", "precision", *(f"{n}, median ms" for n in LENGTHS), *(f"{n}, minimum" for n in LENGTHS))
    return f"### One text of so many tokens\n\n{table(header, rows)}"


def _verdicts(model: str, threads: int | str, measured: Results) -> Iterator[str]:
    """Yield a line for each bar, of each cell."""
    where, engines = f"{model}, {_threads(threads)}", measured["engines"]
    for precision in OURS:
        for workload in measured["texts"]:
            yield from _against(where, engines, "seconds", workload, precision)
        for length in LENGTHS:
            yield from _against(where, engines, "latency", length, precision)
    yield from _accuracy(where, engines)
    for workload, about in measured["texts"].items():
        fp32, int8 = (engines.get(ours, {"seconds": {}})["seconds"].get(workload) for ours in OURS.values())
        if fp32:
            share = about["flops"] / median(fp32) / 1e9 / median(measured["rates"][f"fp32 {workload}"])
            claim = f"{where}, {workload}, fp32: at least {OF_SGEMM[model]} of the rate of matrix products"
            yield verdict(share >= OF_SGEMM[model], claim, f"{share:.2f}")
        if fp32 and int8 and model == "bert-base":
            gain = median(fp32) / median(int8)
            claim = f"{where}, {workload}: INT8 at least {INT8_GAIN} times as fast as our fp32"
            yield verdict(gain >= INT8_GAIN, claim, f"{gain:.2f}")


def _against(
    where: str, engines: Mapping[str, Results], what: str, cell: str, precision: str
) -> Iterator[str]:
    """Compare with the best peer of a precision in a cell."""
    times = {
        name: entry[what][cell]
        for name, entry in engines.items()
        if entry["precision"] == precision and cell in entry[what]
    }
    ours = times.pop(OURS[precision], None)
    if ours and times:
        best = min(times, key=lambda name: median(times[name]))
        ratio, lowest = median(times[best]) / median(ours), min(times[best]) / min(ours)
        shown = f"one text of {cell} tokens" if what == "latency" else cell
        least = FASTER[precision]
        claim = f"{where}, {shown}, {LABELS[precision]}: at least {least:g} times as fast as the best peer"
        yield verdict(ratio >= least, claim, f"{ratio:.2f} (minima {lowest:.2f}) of {engines[best]['name']}")


def _accuracy(where: str, engines: Mapping[str, Results]) -> Iterator[str]:
    """Compare INT8's distance from fp32 with that of the nearest INT8 peer."""
    means = {
        name: entry["cosine"]["mean"]
        for name, entry in engines.items()
        if entry["precision"] == "int8" and "cosine" in entry
    }
    ours = means.pop(OURS["int8"], None)
    if ours and means:
        best = max(means, key=lambda name: means[name])
        claim = f"{where}, INT8: vectors nearer to fp32's than those of any INT8 peer"
        shown = f"mean cosine {ours:.5f}, and {means[best]:.5f} of {engines[best]['name']}"
        yield verdict(ours > means[best], claim, shown)
