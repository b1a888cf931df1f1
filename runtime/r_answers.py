"""How Python answers R: with a dict in place of an error, and in time (`runtime.r_bridge`)."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from bertonnx.errors import BertonnxError, RowError
from bertonnx.runtime.r_tables import plain
from bertonnx.wording import Face, R

__all__ = ["Answer", "Pending", "answering", "heed", "lengthy"]

Answer = dict[str, Any]
P = ParamSpec("P")


def answering(function: Callable[P, Answer], face: Face = R) -> Callable[P, Answer]:
    """Answer with the error, in a face's words, instead of raising it; an interrupt goes through to R."""

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Answer:
        try:
            return {"ok": True, **function(*args, **kwargs)}
        except Exception as error:
            return {"ok": False, "error": _described(error, face)}

    return answer


_patience: float | None = None
"""Seconds that R waits for an answer at most before it looks whether it is interrupted; None is for ever."""


def heed(seconds: float) -> None:
    """Let no call keep R waiting for longer than this."""
    global _patience
    _patience = seconds


_LONGEST_PATIENCE = 0.05
"""The same, where it has looked often."""


class Pending:
    """An answer that another thread still works on."""

    def __init__(self, work: Callable[[], Answer]) -> None:
        self._work = work
        self._answer: Answer = {}
        self._patience = _patience
        # Nobody waits for a daemon when R ends.
        self._thread = threading.Thread(target=self._run, name="bertonnx-r", daemon=True)
        self._thread.start()

    def wait(self) -> Answer:
        """Return the answer, or that it is pending still, after a while that is longer each time.

        That is waited here, not in R: older versions of reticulate let Python's other threads run only
        while R is in Python.
        """
        self._thread.join(self._patience)
        if self._patience is not None:
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        return {"ok": True, "pending": self} if self._thread.is_alive() else self._answer

    def _run(self) -> None:
        try:
            self._answer = self._work()
        except BaseException as error:  # a panic of a tokenizer is no Exception
            self._answer = {"ok": False, "error": _described(error)}


def lengthy(function: Callable[P, Answer]) -> Callable[P, Answer]:
    """Answer as `answering`, of what can take long: in time, or with what is pending."""
    answered = answering(function)

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Answer:
        if _patience is None:
            return answered(*args, **kwargs)
        return Pending(lambda: answered(*args, **kwargs)).wait()

    return answer


def _described(error: BaseException, face: Face = R) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": plain(error.worded(face) if isinstance(error, BertonnxError) else str(error)),
        "kind": error.kind if isinstance(error, RowError) else "",
        "expected": "yes" if isinstance(error, BertonnxError) else "",
        "traceback": plain("".join(traceback.format_exception(error))),
    }
