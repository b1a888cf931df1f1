"""What a session answered for each text, kept while a file is made: parity, its gate and its examples ask for
the same texts, and no text's numbers depend on those beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.session.session import Feeds, Session

__all__ = ["Remembered"]

_MOST = 1 << 28
"""Bytes that are kept of all texts; those that come later run again."""

Row = tuple[tuple[str, tuple[int, ...], bytes], ...]
Array = npt.NDArray[np.float32]


class Remembered:
    """A session that runs a text once, alone or beside others of its length, for each output.

    Padded batches always run, and nothing of them is kept.

    Attributes:
        provider, inputs, outputs: the session's.
        fresh: the session itself, which runs whatever it is given.

    Args:
        session: runs what is new.
    """

    def __init__(self, session: Session) -> None:
        self.provider = session.provider
        self.inputs = session.inputs
        self.outputs = session.outputs
        self.fresh = session
        self._known: dict[tuple[Row, str], Array] = {}
        self._bytes = 0

    def run(self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False) -> list[Array]:
        """Return the named outputs of one batch, as `Session.run`."""
        rows = _rows(feeds)
        found = [[self._known.get((row, name)) for row in rows] for name in outputs]
        if rows and all(part is not None for parts in found for part in parts):
            # A new array each time, so that nobody changes what others get.
            return [np.concatenate([part for part in parts if part is not None]) for parts in found]
        results = self.fresh.run(outputs, feeds, alone=alone)
        for name, array in zip(outputs, results, strict=True):
            if len(rows) == len(array) and self._bytes + array.nbytes <= _MOST:
                self._bytes += array.nbytes
                self._known |= {(row, name): array[i : i + 1].copy() for i, row in enumerate(rows)}
        return results


def _rows(feeds: Feeds) -> list[Row]:
    """Return what tells each text of a batch from others; nothing for a padded batch."""
    count = min(map(len, feeds.values()), default=0)
    mask = feeds.get("attention_mask")
    if count > 1 and (mask is None or not mask.all()):
        return []
    named = sorted(feeds.items())
    return [tuple((name, array.shape[1:], array[i].tobytes()) for name, array in named) for i in range(count)]
