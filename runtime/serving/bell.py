"""Results that are ready in other threads, told to the event loop: one call wakes it for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

__all__ = ["Bell"]


class Bell:
    """Sets futures of an event loop from any thread.

    To call into the loop costs a write to a pipe each time, and a busy model ends hundreds of requests
    between two turns of the loop.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[asyncio.Future[None]] = deque()
        self._rung = False

    def ring(self, future: asyncio.Future[None]) -> None:
        """Let a future be set soon."""
        self._ready.append(future)
        if not self._rung:
            self._rung = True
            # The loop has ended: nobody waits for the future any more.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        # First, so that what comes from now on rings again.
        self._rung = False
        while self._ready:
            future = self._ready.popleft()
            if not future.done():
                future.set_result(None)
