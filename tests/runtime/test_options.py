"""What a user may choose is checked where it is held, in one place for every face."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bertonnx.errors import UsageError
from bertonnx.runtime.options import (
    LONG_TEXT,
    ON_ERROR,
    DecodeOptions,
    LoadOptions,
    RunOptions,
    chosen,
    require_at_least,
)
from bertonnx.wording import COMMAND_LINE, R


def test_a_choice_is_returned() -> None:
    assert chosen("on_error", "fail", ON_ERROR) == "fail"


def test_an_unknown_choice_lists_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        chosen("long_text", "{fold}", LONG_TEXT)
    said = " is unknown; it can be truncate, stride, error"
    assert str(caught.value) == "long_text='{fold}'" + said
    assert caught.value.worded(COMMAND_LINE) == "--long-text {fold}" + said
    assert caught.value.worded(R) == 'long_text = "{fold}"' + said


@pytest.mark.parametrize("top_k", [0, -3])
def test_fewer_than_one_candidate_is_refused(top_k: int) -> None:
    with pytest.raises(UsageError) as caught:
        DecodeOptions(top_k=top_k)
    said = " is too small; give a number of at least 1"
    assert str(caught.value) == f"top_k={top_k}" + said
    assert caught.value.worded(COMMAND_LINE) == f"--top-k {top_k}" + said
    assert caught.value.worded(R) == f"top_n = {top_k}" + said


def test_an_unknown_aggregation_is_refused() -> None:
    message = "aggregation='most' is unknown; it can be none, simple, first, average, max"
    with pytest.raises(UsageError, match=re.escape(message)):
        DecodeOptions(aggregation="most")  # type: ignore[arg-type]


def test_what_is_well_passes() -> None:
    assert DecodeOptions(top_k=1, aggregation="none") == DecodeOptions(1, "none")
    require_at_least("threads", None)
    require_at_least("threads", 2, 2)
    with pytest.raises(UsageError, match="threads=1 is too small; give a number of at least 2"):
        require_at_least("threads", 1, 2)


def test_options_know_which_of_them_were_chosen() -> None:
    assert DecodeOptions(top_k=None, labels=()).changed == ()
    chosen = DecodeOptions(top_k=1, labels=["a"], multi_label=True)  # type: ignore[arg-type]
    assert chosen.changed == ("top_k", "labels", "multi_label")


def test_what_happens_on_an_error_is_a_choice() -> None:
    with pytest.raises(UsageError, match="on_error='panic' is unknown; it can be record, fail"):
        RunOptions(on_error="panic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"provider": "tpu"}, "provider='tpu' is unknown; it can be auto, cpu, cuda"),
        ({"threads": 0}, "threads=0 is too small; give a number of at least 1"),
        ({"long_text": "wrap"}, "long_text='wrap' is unknown; it can be truncate, stride, error"),
        ({"gpu_memory": 0.0}, "gpu_memory=0.0 is too small; give a number of GiB over 0"),
        ({"gpu_memory": float("inf")}, "gpu_memory=inf is more than any machine has; give a number of GiB"),
        ({"gpu_memory": float("nan")}, "gpu_memory=nan is too small; give a number of GiB over 0"),
        (
            {"provider": "cpu", "tf32": True},
            "tf32 is of CUDA, and the provider is cpu; leave it out, or ask for provider='cuda'",
        ),
        (
            {"provider": "cpu", "gpu_memory": 1.0},
            "gpu_memory is of CUDA, and the provider is cpu; leave it out, or ask for provider='cuda'",
        ),
    ],
)
def test_how_a_model_cannot_be_opened(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        LoadOptions(**options)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"provider": "cpu", "threads": 1, "long_text": "error", "max_length": 3},
        {"provider": "cuda", "tf32": True, "gpu_memory": 0.5},
        {"provider": "auto", "tf32": True, "gpu_memory": 0.5},
    ],
)
def test_how_a_model_can_be_opened(options: dict[str, Any]) -> None:
    assert LoadOptions(**options) == LoadOptions(**options)
