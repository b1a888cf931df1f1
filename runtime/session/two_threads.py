"""Two batches at a time in one session of two threads, so that the weights are in memory once.

A session has a number of threads for each run, and ONNX Runtime cannot say otherwise for one of them: two
runs that are called at once from two threads are three threads on two cores. A run that is handed to the
session's own thread (`run_async`) stays on it, for no other is left to help; the next one, which is called,
finds that thread busy and stays on the caller's. So both have a core each. One that comes alone is called,
and takes both. All give the same bits.

Only for two threads: ONNX Runtime hands a run to one of its own threads by chance, where it may wait behind
another's run while threads are idle.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from bertonnx.runtime.session.session import Feeds

__all__ = ["TwoThreads"]


class TwoThreads:
    """Runs a session that has two threads. Safe to use from several threads at once.

    Args:
        session: an `onnxruntime.InferenceSession` with two threads for a run.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._handing_over = threading.Lock()

    def run(self, outputs: Sequence[str], feeds: Feeds, *, alone: bool) -> list[Any]:
        """Return what the session puts out, as its own `run`.

        Args:
            outputs: the names of what is wanted.
            feeds: int64 arrays of shape (batch, tokens), by the names of the inputs.
            alone: whether no other run is to be expected meanwhile.

        Raises:
            Exception: whatever ONNX Runtime raises; a RuntimeError where the run was handed over.
        """
        if alone or not self._handing_over.acquire(blocking=False):
            results: list[Any] = self._session.run(list(outputs), dict(feeds))
            return results
        try:
            return _handed_over(self._session, list(outputs), dict(feeds))
        finally:
            self._handing_over.release()


def _handed_over(session: Any, outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
    """Run in the session's own thread, and return when that thread needs nothing of Python any more."""
    kept: list[tuple[list[Any], str]] = []
    gone: SimpleQueue[Any] = SimpleQueue()

    def keep(results: list[Any], _: None, error: str) -> None:
        kept.append((results, error))

    # Not when it is called but when it is let go, the last that the thread does under Python's lock: who
    # closes the session holds that lock while it waits for the thread. `put` is no Python code, which could
    # lend the lock to others before its end.
    watch = weakref.ref(keep, gone.put)
    session.run_async(outputs, feeds, keep, None)
    del keep
    interrupt = _wait(gone)
    del watch
    if interrupt is not None:
        raise interrupt
    results, error = kept[0]
    if error:
        raise RuntimeError(error)
    return results


def _wait(gone: SimpleQueue[Any]) -> BaseException | None:
    """Wait, whatever interrupts this thread, which could not be interrupted in a run either; return that."""
    interrupt: BaseException | None = None
    while True:
        try:
            gone.get()
        except BaseException as error:  # a signal's handler may raise anything
            interrupt = error
        else:
            return interrupt
