"""What `tools/test.sh` runs, in sections: several at a time, printed one after the other.

    python3 tools/sections.py [ARGUMENT ...]

A section starts when those that it needs have passed, and is left out where one has not. What it prints
comes whole, in the order of the table below; that of the first which is not over comes as it is printed.
At the end stands what became of each, and how long it took, and once more how those ended that did not
pass: who keeps only the end of all this sees why. The exit code is 1 then.
What a section leaves running is ended with it, and all of them with this program.

Arguments go to pytest: then only the first environment is made and used. Needs nothing but Python.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SPARE = 2
"""How many more processes than cores: sections also wait, for networks, disks and programs of their own."""

ENDING = 80
"""How many lines are shown once more of a section that did not pass."""

MERCY = 10.0
"""Seconds between asking a section to end and ending it."""


@dataclass(frozen=True)
class Section:
    """A part of the tests.

    Attributes:
        name: what it is called.
        command: lines for `sh -eu`.
        after: names of the sections that must have passed before it starts.
        busy: how many processes it keeps busy.
        turn: of those with the same one, never two at a time.
    """

    name: str
    command: str
    after: Sequence[str] = ()
    busy: int = 1
    turn: str = ""


TENSORFLOW = "tests/exporters/checkpoint/tensorflow"

OWN_READERS = ("bundle", "crc32c", "hdf5", "weights")
"""Tests of what reads and compares TensorFlow's files, which asks no version of transformers."""


def sections(arguments: Sequence[str], variables: Mapping[str, str]) -> list[Section]:
    """Return what is to be done.

    Of what can start at once, what takes longest comes first, but what keeps all cores busy to its end last.
    """
    venv = variables.get("VENV", ".venv")
    python, newer = (shlex.quote(f"{name}/bin/python") for name in (venv, f"{venv}-transformers5"))
    pytest = "-m pytest --numprocesses 2 --dist worksteal"
    first = [
        Section("install", "sh tools/install.sh main"),
        Section("lint", f"{python} -m ruff check\n{python} -m ruff format --check", ["install"]),
        Section("tests", f"{python} {pytest} {shlex.join(arguments)}", ["lint"], busy=2),
        Section("types", f"{python} -m mypy" if _linked() else f"echo {shlex.quote(UNLINKED)}", ["lint"]),
        Section("R", _check_of_r(python, required="REQUIRE_R" in variables), ["lint"]),
    ]
    if arguments:
        return first
    # What the tests of colbert ask for is in the environment of transformers 5.
    folders = (ROOT / "tests/environments").glob("*/requirements.txt")
    names = sorted({folder.parent.name for folder in folders} - {"colbert"})
    left_out = " ".join(f"--ignore={TENSORFLOW}/test_{name}.py" for name in OWN_READERS)
    newer_tests = (
        # Reading and tracing checkpoints, and one task of every family.
        "tests/exporters/checkpoint tests/exporters/steps/test_trace.py tests/exporters/test_convert.py "
        f"{left_out} "
        "tests/whole/test_matrix.py tests/environments/colbert -k 'not test_matrix.py or text-classification'"
    )
    return [
        *first,
        *map(_install, ["transformers5", *names]),
        Section("models", f'{python} -m tests.exported "$BERTONNX_TINY"', ["install"]),
        *(
            # Ray and Spark start many processes of their own.
            Section(
                name,
                f"sh tools/environments.sh {name}",
                ["models", f"install {name}"],
                busy=2 if name in ("ray", "spark") else 1,
            )
            for name in names
        ),
        Section("transformers5", f"{newer} {pytest} {newer_tests}", ["install transformers5"], busy=2),
        # The same folders, saved by either version, give the same ids and numbers in both.
        Section(
            "compare",
            f"{python} tools/compare_environments.py {python} {newer}",
            ["install transformers5"],
            busy=2,
        ),
    ]


def _install(name: str) -> Section:
    # Each builds an editable install in this folder.
    return Section(f"install {name}", f"sh tools/install.sh {name}", ["install"], turn="install")


UNLINKED = "there are no links in src/bertonnx, so types were not checked"


def _linked() -> bool:
    """Return whether type checkers find the folders: a zip or Windows may leave the links out."""
    return (ROOT / "src/bertonnx/models").is_dir()


def _check_of_r(python: str, *, required: bool) -> str:
    if shutil.which("R"):
        return f'BERTONNX_TEST_PYTHON="$PWD/"{python} sh r/check.sh'
    if required:
        return "echo 'R is not installed, and REQUIRE_R is set'\nexit 1"
    return "echo 'R is not installed, so the R package was not tested; on Debian: see .ci/run'"


