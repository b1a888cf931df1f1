"""The page of `benchmarks/serve`: tables of each part, and what became of each bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common import median, table, verdict

__all__ = ["Figures", "body"]

Figures = dict[str, Any]


def body(there: Mapping[str, Figures]) -> Iterator[str]:
    """Yield the page of figures by their parts, a paragraph each."""
    yield (
        "all-MiniLM-L6-v2 in INT8; the client is a process of its own on the same cores. Times in "
        "milliseconds, from when a request is sent (of open loops: should be) to the end of its answer."
    )
    for part, figures in there.items():
        yield f"## {part[0].upper()}{part[1:]}"
        if "failed" in figures:
            yield from (verdict(False, claim, f"nothing; {figures['failed']}") for claim in _CLAIMS[part])
        else:
            yield from _SAID[part](figures)


def _said_load(figures: Figures) -> Iterator[str]:
    rows = []
    for row in figures["rows"]:
        good = row["by_status"].get("200", {"p50": 0.0, "p99": 0.0})
        others = (
            sum(one["count"] for status, one in row["by_status"].items() if status != "200") + row["lost"]
        )
        rows.append(
            [
                f"{row['kind']}, {row['clients']} clients",
                f"{row['a_second']:.0f}",
                *(f"{good[name]:.1f}" for name in ("p50", "p99")),
                others,
                f"{row['cores']:.2f}",
                f"{row['cpu']:.2f}",
            ]
        )
    header = ["texts", "requests/s", "p50", "p99", "not answered", "cores of the server", "of the client"]
    yield table(header, rows)
    beside = figures["beside"]
    yield table(
        ["one short text a request", "texts/s, median", "all rounds"],
        [
            [name, f"{median(runs):.0f}", ", ".join(f"{run:.0f}" for run in runs)]
            for name, runs in beside.items()
        ],
    )
    ratio = median(beside["server"]) / median(beside["calls of 32"])
    fast, same = _CLAIMS["load"]
    yield verdict(ratio >= 0.8, fast, f"{ratio:.2f}")
    bits = figures["bits"]
    yield verdict(not bits["other"], same, f"{bits['texts']} texts")


def _said_open(figures: Figures) -> Iterator[str]:
    rows, runs = [], {}
    for run in figures["runs"]:
        good = run["by_status"].get("200", {"count": 0, "p50": 0.0, "p99": 0.0})
        full = run["by_status"].get("429", {"count": 0, "p99": 0.0})
        runs[run["queue"], run["share"]] = good, full
        name = f"{run['share']:.0%} of capacity" if run["share"] else "one client alone"
        rows.append(
            [
                f"{name}, queue of {run['queue']}",
                f"{run['offered'] or run['a_second']:.0f}",
                *(f"{good[name]:.1f}" for name in ("p50", "p99")),
                f"{full['count'] / max(1, full['count'] + good['count']):.0%}",
                f"{full['p99']:.1f}",
                run["lost"],
                f"{run['cpu']:.2f}",
            ]
        )
    best = figures["best"]
    name = f"at best, on {best['cores']} cores without a server"
    rows.insert(2, [name, f"{best['rate']:.0f}", f"{best['p50']:.1f}", f"{best['p99']:.1f}", "", "", "", ""])
    header = ["load", "requests/s", "p50", "p99", "got 429", "p99 of these", "lost", "cores of the client"]
    yield table(header, rows)
    soon, bounded, refused_soon = _CLAIMS["open"]
    queue = figures["runs"][0]["queue"]
    lone, half = runs[queue, 0.0][0], runs[queue, 0.5][0]
    met = half["p99"] <= max(2 * lone["p99"], 1.5 * best["p99"])
    yield verdict(
        met, soon, " and ".join(f"{half['p99'] / one['p99']:.1f}" for one in (lone, best)) + " times"
    )
    near, over, refused = runs[queue, 0.9][0], *runs[queue, 1.5]
    ratio = over["p99"] / near["p99"]
    yield verdict(ratio < 2, bounded, f"{ratio:.2f} times")
    yield verdict(0 < refused["p99"] <= 50, refused_soon, f"{refused['p99']:.1f} ms")


def _said_peers(figures: Figures) -> Iterator[str]:
    rows, speeds = [], {}
    for name, runs in figures["found"].items():
        speeds[name] = median([run["a_second"] for run in runs])
        good = [run["by_status"].get("200", {"p50": 0.0, "p99": 0.0}) for run in runs]
        times = [f"{median([one[which] for one in good]):.1f}" for which in ("p50", "p99")]
        rows.append([name, f"{speeds[name]:.0f}", *times, f"{figures['starts'][name]:.1f}"])
    yield table(["server, 32 clients of one short text", "requests/s", "p50", "p99", "start, s"], rows)
    ours, *others = speeds.values()
    ratio = ours / max(others)
    (claim,) = _CLAIMS["peers"]
    yield verdict(ratio >= 3, claim, f"{ratio:.1f} times")


def _said_start(figures: Figures) -> Iterator[str]:
    ready, loaded = median(figures["serve"]), median(figures["load"])
    rows = [
        [name, f"{median(figures[which]):.3f}", f"{min(figures[which]):.3f}"]
        for name, which in (("`bertonnx serve`, until it listens", "serve"), ("`bertonnx.load`", "load"))
    ]
    yield table(["a process of its own", "seconds, median", "least"], rows)
    over = ready - loaded
    (claim,) = _CLAIMS["start"]
    yield verdict(over <= 0.3, claim, f"{over:.2f} s")


def _said_faults(figures: Figures) -> Iterator[str]:
    for fault in figures["faults"]:
        yield verdict(fault["holds"], fault["claim"], fault["measured"])


def _said_soak(figures: Figures) -> Iterator[str]:
    rows = [[f"{count:,}", f"{size / 2**20:.1f}"] for count, size in figures["memory"]]
    yield table(["after requests", "memory, MiB"], rows)
    first, last = (figures["memory"][place][1] for place in (0, -1))
    (claim,) = _CLAIMS["soak"]
    yield verdict(
        last <= 1.05 * first,
        claim,
        f"{last / first - 1:+.1%} after {figures['memory'][-1][0]:,}, at {figures['a_second']:.0f} "
        f"requests/s, {figures['missing']} not answered",
    )


_CLAIMS: Mapping[str, tuple[str, ...]] = {
    "load": (
        "32 clients of one short text: at least 0.80 of `embed` in calls of 32",
        "base64 and float answers have the bits of `embed`",
    ),
    "open": (
        "p99 at 50% at most twice the lone request's, or 1.5 times what is best on these cores",
        "at 150%, p99 of what is accepted under twice that at 90%",
        "at 150%, 429 comes within 50 ms (p99)",
    ),
    "peers": ("at least 3 times the best peer",),
    "start": ("start to ready at most 0.3 s over `bertonnx.load`",),
    "faults": ("what goes wrong with one client is noticed by no other",),
    "soak": ("memory after 100,000 requests at most 5% over that after 5,000",),
}

_SAID: Mapping[str, Callable[[Figures], Iterator[str]]] = {
    "load": _said_load,
    "open": _said_open,
    "peers": _said_peers,
    "start": _said_start,
    "faults": _said_faults,
    "soak": _said_soak,
}
