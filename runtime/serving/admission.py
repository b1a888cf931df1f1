"""Who is let in: texts up to a bound; who comes when there are more is told when to come again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from bertonnx.runtime.serving.errors import RefusedError

__all__ = ["Admission"]

_LEAST_MS, _MOST_MS = 100, 60_000


class Admission:
    """Texts that wait for one model.

    A request is let in whole or not at all. One that is larger than the bound is let in where nothing
    waits, since it could never be otherwise.

    Args:
        limit: texts that may wait.
        characters: of all texts that may wait.
        answered: texts that the model has answered so far; how fast that grows says when to come again.
    """

    def __init__(self, limit: int, characters: int, answered: Callable[[], int]) -> None:
        self.limit = limit
        self.waiting = 0
        self._characters = characters
        self._characters_waiting = 0
        self._answered = answered
        self._since = monotonic()
        self._before = 0

    @contextmanager
    def admitted(self, texts: int, characters: int) -> Iterator[None]:
        """Let texts in for the time of the block.

        Raises:
            RefusedError: too many wait.
        """
        if self.waiting and (
            self.waiting + texts > self.limit or self._characters_waiting + characters > self._characters
        ):
            raise self._full(texts)
        self.waiting += texts
        self._characters_waiting += characters
        try:
            yield
        finally:
            self.waiting -= texts
            self._characters_waiting -= characters

    def _full(self, texts: int) -> RefusedError:
        soon = self._milliseconds(texts)
        return RefusedError(
            "overloaded",
            f"{self.waiting} texts wait for this model, and {self.limit} may; try again later",
            headers=(
                (b"retry-after", str(math.ceil(soon / 1000)).encode()),
                (b"retry-after-ms", str(soon).encode()),
            ),
        )

    def _milliseconds(self, texts: int) -> int:
        """Return when there should be room for so many texts, at the speed of the last seconds."""
        now, answered = monotonic(), self._answered()
        seconds, done = now - self._since, answered - self._before
        # Speed changes with the lengths of texts, so old times count no longer.
        if seconds > 5:
            self._since, self._before = now, answered
        too_many = min(self.waiting, self.waiting + texts - self.limit)
        estimate = 1000 * too_many * seconds / done if done > 0 else 1000
        return int(min(max(estimate, _LEAST_MS), _MOST_MS))
