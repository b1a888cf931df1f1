"""Choices: what an option can be, said in one place."""

from __future__ import annotations

import pytest

from bertonnx.errors import UsageError
from bertonnx.runtime.options import LONG_TEXT, ON_ERROR, chosen
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
