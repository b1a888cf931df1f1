"""Python's search for garbage, paused while modules are imported and a model is opened.

What they make stays, a hundred thousand objects, and Python would look through them fifty times for garbage
that is not there: a sixth of a start.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["pause", "paused", "resume"]


@contextmanager
def paused() -> Iterator[None]:
    """Let Python search for no garbage inside the block."""
    if not gc.isenabled():  # for good, or by a block around this one
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def pause() -> None:
    """Let Python search for no garbage until `resume`; for a process that is ours."""
    gc.disable()


def resume() -> None:
    """Let Python search for garbage again, and never among what is there now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
