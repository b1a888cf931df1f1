"""What is measured: cells, and in each its entries in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import common
from common import say
from peers.child import Child, PeerError
from peers.engines import ENGINES
from peers.prepare import MODELS, interpreter
from peers.texts import LATENCY_LENGTHS

__all__ = ["SINGLE", "WORKLOADS", "Cell", "Pool", "cells", "entries", "measured", "reference"]

WORKLOADS = ("short", "mixed")
SINGLE = "single"
REFERENCE = "torch-sorted"
SLOW = 1.5
"""A peer goes on after the first round where it took at most so many times the fastest peer's time."""

Results = dict[str, Any]


class Cell(NamedTuple):
    """What is compared: a model on so many threads, in fp32 or INT8, with a workload or single texts."""

    model: str
    threads: int
    precision: str
    task: str

    @property
    def name(self) -> str:
        """What it is called in the files."""
        return " ".join(map(str, self))


class Pool:
    """The processes of a model on so many threads in a precision, each begun when it is first asked for.

    Args:
        run: a folder with the files of setups and texts.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._group: tuple[object, ...] = ()
        self._children: dict[str, Child] = {}
        self._stack = ExitStack()

    def enter(self, cell: Cell) -> None:
        """End the processes of other cells' groups, which would take the memory of this one's."""
        if self._group != cell[:3]:
            self.close()
            self._group = cell[:3]

    def child(self, engine: str, cell: Cell) -> Child:
        """Return the process of an engine, or of `sgemm`.

        Raises:
            PeerError: it cannot load the model.
        """
        if engine not in self._children:
            self._children[engine] = self._stack.enter_context(self._opened(engine, cell))
        return self._children[engine]

    def close(self) -> None:
        """End all processes."""
        self._stack.close()
        self._children.clear()

    @contextmanager
    def _opened(self, engine: str, cell: Cell) -> Iterator[Child]:
        environment = "current" if engine == "sgemm" else ENGINES[engine].environment
        child = Child(
            engine,
            self._run / f"{cell.model}-setup.json",
            self._run / f"{cell.model}-texts.json",
            interpreter=interpreter(environment),
            cores=cell.threads,
            log=self._run / f"{cell.model}-{engine}.log",
            # What holds OpenBLAS to an older core would halve the rate that all are compared with.
            unset=common.OLDER_CORE if engine == "sgemm" else (),
        )
        try:
            yield child
        finally:
            child.close()


def cells(models: Sequence[str], threads: Sequence[int]) -> list[Cell]:
    """Return all cells, those that share processes behind one another."""
    return [
        Cell(model, count, precision, task)
        for model in models
        for count in threads
        for precision in ("fp32", "int8")
        for task in (*WORKLOADS, SINGLE)
    ]


def entries(cell: Cell, asked: Sequence[str], most: int) -> list[str]:
    """Return which engines take part in a cell, where so many threads are the most."""
    return [name for name in asked if _takes_part(name, cell, most)]


def _takes_part(name: str, cell: Cell, most: int) -> bool:
    engine = ENGINES[name]
    if (engine.precision == "int8") != (cell.precision == "int8"):
        return False
    if engine.precision == "auto" and not common.instructions() & {"avx512_bf16", "amx_bf16", "bf16"}:
        # It would choose fp32, which has its own entry.
        return False
    if cell.task == SINGLE:
        return engine.latency
    if engine.ours or engine.budget is not None:
        return True
    return cell.threads == most and (engine.sorts or cell.model == "minilm")


def reference(model: str, threads: int, pool: Pool, target: Path) -> None:
    """Write torch's vectors of the mixed passages, which all entries are compared with."""
    cell = Cell(model, threads, "fp32", "mixed")
    pool.enter(cell)
    pool.child(REFERENCE, cell).ask(do="embed", texts="mixed", save=str(target))


def measured(
    cell: Cell, names: Sequence[str], pool: Pool, *, rounds: int, tuned: Mapping[str, int | None], run: Path
) -> Results:
    """Return what was measured of a cell.

    Args:
        cell: which.
        names: its entries.
        pool: their processes.
        rounds: how often those are measured that are not far behind.
        tuned: batch sizes that are known already, by entry.
        run: a folder for vectors, with those of the reference.
    """
    pool.enter(cell)
    found: Results = {name: {"times": {}} for name in names}
    for name, entry in found.items():
        say(f"{cell.name}: {name}")
        with _excused(entry):
            child = pool.child(name, cell)
            entry["version"] = child.version
            _warm_up(child, cell, entry, tuned.get(name), run / "vectors.npy")
            if cell.task == "mixed":
                entry["cosine"] = _cosine(run / "vectors.npy", run / f"{cell.model}-reference.npy")
    rates = []
    for number in range(rounds):
        rates.append(pool.child("sgemm", cell).ask(do="sgemm"))
        going = [name for name in names if "error" not in found[name] and not (number and _slow(name, found))]
        for name in going if number % 2 else reversed(going):
            with _excused(found[name]):
                _round(pool.child(name, cell), cell, found[name]["times"])
    kernels = sorted({rate["kernels"] for rate in rates})
    return {"sgemm": [rate["gflops"] for rate in rates], "kernels": kernels, "entries": found}


@contextmanager
def _excused(entry: Results) -> Iterator[None]:
    """Write a peer's failure into its entry; the others go on."""
    try:
        yield
    except PeerError as error:
        entry["error"] = str(error)


def _warm_up(child: Child, cell: Cell, entry: Results, known: int | None, save: Path) -> None:
    if cell.task == SINGLE:
        for length in LATENCY_LENGTHS:
            child.ask(do="latency", texts=str(length), runs=1 if length == max(LATENCY_LENGTHS) else 2)
        return
    budgets = MODELS[cell.model].budgets if known is None else (known,)
    saved = str(save) if cell.task == "mixed" else None
    entry["budget"] = child.ask(do="tune", texts=cell.task, budgets=budgets, save=saved)["budget"]


def _round(child: Child, cell: Cell, times: Results) -> None:
    if cell.task != SINGLE:
        seconds = child.ask(do="embed", texts=cell.task, save=None)["seconds"]
        times.setdefault(cell.task, []).append(seconds)
        return
    for length, runs in zip(LATENCY_LENGTHS, MODELS[cell.model].runs, strict=True):
        seconds = child.ask(do="latency", texts=str(length), runs=runs)["seconds"]
        times.setdefault(str(length), []).extend(seconds)


def _slow(name: str, found: Results) -> bool:
    """Return whether an entry has been far behind the fastest peer of its precision in all that it did."""
    engine = ENGINES[name]
    rivals = [
        entry["times"]
        for rival, entry in found.items()
        if "error" not in entry and not ENGINES[rival].ours and ENGINES[rival].precision == engine.precision
    ]
    return not engine.ours and all(
        median(seconds) > SLOW * min(median(times[what]) for times in rivals)
        for what, seconds in found[name]["times"].items()
    )


def _cosine(vectors: Path, wanted: Path) -> dict[str, float]:
    """Return the least and mean cosine with the reference's vectors."""
    ours, theirs = (np.load(path).astype(np.float64) for path in (vectors, wanted))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / norms
    return {"least": float(cosines.min()), "mean": float(cosines.mean())}
