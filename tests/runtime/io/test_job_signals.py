"""Jobs in a process of their own: killed and interrupted by real signals, and their memory."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bertonnx.runtime.io.job import progress_path
from tests.fake_predictor import FakePredictor
from tests.jobs import ROOT, names, run, whole_output, write_input


def start(task: str, input: Path, output: Path, seconds: float, *flags: str) -> subprocess.Popen[bytes]:
    program = ROOT / "tests" / "fake_predictor.py"
    return subprocess.Popen(
        [sys.executable, program, task, input, output, str(seconds), *flags], stderr=subprocess.PIPE
    )


def wait_for(note: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not note.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".npy"])
def test_killed_again_and_again_no_row_is_lost_or_doubled(tmp_path: Path, ending: str) -> None:
    input = write_input(tmp_path, 1500)
    output = tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending, predictor=FakePredictor("feature-extraction"))
    dice = random.Random(ending)
    kills = 0
    for attempt in range(40):
        process = start("feature-extraction", input, output, 0.0015, *(["--resume"] if attempt else []))
        wait_for(progress_path(output), process)
        try:
            process.communicate(timeout=dice.uniform(0.0, 0.9) if kills < 4 else 60)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert kills >= 2
    assert process.returncode == 0
    assert output.read_bytes() == whole
    assert names(tmp_path) == sorted(["in.txt", output.name, f"whole{ending}"])
    if ending == ".npy":
        assert np.load(output).shape == (1500, 8)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_interrupted_what_was_finished_is_there(tmp_path: Path, ending: str) -> None:
    input = write_input(tmp_path, 1500)
    output = tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending, predictor=FakePredictor("feature-extraction"))
    process = start("feature-extraction", input, output, 0.003)
    wait_for(progress_path(output), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.strip().endswith(b"KeyboardInterrupt")
    assert progress_path(output).exists()
    report = run(input, output, FakePredictor("feature-extraction"), resume=True)
    assert 20 < report.resumed_rows < 1500
    assert output.read_bytes() == whole


def test_memory_does_not_grow_with_the_job(tmp_path: Path) -> None:
    program = (
        "import sys, tracemalloc\n"
        "from bertonnx.runtime.io.job import run_job\n"
        "from tests.fake_predictor import FakePredictor\n"
        "class Quick(FakePredictor):\n"
        "    def _result(self, row): return {'score': 0.5}\n"
        "quick = Quick(problem_type='regression', labels=())\n"
        "for input in sys.argv[1:]:\n"  # the first run pays for what is imported and cached
        "    tracemalloc.start()\n"
        "    run_job(quick, input=input, output=sys.argv[1] + '.jsonl')\n"
        "    print(tracemalloc.get_traced_memory()[1])\n"
        "    tracemalloc.stop()\n"
    )
    inputs = [write_input(tmp_path, rows, f"in{rows}.txt") for rows in (100, 2_000, 40_000)]
    done = subprocess.run([sys.executable, "-c", program, *inputs], capture_output=True, check=True, cwd=ROOT)
    _, small, large = map(int, done.stdout.split())
    assert large < 1.05 * small + 50_000
