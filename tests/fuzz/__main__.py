"""All fuzzers at once, with a fresh seed, and what came of them: `python -m tests.fuzz`.

10,000 inputs (readers and texts), 2,000 model files, and 100 runs that are killed at least once each, with a
real model and without one. `--readers 500 --kills 10` runs those alone, with so many seeds. Exit code 1 where
anything went wrong; what it was is printed with its seed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.driver import drive, environment
from tests.jobs import ROOT

__all__ = ["main"]

SEEDS = {"readers": 6000, "texts": 4000, "models": 2000, "kills": 100, "real_kills": 100}
"""What each worker gets where none is named."""

COLUMNS = ("fuzzer", "seeds", "kills", "tracebacks", "signals", "hangs", "wrong")


def main(arguments: Sequence[str]) -> int:
    """Run the fuzzers; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 40), help="where seeds begin")
    for name, usual in SEEDS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"seeds of {name}.py, usually {usual}")
    given = vars(parser.parse_args(arguments))
    # Who names some means those alone.
    named = any(given[name] is not None for name in SEEDS)
    counts = {name: (given[name] or 0) if named else usual for name, usual in SEEDS.items()}
    print(f"seed {given['seed']}")
    print("  ".join(f"{column:<10}" for column in COLUMNS).rstrip(), flush=True)
    began = time.monotonic()
    faults: list[str] = []
    for name, count in counts.items():
        if count:
            faults += _fuzz(name, count, given["seed"])
    print(f"{len(faults)} faults in {(time.monotonic() - began) / 60:.0f} minutes")
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


def _fuzz(name: str, count: int, first: int) -> list[str]:
    """Give a fuzzer so many seeds, print its line of the table, and return what went wrong."""
    worker = Path(__file__).with_name(f"{name}.py")
    with tempfile.TemporaryDirectory() as folder:
        # No seeds: what a worker makes before the first may take longer than a hang does.
        subprocess.run([sys.executable, worker, folder, "0", "0"], cwd=ROOT, env=environment(), check=True)
        tally = drive(worker, Path(folder), first=first, count=count)
    found = (tally.tracebacks, tally.signals, tally.hangs, tally.wrong)
    cells = (name, tally.inputs, tally.kills, *map(len, found))
    print("  ".join(f"{cell!s:<10}" for cell in cells).rstrip(), flush=True)
    return tally.faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
