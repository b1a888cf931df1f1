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
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime.io import arrow_out, resume
from bertonnx.runtime.io.job import Job
from bertonnx.runtime.io.writers import check_output
from bertonnx.runtime.options import RunOptions
from tests.fake_predictor import FakePredictor
from tests.jobs import ENDINGS, write_input

__all__ = ["ROWS", "TOUCHES", "Run", "attempt", "main", "story", "write_inputs"]

ROWS, OLDER_ROWS = 300, 30
TOUCHES = ("open", "os.rename", "os.remove", "os.truncate", "os.chmod")
_ENOUGH = 10_000


class Run(Protocol):
    """Runs a job; raises as `Job.run`."""

    def __call__(self, input: Path, output: Path, *, resuming: bool) -> None: ...

    def __hash__(self) -> int: ...


def without_model(input: Path, output: Path, *, resuming: bool) -> None:
    """Run a job whose results are computed from the texts alone."""
    target = check_output(output, input=input)
    Job(FakePredictor("feature-extraction"), input, target, options=RunOptions(resume=resuming)).run()


def attempt(
    input: Path,
    output: Path,
    *,
    resuming: bool,
    run: Run = without_model,
    touch: int = _ENOUGH,
    seconds: float | None = None,
    most_bytes: int | None = None,
) -> int:
    """Run in a process of its own; return how it ended: 0, minus the signal's number, or what was raised.

    Args:
        input: the input.
        output: the output.
        resuming: whether to go on with what is there.
        run: what is run.
        touch: before which touch of a file the process kills itself.
        seconds: after how many it is killed.
        most_bytes: how large a file can become, as on a full disk.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = _child(partial(run, input, output, resuming=resuming), output, touch, most_bytes)
        finally:
            # Whatever it is: the child must not go on with its parent's work.
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # A sign of life for whoever waits for this seed's line.
    print(end=".", flush=True)
    return code


def _child(run: Callable[[], None], output: Path, touch: int, most_bytes: int | None) -> int:
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
        run()
    except OutputError:
        return 1
    except UsageError:
        return 2
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


@cache
def _whole(folder: Path, ending: str, run: Callable[..., None]) -> tuple[bytes, float]:
    """What a run writes that nobody disturbs, and how long it takes."""
    output = folder / f"whole{ending}"
    began = time.monotonic()
    if code := attempt(folder / "in.txt", output, resuming=False, run=run):
        raise RuntimeError(f"undisturbed, it ends with {code}")
    return output.read_bytes(), time.monotonic() - began


def _damage(place: Path, dice: random.Random) -> None:
    """Change a byte of what a run left beside its output.

    An output that grows has checksums now and then alone, and is left as it is.
    """
    beside = [path for path in place.iterdir() if path.suffix in (".partial", ".progress")]
    left = [path for path in beside if path.stat().st_size]
    if left:
        path = dice.choice(left)
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)


def _disturbance(dice: random.Random, takes: float, size: int) -> dict[str, Any]:
    match dice.randrange(3):
        case 0:
            return {"seconds": dice.random() * takes * 1.2}
        case 1:
            return {"touch": dice.randrange(1, 60)}
    return {"most_bytes": dice.randrange(2 * size)}


def story(folder: Path, seed: int, run: Run = without_model, *, least: int = 0) -> str:
    """Disturb a run again and again, resume it until it is whole, and return what became of it.

    Args:
        folder: holds the inputs, of `write_inputs`.
        seed: of all that happens.
        run: what is run.
        least: how many kills there must be.
    """
    dice = random.Random(seed)
    ending = dice.choice(ENDINGS)
    whole, takes = _whole(folder, ending, run)
    place = folder / "place"
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    output = place / f"out{ending}"
    if dice.random() < 0.3 and attempt(folder / "older.txt", output, resuming=False, run=run):
        return f"{ending} WRONG an older run failed"
    kills = full = again = 0
    times = dice.randrange(1, 5)
    while again < times or kills < least:
        how = _disturbance(dice, takes, len(whole))
        code = attempt(folder / "in.txt", output, resuming=bool(again), run=run, **how)
        again += 1
        kills += code == -signal.SIGKILL
        full += code == 1
        if code not in (0, 1, 2, -signal.SIGKILL):
            return f"{ending} TRACEBACK ended with {code}"
        if code == 2 or code == 0:
            # Of a complete output nothing is left to be killed, nor of one that cannot be gone on with.
            again = 0 if kills < least else again
        if dice.random() < 0.1:
            _damage(place, dice)
    code = attempt(folder / "in.txt", output, resuming=True, run=run)
    # What an older run finished is not this one's, and a kill before the first row says nothing else.
    if code == 2:
        code = attempt(folder / "in.txt", output, resuming=False, run=run)
    if code or output.read_bytes() != whole:
        return f"{ending} WRONG rows, or ended with {code}"
    if [path.name for path in place.iterdir()] != [output.name]:
        return f"{ending} WRONG files are left: {[path.name for path in place.iterdir()]}"
    return f"{ending} kills {kills} full {full}"


def write_inputs(folder: Path) -> None:
    """Write the inputs of stories, and let short runs have many parts and marks."""
    arrow_out.ROWS_SPOOLED = 20
    resume.SECONDS_BETWEEN_MARKS = 0.002
    write_input(folder, ROWS)
    write_input(folder, OLDER_ROWS, "older.txt")


def main(place: str, first: str, last: str) -> None:
    """Tell a story for each seed."""
    write_inputs(Path(place))
    for seed in range(int(first), int(last)):
        print(seed, story(Path(place), seed), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
