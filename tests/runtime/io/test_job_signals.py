"""Jobs in a process of their own: killed and interrupted by real signals, and their memory."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bertonnx.runtime.io.resume import progress_path
from tests.fake_predictor import FakePredictor
from tests.jobs import ROOT, names, run, whole_output, write_input


@contextmanager
def told(input: Path, output: Path, row: int, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a job that has come to a row, goes on for some 100 rows, and then waits."""
    program = [sys.executable, str(ROOT / "tests" / "fake_predictor.py"), "feature-extraction"]
    arguments = [str(input), str(output), str(row), str(row + 100), *flags]
    with subprocess.Popen([*program, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.read(1) == b"."
        yield process


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".npy"])
def test_killed_again_and_again_no_row_is_lost_or_doubled(tmp_path: Path, ending: str) -> None:
    input = write_input(tmp_path, 1500)
    output = tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending, predictor=FakePredictor("feature-extraction"))
    dice = random.Random(ending)
    for kill in range(5):
        with told(input, output, dice.randrange(16, 200), *(["--resume"] if kill else [])) as process:
            process.kill()
        assert progress_path(output).exists()
    report = run(input, output, FakePredictor("feature-extraction"), resume=True)
    assert report.resumed_rows >= 50
    assert report.rows == 1500
    assert output.read_bytes() == whole
    assert names(tmp_path) == sorted(["in.txt", output.name, f"whole{ending}"])
    if ending == ".npy":
        assert np.load(output).shape == (1500, 8)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_interrupted_what_was_finished_is_there(tmp_path: Path, ending: str) -> None:
    input = write_input(tmp_path, 1500)
    output = tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending, predictor=FakePredictor("feature-extraction"))
    with told(input, output, 300) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGINT
    assert errors.strip().endswith(b"KeyboardInterrupt")
    assert progress_path(output).exists()
    report = run(input, output, FakePredictor("feature-extraction"), resume=True)
    # All that was predicted but for the one that was under way.
    assert 299 <= report.resumed_rows <= 400
    assert output.read_bytes() == whole


def test_memory_does_not_grow_with_the_job(tmp_path: Path) -> None:
    program = (
        "import sys, tracemalloc\n"
        "from bertonnx.runtime.io.job import Job\n"
        "from bertonnx.runtime.io.writers import check_output\n"
        "from tests.fake_predictor import FakePredictor\n"
        "class Quick(FakePredictor):\n"
        "    def _result(self, row): return {'score': 0.5}\n"
        "quick = Quick(problem_type='regression', labels=())\n"
        "for input in sys.argv[1:]:\n"  # the first run pays for what is imported and cached
        "    tracemalloc.start()\n"
        "    Job(quick, input, check_output(sys.argv[1] + '.jsonl')).run()\n"
        "    print(tracemalloc.get_traced_memory()[1])\n"
        "    tracemalloc.stop()\n"
    )
    inputs = [write_input(tmp_path, rows, f"in{rows}.txt") for rows in (100, 2_000, 10_000)]
    done = subprocess.run([sys.executable, "-c", program, *inputs], capture_output=True, check=True, cwd=ROOT)
    _, small, large = map(int, done.stdout.split())
    assert large < 1.05 * small + 50_000