class Running:
    """A section that was started, in a process group of its own."""

    def __init__(self, section: Section, folder: Path) -> None:
        self.section = section
        self.seconds: float | None = None
        self._started = time.monotonic()
        self._file = folder / f"{section.name}.txt"
        with self._file.open("wb") as out:
            self._process = subprocess.Popen(
                ["sh", "-euc", section.command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                # Models that several environments share, which cannot export.
                env={**os.environ, "BERTONNX_TINY": str(folder / "models")},
                start_new_session=True,
            )
        self._shown = self._file.open("rb")

    def said(self) -> bytes:
        """Return what it has printed since this was last asked."""
        return self._shown.read()

    def ending(self) -> bytes:
        """Return its last lines."""
        lines = self._file.read_bytes().splitlines(keepends=True)[-ENDING:]
        return b"".join([*lines[:-1], lines[-1].rstrip(b"\n") + b"\n"]) if lines else b""

    def status(self) -> int | None:
        """Return the exit status once it is over; what it left running is ended then."""
        status = self._process.poll()
        if status is not None and self.seconds is None:
            self.seconds = time.monotonic() - self._started
            self._tell(signal.SIGKILL)
        return status

    def end(self) -> None:
        """End it now, with all that it started."""
        if self.status() is None:
            self._tell(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(MERCY)
        self._tell(signal.SIGKILL)
        self._process.wait()
        self._shown.close()

    def _tell(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _fits(section: Section, now: Sequence[Section], room: int) -> bool:
    """Return whether a section may run beside others; alone it always may."""
    if section.turn and any(section.turn == other.turn for other in now):
        return False
    return not now or sum(other.busy for other in [*now, section]) <= room


class Run:
    """Sections on their way: what waits, what runs, what became of it, and how much of it was shown."""

    def __init__(self, todo: Sequence[Section], folder: Path, show: Callable[[bytes], object]) -> None:
        self.became: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._todo = todo
        self._folder = folder
        self._show = show
        self._begun: dict[str, Running] = {}
        self._headed = -1
        self._printed = 0

    def all(self, room: int) -> None:
        """Run them, so many processes at a time; all are ended where this is."""
        try:
            while self._printed < len(self._todo):
                self._notice()
                self._start(room)
                self._print()
                time.sleep(0.1)
        finally:
            for running in self._begun.values():
                running.end()

    def _notice(self) -> None:
        for name, running in self._begun.items():
            status = running.status()
            if status is not None and running.seconds is not None and name not in self.became:
                self.became[name] = "passed" if status == 0 else f"FAILED ({status})"
                self.seconds[name] = running.seconds

    def _start(self, room: int) -> None:
        now = [running.section for name, running in self._begun.items() if name not in self.became]
        for section in self._todo:
            if section.name in self._begun or section.name in self.became:
                continue
            before = [self.became.get(name) for name in section.after]
            if any(said not in (None, "passed") for said in before):
                self.became[section.name] = "LEFT OUT"
            elif all(before) and _fits(section, now, room):
                self._begun[section.name] = Running(section, self._folder)
                now.append(section)

    def _print(self) -> None:
        for number, section in enumerate(self._todo[self._printed :], self._printed):
            running = self._begun.get(section.name)
            over = section.name in self.became
            if not running and not over:
                return
            if self._headed < number:
                self._headed = number
                self._show(f"\n=== {section.name} ===\n".encode())
            if running:
                self._show(running.said())
            if not over:
                return
            self._show(f"--- {section.name}: {self._end_of(section.name)}\n".encode())
            self._printed = number + 1

    def _end_of(self, name: str) -> str:
        minutes, seconds = divmod(round(self.seconds.get(name, 0)), 60)
        return f"{self.became[name]}, {minutes}:{seconds:02}"

    def summary(self) -> str:
        """Return a line for each section."""
        return "".join(f"{section.name:24} {self._end_of(section.name)}\n" for section in self._todo)

    def failures(self) -> bytes:
        """Return the last lines of each section that ran and did not pass."""
        return b"".join(
            f"\n=== how {name} ended ===\n".encode() + running.ending()
            for name, running in self._begun.items()
            if self.became[name] != "passed"
        )


def run(todo: Sequence[Section], show: Callable[[bytes], object], *, cores: int) -> int:
    """Run sections; returns the exit code."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bertonnx-sections-") as folder:
        every = Run(todo, Path(folder), show)
        every.all(cores + SPARE)
        failures = every.failures()
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    show(f"\n{every.summary()}{'all':24} {minutes}:{seconds:02}\n".encode())
    show(failures)
    return int(any(said != "passed" for said in every.became.values()))


def _cores() -> int:
    """Return how many cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        # A container's share, which may be a part of a core; "max" is none.
        allowed = min(allowed, max(1, round(int(quota) / int(period))))
    return allowed


def main() -> int:
    """Run those that the arguments ask for."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # Whoever starts this in the background may have it ignore Ctrl-C, and so would tests that press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Two workers share the cores already; PyTorch's threads on top of them would only get in the way.
    os.environ["OMP_NUM_THREADS"] = "1"

    def show(said: bytes) -> None:
        sys.stdout.buffer.write(said)
        sys.stdout.buffer.flush()

    return run(sections(sys.argv[1:], os.environ), show, cores=_cores())


if __name__ == "__main__":
    sys.exit(main())
