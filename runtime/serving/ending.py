"""How a server ends: what is under way is answered first; a second signal ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertonnx.runtime.serving.app import Application

__all__ = ["Ending"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_LEAST_SECONDS = 0.3
"""For which `/ready` says 503 before connections are refused, so that who asks once more is told."""

_LOOK_SECONDS = 0.02


class Ending:
    """Ends a server.

    Attributes:
        over: set when nothing is under way any longer.

    Args:
        application: what is told to take no more.
    """

    def __init__(self, application: Application) -> None:
        self.over = asyncio.Event()
        self._application = application
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None
        self._signalled = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let signals end the server in the block, where this is the thread that gets them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._called) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def signalled(self, number: int) -> None:
        """End the server as a signal does; from any thread."""
        if self._signalled:
            # Not by an exception, which would wait for threads that run a batch.
            os._exit(128 + number)
        self._signalled = True
        # A handler of signals runs between any two instructions, so the loop does the rest.
        self._loop.call_soon_threadsafe(self._drain)

    def _called(self, number: int, frame: Any) -> None:  # noqa: ARG002
        self.signalled(number)

    def _drain(self) -> None:
        self._application.drain()
        self._draining = self._loop.create_task(self._wait())

    async def _wait(self) -> None:
        await asyncio.sleep(_LEAST_SECONDS)
        while self._application.under_way:
            await asyncio.sleep(_LOOK_SECONDS)
        self.over.set()
