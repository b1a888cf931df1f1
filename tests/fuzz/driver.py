"""Drives workers of fuzzers: a line for each seed; where it is missing, the seed ended or held its worker."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.jobs import ROOT

__all__ = ["HANGS_AFTER", "Tally", "drive", "environment"]

HANGS_AFTER = 30.0
"""Seconds without a line after which a worker counts as hung."""

_AT_ONCE = 200

_PATIENCE = 10
"""How many times as long it may take where it waits for a processor of a busy machine."""


@dataclass
class Tally:
    """What came of the seeds of a fuzzer."""

    inputs: int = 0
    kills: int = 0
    tracebacks: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.tracebacks, *self.signals, *self.hangs, *self.wrong]


def drive(worker: Path, folder: Path, *, first: int, count: int, minutes: float = 0) -> Tally:
    """Give a worker so many seeds, or with `minutes` all that it can do in them."""
    tally = Tally()
    ends = time.monotonic() + 60 * minutes
    seed, last = first, first + count
    while seed < last or time.monotonic() < ends:
        until = seed + _AT_ONCE if minutes else min(seed + _AT_ONCE, last)
        seed = _some(worker, folder, seed, until, tally)
    return tally


def environment() -> dict[str, str]:
    """Return what a worker's process is given, so that it finds these tests."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _some(worker: Path, folder: Path, first: int, last: int, tally: Tally) -> int:
    """Run a worker over some seeds; return the seed to go on with."""
    command = [sys.executable, str(worker), str(folder), str(first), str(last)]
    with (
        (folder / "errors").open("w+b") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment(), cwd=ROOT
        ) as process,
    ):
        seed = first
        for line in _lines(process):
            # A sign of life from within a seed that takes long.
            line = line.lstrip(".")
            if not re.match(rf"{seed}\b", line):
                # Results go to standard output, where nothing else may print.
                tally.wrong.append(f"{worker.name} {seed}: printed {line!r}")
                continue
            seed += 1
            tally.inputs += 1
            killed = re.search(r" kills (\d+)", line)
            tally.kills += int(killed[1]) if killed else 0
            if " TRACEBACK " in line:
                tally.tracebacks.append(line)
            elif " WRONG " in line:
                tally.wrong.append(line)
        if seed == last and process.wait(HANGS_AFTER) == 0:
            return last
        tally.inputs += 1
        if process.poll() is None:
            process.kill()
            tally.hangs.append(f"{worker.name} {seed}: no line for {HANGS_AFTER:.0f} s")
        else:
            errors.seek(0)
            said = errors.read()[-500:].decode(errors="replace")
            tally.signals.append(f"{worker.name} {seed}: ended with {process.returncode}: {said}")
        return seed + 1


def _lines(process: subprocess.Popen[bytes]) -> list[str]:
    """Return the lines as they come, until the end or until none came for too long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        held = b""
        lines = []
        waited: list[float] = []
        while True:
            if not selector.select(HANGS_AFTER):
                waited.append(_work(process.pid))
                # At work for half of that time since it was first looked at, or not at all: it hangs. Else it
                # waits for a processor of a busy machine.
                if waited[-1] < 0 or waited[-1] - waited[0] > HANGS_AFTER / 2 or len(waited) > _PATIENCE:
                    break
                continue
            waited.clear()
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                process.wait()
                break
            *whole, held = (held + data).split(b"\n")
            lines += [line.decode(errors="replace") for line in whole]
    return lines


def _work(worker: int) -> float:
    """Return the seconds that a worker and its children have worked; -1 where all of them only wait."""
    seconds, working = 0.0, False
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of a program, in brackets, can hold anything.
            number, _, rest = place.read_text().partition(" (")
        except OSError:
            continue  # it has ended
        state, parent, *figures = rest.rpartition(") ")[2].split()
        if worker in (int(number), int(parent)):
            working |= state in "RD"
            # Its own time, and that of children that have ended.
            seconds += sum(map(int, figures[9:13])) / os.sysconf("SC_CLK_TCK")
    return seconds if working else -1
