"""Odd texts and real models: a result for each, the same whoever is beside it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.driver import drive
from tests.fuzz.texts import link_models
from tests.jobs import ROOT


def test_each_text_has_a_result_and_the_same_whoever_is_beside_it(
    tmp_path: Path, exported: dict[str, Path], pytestconfig: pytest.Config
) -> None:
    link_models(tmp_path, exported)
    minutes = pytestconfig.getoption("--fuzz-minutes") or 0
    first = random.randrange(1 << 40) if minutes else 1
    tally = drive(ROOT / "tests/fuzz/texts.py", tmp_path, first=first, count=100, minutes=minutes)
    print(f"{tally.inputs} groups of texts from seed {first}")
    assert tally.inputs >= 100
    assert tally.faults == []
