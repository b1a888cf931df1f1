"""All fuzzers at once, with a fresh seed, and what came of them: `python -m tests.fuzz`.

`python -m tests.fuzz --readers 10000 --kills 100` says how many seeds each of them gets; those that are not
named get `--each`. Exit code 1 where anything went wrong; what it was is printed with its seed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.driver import drive, environment
from tests.jobs import ROOT

__all__ = ["main"]

HERE = Path(__file__).parent
WORKERS = {
    path.stem: path
    for path in sorted(HERE.glob("*.py"))
    # A worker is a program of its own, which prints a line for each seed.
    if not path.stem.startswith(("_", "test_")) and 'if __name__ == "__main__":' in path.read_text("utf-8")
}
COLUMNS = ("fuzzer", "seeds", "kills", "tracebacks", "signals", "hangs", "wrong")


def main(arguments: Sequence[str]) -> int:
    """Run the fuzzers; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 40), help="where seeds begin")
    parser.add_argument("--each", type=int, default=0, help="seeds of fuzzers that are not named")
    for name in WORKERS:
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"seeds of {name}.py")
    given = vars(parser.parse_args(arguments))
    print(f"seed {given['seed']}")
    print("  ".join(f"{column:<10}" for column in COLUMNS).rstrip(), flush=True)
    faults: list[str] = []
    for name, worker in WORKERS.items():
        count = given["each"] if given[name] is None else given[name]
        if not count:
            continue
        with tempfile.TemporaryDirectory() as folder:
            # No seeds: what a worker makes before the first may take longer than a hang does.
            subprocess.run(
                [sys.executable, worker, folder, "0", "0"], cwd=ROOT, env=environment(), check=True
            )
            tally = drive(worker, Path(folder), first=given["seed"], count=count)
        numbers = [tally.inputs, tally.kills, *map(len, (tally.tracebacks, tally.signals))]
        numbers += map(len, (tally.hangs, tally.wrong))
        print("  ".join(f"{cell!s:<10}" for cell in (name, *numbers)).rstrip(), flush=True)
        faults += tally.faults
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
