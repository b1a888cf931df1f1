"""Options of an export: what they can be, and which contradict each other, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertonnx.errors import UsageError
from bertonnx.exporters.options import ExportOptions
from bertonnx.wording import COMMAND_LINE, PYTHON, R


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "fp8"}, "--precision fp8 is unknown; it can be fp32, fp16"),
        (
            {"pooling": "median"},
            "--pooling median is unknown; it can be mean, cls, max, last, weightedmean, mean_sqrt_len_tokens",
        ),
        ({"quantize": True, "target": "sse"}, "--target sse is unknown; it can be auto, avx2, vnni, arm64"),
        (
            {"quantize": True, "precision": "fp16"},
            "--quantize makes INT8 of fp32, and --precision fp16 was asked for too; leave one out",
        ),
        (
            {"quantize": True, "optimize": "basic"},
            "--quantize needs the fused graph, and --optimize basic was asked for; leave --optimize out",
        ),
        ({"target": "vnni"}, "--target is for INT8, which was not asked for; add --quantize"),
        (
            {"calibration": Path("a.txt"), "task": "ner"},
            "--calibration is for INT8 and fp16, and neither was asked for; add --quantize or --precision "
            "fp16",
        ),
        (
            {"quantize": True, "min_agreement": 1.5},
            "--min-agreement 1.5 is not a share; give one from 0 to 1, such as 0.99",
        ),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ExportOptions(**given)
    assert caught.value.worded(COMMAND_LINE) == message


def test_each_language_names_its_own_options() -> None:
    with pytest.raises(UsageError) as caught:
        ExportOptions(min_agreement=0.9)
    assert "min_agreement is for" in caught.value.worded(PYTHON)
    assert "add quantize=True or precision='fp16'" in caught.value.worded(PYTHON)
    assert 'add quantize = TRUE or precision = "fp16"' in caught.value.worded(R)


def test_what_holds_where_nothing_was_said() -> None:
    options = ExportOptions()
    assert (options.least_agreement, options.machine, options.reduced) == (0.99, "auto", False)
    assert ExportOptions(quantize=True, min_agreement=0.0).least_agreement == 0.0
    assert ExportOptions(quantize=True, target="vnni").machine == "vnni"
    assert ExportOptions(quantize=True).reduced
    assert ExportOptions(precision="fp16").reduced
