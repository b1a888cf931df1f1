"""Mutated model files: answers, or an error of ours, and nothing else."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.fuzz.driver import drive
from tests.jobs import ROOT


@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_no_model_file_ends_the_process_or_raises_what_is_not_ours(
    task: str, exported: dict[str, Path], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    shutil.copy(exported[task], tmp_path / "model.onnx")
    minutes = pytestconfig.getoption("--fuzz-minutes") or 0
    first = random.randrange(1 << 40) if minutes else 1
    tally = drive(ROOT / "tests/fuzz/models.py", tmp_path, first=first, count=120, minutes=minutes)
    print(
        f"{tally.inputs} mutated files from seed {first}: {len(tally.tracebacks)} tracebacks, "
        f"{len(tally.signals)} signals, {len(tally.hangs)} hangs"
    )
    assert tally.inputs >= 120
    assert tally.faults == []
