"""Cores that the queues of several models share: a batch at a time on each, and a turn for every model."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

__all__ = ["Cores", "Waiting"]


class Waiting(Protocol):
    """Who waits for a core."""

    def core_is_free(self) -> bool:
        """Take a core that is handed over, and see to it that it is given back; False refuses it.

        Called while others' locks are held, so it must not wait for one of its own.
        """


class Cores:
    """So many cores, each taken for a batch.

    A core that is given back goes to who has waited longest. It stays taken meanwhile, so that a queue
    that always has more to run cannot take it again before the others had their turn.

    Args:
        number: how many batches may run at a time.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._taken = 0
        self._waiting: deque[Waiting] = deque()
        # Held for a few instructions, and never while another lock is waited for.
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def take(self, who: Waiting) -> bool:
        """Take a core and return True; where none is free, note who is to have the next."""
        with self._lock:
            # Not before those who wait already.
            if self._taken < self.number and not self._waiting:
                self._taken += 1
                return True
            if who not in self._waiting:
                self._waiting.append(who)
            return False

    def give_back(self) -> None:
        """Give a core back: it is handed over to who waits, or free."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._taken -= 1
                    return
                who = self._waiting.popleft()
            if who.core_is_free():
                return

    def forget(self, who: Waiting) -> None:
        """Let somebody wait no longer."""
        with self._lock:
            if who in self._waiting:
                self._waiting.remove(who)
