"""Mutated inputs of every format: rows, or an error of ours, and nothing else."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.fuzz.__main__ import main
from tests.fuzz.driver import drive
from tests.jobs import ROOT


def test_no_input_ends_the_process_or_raises_what_is_not_ours(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    minutes = pytestconfig.getoption("--fuzz-minutes") or 0
    first = random.randrange(1 << 40) if minutes else 1
    tally = drive(ROOT / "tests/fuzz/readers.py", tmp_path, first=first, count=600, minutes=minutes)
    print(f"{tally.inputs} inputs from seed {first}")
    assert tally.inputs >= 600
    assert tally.faults == []


def test_the_driver_sees_signals_hangs_and_tracebacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, signal, sys, time\n"
        "for seed in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        "    if seed == 3: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if seed == 5: time.sleep(60)\n"
        "    if seed == 6: print('a library warns', flush=True)\n"
        "    print(end='..')\n"
        "    print(seed, {7: 'TRACEBACK x', 8: 'WRONG rows', 9: 'kills 3'}.get(seed, 'rows 1'), flush=True)\n"
    )
    monkeypatch.setattr("tests.fuzz.driver.HANGS_AFTER", 1.0)
    tally = drive(worker, tmp_path, first=0, count=10)
    assert tally.inputs == 10
    assert tally.signals[0].startswith("worker.py 3: ended with -11")
    assert tally.hangs == ["worker.py 5: no line for 1 s"]
    assert tally.tracebacks == ["7 TRACEBACK x"]
    assert tally.wrong == ["worker.py 6: printed 'a library warns'", "8 WRONG rows"]
    assert tally.kills == 3


def test_one_command_runs_all_of_them_and_prints_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--readers", "20", "--kills", "1", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^readers +20 +0 +0 +0 +0 +0$", out, re.M)
    assert re.search(r"^kills +1 +\d+ +0 +0 +0 +0$", out, re.M)
    assert out.splitlines()[0].startswith("seed 5")
