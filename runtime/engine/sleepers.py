"""Who waits for a chunk: threads that sleep, and functions that are to be called."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from bertonnx.runtime.engine.batches import Chunk

__all__ = ["sleeper_of", "tell", "wake"]


def sleeper_of(chunk: Chunk) -> threading.Lock:
    """Return a lock that can be had when a chunk is settled, or some of it has run."""
    lock = threading.Lock()
    lock.acquire()
    chunk.sleepers.append(lock)
    return lock


def wake(chunk: Chunk) -> None:
    """Wake the threads that wait for a chunk."""
    for sleeper in chunk.sleepers:
        sleeper.release()
    chunk.sleepers.clear()


def tell(chunks: Iterable[Chunk]) -> None:
    """Tell of chunks that are settled. What goes wrong there is no fault of other callers."""
    for chunk in chunks:
        try:
            if chunk.done is not None:
                chunk.done(chunk)
        except Exception as error:
            thread = threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs([type(error), error, error.__traceback__, thread]))
