"""What cannot be used, and what mends it, in the words of each face."""

from __future__ import annotations

import pickle

from bertonnx.errors import ProviderError
from bertonnx.runtime.session.problem import Problem, not_usable, problem_in
from bertonnx.wording import COMMAND_LINE, Install, Message, Option, R

TYPED = Problem(Message("{library} was not found", library="libx{y}.so"), Install("gpu"))
SAID = Problem(Message("no"), Message("use {option}", option=Option("provider", "cpu")), fault=False)


def test_a_line_is_typed_and_a_sentence_is_not() -> None:
    assert str(TYPED) == 'libx{y}.so was not found; type: pip install "bertonnx[gpu]"'
    assert TYPED.worded(R) == "libx{y}.so was not found; type: bert_install(gpu = TRUE)"
    assert SAID.worded(COMMAND_LINE) == "no; use --provider cpu"
    assert SAID.worded(R) == 'no; use device = "cpu"'


def test_an_error_keeps_its_problem() -> None:
    error = pickle.loads(pickle.dumps(not_usable(TYPED)))
    assert isinstance(error, ProviderError)
    assert problem_in(error) == TYPED
    assert error.worded(R) == TYPED.worded(R)
    assert problem_in(ProviderError("something else")) is None
    assert problem_in(ProviderError("{problem}", problem="words")) is None
