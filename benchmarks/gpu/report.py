"""The texts around the figures, the table and the bars of the GPU measurement."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
from peers.texts import LATENCY_LENGTHS

__all__ = [
    "DID_NOT_RUN",
    "FP32_APART",
    "LABELS_SAME",
    "OF_MATRIX",
    "Entry",
    "Report",
    "device",
    "introduction",
]
__all__ += ["results", "verdicts", "working"]

DID_NOT_RUN = "bertonnx or torch did not run"

OF_OPTIMUM, OF_MATRIX, FP32_APART, LABELS_SAME = 2.5, 0.4, 1e-3, 0.999


@dataclass
class Entry:
    """What was measured of one engine; seconds."""

    engine: Any
    throughput: list[float] = field(default_factory=list)
    latency: dict[int, list[float]] = field(default_factory=dict)
    cosine: float = float("nan")
    error: str = ""


class Report:
    """What is said, in the order in which it is found; kept in a file at once, should the rest be cut off.

    Args:
        out: the file; None for none.
    """

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self._parts: list[str] = []

    @property
    def body(self) -> str:
        """All that was said."""
        return "\n\n".join(self._parts)

    def add(self, parts: Iterable[str]) -> None:
        """Say something, paragraphs each."""
        for part in parts:
            self._parts.append(part)
            print(part, end="\n\n", flush=True)
            if self._out is not None:
                with self._out.open("a", encoding="utf-8") as file:
                    file.write(part + "\n\n")


def working(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the engines that did not fail."""
    return {key: entry for key, entry in entries.items() if not entry.error}


def introduction(rounds: int, *, rehearsed: bool) -> str:
    """Return what a reader must know first."""
    warning = "**A rehearsal on a CPU with a tiny model: the figures mean nothing.**\n\n"
    return (warning if rehearsed else "") + (
        f"From text to embeddings (mean pooling, length 1), {rounds} rounds in turn, every other "
        "backwards; medians. Random weights, the same for all. The cosine is the least to that of torch "
        "SDPA, sorted, over 512 texts. TFLOP/s are useful ones: padding is not counted."
    )


def device(name: str) -> str:
    """Return what is measured on."""
    if name == "cpu":
        return "## Device\n\n- the CPU"
    import torch

    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
    said = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"## Device\n\n- {said or torch.cuda.get_device_name()}\n- CUDA of torch: {torch.version.cuda}"


def results(entries: Mapping[str, Entry], texts: int, flops: float) -> str:
    """Return the table of one model, the fastest first, and what failed below it."""
    ours = common.median(entries["bertonnx"].throughput) if not entries["bertonnx"].error else float("nan")
    rows = []
    for entry in sorted(working(entries).values(), key=lambda entry: common.median(entry.throughput)):
        seconds = common.median(entry.throughput)
        rows.append(
            (
                entry.engine.name,
                entry.engine.precision,
                f"{texts / seconds:.0f}",
                f"{flops / seconds / 1e12:.2f}",
                f"{seconds / ours:.2f}",
                *(f"{1e3 * common.median(entry.latency[n]):.2f}" for n in LATENCY_LENGTHS),
                f"{entry.cosine:.5f}",
                entry.engine.budget or "",
            )
        )
    failed = [
        f"Not measured: {entry.engine.name} ({entry.engine.precision}): {entry.error}"
        for entry in entries.values()
        if entry.error
    ]
    header = ("", "precision", "texts/s", "TFLOP/s", "bertonnx fp16: times as fast")
    latency = [f"{n} tokens, ms" for n in LATENCY_LENGTHS]
    table = common.table((*header, *latency, "cosine", "tokens a batch"), rows)
    return "\n\n".join([table, *failed])


def verdicts(name: str, entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield whether one model met its bars."""
    good = working(entries)
    peers = {key: entry for key, entry in good.items() if entry.engine.torch}
    if "bertonnx" not in good or not peers:
        yield common.verdict(False, f"{name}: all of it", DID_NOT_RUN)
        return
    ours = good["bertonnx"]
    best = min(peers.values(), key=lambda entry: common.median(entry.throughput))
    ratio = common.median(best.throughput) / common.median(ours.throughput)
    claim = f"{name}: fp16 throughput at least that of the best torch engine ({best.engine.name})"
    yield common.verdict(ratio >= 1, claim, f"{ratio:.2f} times")
    if "optimum" in good:
        ratio = common.median(good["optimum"].throughput) / common.median(ours.throughput)
        claim = f"{name}: fp16 throughput at least {OF_OPTIMUM} times Optimum's ORTModel"
        yield common.verdict(ratio >= OF_OPTIMUM, claim, f"{ratio:.2f} times")
    for length in LATENCY_LENGTHS:
        first = min(peers.values(), key=lambda entry: common.median(entry.latency[length]))
        theirs, own = (1e3 * common.median(entry.latency[length]) for entry in (first, ours))
        claim = f"{name}: one text of {length} tokens sooner than every torch engine ({first.engine.name})"
        yield common.verdict(own < theirs, claim, f"{own:.2f} ms against {theirs:.2f}")
