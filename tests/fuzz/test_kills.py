"""Killed at any point, or out of disk: resumed, the output is what a run that nobody disturbed writes."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from bertonnx.runtime.io import arrow_out, resume
from tests.fake_predictor import FakePredictor
from tests.fuzz.driver import drive
from tests.fuzz.kills import attempt
from tests.fuzz.texts import link_models
from tests.jobs import ENDINGS, ROOT, names, whole_output, write_input


@pytest.fixture
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_out, "ROWS_SPOOLED", 20)
    monkeypatch.setattr(resume, "SECONDS_BETWEEN_MARKS", 1e9)


@pytest.mark.usefixtures("many_parts")
@pytest.mark.parametrize(
    ("ending", "older"), [*((ending, False) for ending in ENDINGS), (".csv", True), (".npy", True)]
)
def test_killed_before_each_touch_of_a_file(tmp_path: Path, ending: str, older: bool) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending, predictor=FakePredictor("feature-extraction"))
    for touch in range(1, 200):
        output.unlink(missing_ok=True)
        if older:
            output.write_bytes(whole)
        code = attempt(input, output, resuming=False, touch=touch)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        code = attempt(input, output, resuming=True)
        assert code == 0, touch
        assert output.read_bytes() == whole, touch
        assert names(tmp_path) == ["in.txt", output.name, f"whole{ending}"], touch
    assert touch > 8, "it was killed at some"


@pytest.mark.usefixtures("many_parts")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_is_full_at_any_size(tmp_path: Path, ending: str) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending, predictor=FakePredictor("feature-extraction"))
    dice = random.Random(ending)
    for most in (0, 1, *(dice.randrange(len(whole)) for _ in range(3))):
        code = 1
        for again in range(3):
            code = attempt(input, output, resuming=bool(again), most_bytes=most)
            assert code == 1, "an error of ours, every time"
        assert attempt(input, output, resuming=True) == 0
        assert output.read_bytes() == whole
        assert names(tmp_path) == ["in.txt", output.name, f"whole{ending}"]
        output.unlink()


@pytest.mark.parametrize(("worker", "count"), [("kills.py", 10), ("real_kills.py", 6)])
def test_killed_at_random(
    tmp_path: Path, exported: dict[str, Path], pytestconfig: pytest.Config, worker: str, count: int
) -> None:
    link_models(tmp_path, exported)
    minutes = pytestconfig.getoption("--fuzz-minutes") or 0
    first = random.randrange(1 << 40) if minutes else 1
    tally = drive(ROOT / "tests/fuzz" / worker, tmp_path, first=first, count=count, minutes=minutes)
    print(f"{tally.kills} runs of {tally.inputs} stories were killed, from seed {first}")
    assert tally.inputs >= count
    assert tally.kills >= count - 3
    assert tally.faults == []
