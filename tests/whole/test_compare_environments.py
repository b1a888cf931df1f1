"""What `tools/compare_environments.py` calls a difference; `tools/test.sh` runs it in two environments."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "compare_environments.py"
WANTED = {"inputs": {"input_ids": [1, 5, 2]}, "outputs": [0.5, -2.0]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "equal, 3 ids"),
        ({"outputs": [0.5, -2.00001]}, "equal, 3 ids"),
        ({"outputs": [0.5, -2.0001]}, "DIFFERENT numbers"),
        ({"outputs": [float("nan"), -2.0]}, "DIFFERENT numbers"),
        ({"inputs": {"input_ids": [1, 6, 2]}}, "DIFFERENT inputs: input_ids"),
        ({"inputs": {"input_ids": [1, 5, 2], "token_type_ids": [0, 0, 0]}}, "DIFFERENT inputs: input_ids"),
        ({"refused": "no attention_mask"}, "DIFFERENT, refused: no attention_mask"),
        ({"refused": "transformers (4.57) has no code of it"}, "refused: transformers"),
    ],
)
def test_a_difference(changed: dict[str, Any], said: str) -> None:
    difference = runpy.run_path(str(TOOL))["_difference"]
    assert difference(WANTED, {**WANTED, **changed}).startswith(said)
