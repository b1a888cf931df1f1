"""A worker that kills runs: at a random moment, at any point where they touch a file, or by a full disk.

`python tests/fuzz/kills.py FOLDER FIRST LAST` prints a line for each seed: its number, the ending, how often
it was killed and what became of it. After some kills the run is resumed; then the output must be what a run
that nobody disturbed writes, and nothing may be left beside it.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
from functools import lru_cache
from pathlib import Path

from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime.io import arrow_out, resume
from bertonnx.runtime.io.job import Job
from bertonnx.runtime.io.writers import check_output
from bertonnx.runtime.options import RunOptions
from tests.fake_predictor import FakePredictor
from tests.jobs import ENDINGS, write_input

__all__ = ["TOUCHES", "attempt", "main"]

ROWS, OLDER_ROWS = 300, 30
TOUCHES = ("open", "os.rename", "os.remove", "os.truncate", "os.chmod")
_ENOUGH = 10_000


def _run(input: Path, output: Path, *, resuming: bool) -> None:
    target = check_output(output, input=input)
    Job(FakePredictor("feature-extraction"), input, target, options=RunOptions(resume=resuming)).run()


def attempt(
    input: Path,
    output: Path,
    *,
    resuming: bool,
    touch: int = _ENOUGH,
    seconds: float | None = None,
    most_bytes: int | None = None,
) -> int:
    """Run in a process of its own; return how it ended: 0, minus the signal's number, or what was raised.

    Args:
        input: the input.
        output: the output.
        resuming: whether to go on with what is there.
        touch: before which touch of a file the process kills itself.
        seconds: after how many it is killed.
        most_bytes: how large a file can become, as on a full disk.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = _child(input, output, resuming, touch, most_bytes)
        finally:
            # Whatever it is: the child must not go on with its parent's work.
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(input: Path, output: Path, resuming: bool, touch: int, most_bytes: int | None) -> int:
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        # Of this run's files alone, so that no import counts.
        if event in TOUCHES and str(arguments[0]).startswith(str(output)):
            seen += 1
            if seen == touch:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    # A power cut is not what is tried here, and it takes longer than all the rest.
    os.fsync = os.fstat  # type: ignore[assignment]
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    try:
        _run(input, output, resuming=resuming)
    except OutputError:
        return 1
    except UsageError:
        return 2
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


@lru_cache
def _whole(folder: Path, ending: str) -> tuple[bytes, float]:
    """What a run writes that nobody disturbs, and how long it takes."""
    output = folder / f"whole{ending}"
    began = time.monotonic()
    _run(folder / "in.txt", output, resuming=False)
    return output.read_bytes(), time.monotonic() - began


def _story(folder: Path, seed: int) -> str:
    dice = random.Random(seed)
    ending = dice.choice(ENDINGS)
    whole, takes = _whole(folder, ending)
    place = folder / "place"
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    output = place / f"out{ending}"
    if dice.random() < 0.3:
        _run(folder / "older.txt", output, resuming=False)
    kills = full = 0
    for again in range(dice.randrange(1, 5)):
        match dice.randrange(3):
            case 0:
                how = {"seconds": dice.random() * takes * 1.2}
            case 1:
                how = {"touch": dice.randrange(1, 60)}
            case _:
                how = {"most_bytes": dice.randrange(2 * len(whole))}
        code = attempt(folder / "in.txt", output, resuming=bool(again), **how)  # type: ignore[arg-type]
        kills += code == -signal.SIGKILL
        full += code == 1
        if code not in (0, 1, 2, -signal.SIGKILL):
            return f"{ending} TRACEBACK ended with {code}"
    code = attempt(folder / "in.txt", output, resuming=True)
    # What an older run finished is not this one's, and a kill before the first row says nothing else.
    if code == 2:
        code = attempt(folder / "in.txt", output, resuming=False)
    if code or output.read_bytes() != whole:
        return f"{ending} WRONG rows, or ended with {code}"
    if [path.name for path in place.iterdir()] != [output.name]:
        return f"{ending} WRONG files are left: {[path.name for path in place.iterdir()]}"
    return f"{ending} kills {kills} full {full}"


def main(place: str, first: str, last: str) -> None:
    """Tell a story for each seed."""
    folder = Path(place)
    # Many parts and marks in a short run.
    arrow_out.ROWS_SPOOLED = 20
    resume.SECONDS_BETWEEN_MARKS = 0.002
    write_input(folder, ROWS)
    write_input(folder, OLDER_ROWS, "older.txt")
    for seed in range(int(first), int(last)):
        print(seed, _story(folder, seed), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
