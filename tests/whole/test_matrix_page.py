"""What docs/families.md says of the matrix of checkpoints, and that it is of all of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from bertonnx.models.families import FAMILIES
from bertonnx.models.tasks import TASKS

TOOL = Path(__file__).parents[2] / "tools" / "matrix_page.py"
VERSIONS = {
    "older": {"transformers": "4.57.6", "sentence-transformers": "5.7.0"},
    "newer": {"transformers": "5.24.0", "sentence-transformers": "6.2.0"},
}
NO_CODE = "refused: FOLDER is a gte model, and this has no code of it"


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("matrix_page", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ticks_notes_and_dashes(page: Any) -> None:
    outcomes = {
        "older > older": {"bert/fill-mask": "right", "sentence-transformers/CNN": "refused: a|b"},
        "older > newer": {
            "bert/fill-mask": "right",
            "xlm/fill-mask": "right",
            "sentence-transformers/CNN": "refused: a|b",
        },
        "newer > older": {"gte/fill-mask": NO_CODE, "sentence-transformers/Pool": "refused: c"},
        "newer > newer": {"gte/fill-mask": "right", "sentence-transformers/Pool": "right"},
    }
    saved = {"older": ["bert/fill-mask", "xlm/fill-mask"], "newer": ["gte/fill-mask"]}
    found = {"versions": VERSIONS, "saved": saved, "outcomes": outcomes}
    lines = page.matrix_part(["bert", "gte", "esm", "xlm"], ["fill-mask", "embed"], found).splitlines()
    assert [line for line in lines if line.startswith(("| `", "| family", "1. "))] == [
        "| family | fill-mask |",
        "| `bert` | ✓ |",
        "| `gte` | ✓ (1) |",
        "| `esm` | – |",
        "| `xlm` | ✓ 1/2 |",
        "1. Saved by 5.24.0, exported under 4.57.6: FOLDER is a FAMILY model, and this has no code of it",
    ]
    assert [line for line in lines if line.startswith(("| CNN", "| Pool"))] == [
        "| CNN | each | a\\|b |",
        "| Pool | 6.2.0, exported under 5.7.0 | c |",
    ]


def test_a_third_outcome_makes_no_page(page: Any) -> None:
    found = {"versions": VERSIONS, "outcomes": {"older > newer": {"bert/fill-mask": "WRONG: 0.1"}}}
    with pytest.raises(ValueError, match=r"older > newer, bert/fill-mask: WRONG: 0\.1"):
        page.matrix_part(["bert"], ["fill-mask"], found)


def test_every_family_and_task_is_in_the_matrix(page: Any) -> None:
    saved = json.loads(page.OUTCOME.read_text())["saved"]
    own = [task.name for task in TASKS if task.auto_class and {*task.raw_outputs} <= {*task.outputs}]
    wanted = {f"{row.name}/{task}" for row in FAMILIES for task in own if task not in row.gaps}
    assert wanted <= {*saved["newer"]}
    assert wanted - {f"{row.name}/{task}" for row in FAMILIES for task in own if row.since} <= {
        *saved["older"]
    }
