"""What the queue holds: callers, their chunks of rows, slots of pieces, and batches of slots.

Nothing here locks. What several threads share (all but a chunk's rows) is touched under the queue's lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError
from bertonnx.runtime.engine.repeats import Key
from bertonnx.runtime.rows import (
    POOLING_MASK,
    Decoder,
    Encoded,
    Item,
    Piece,
    attention_mask,
    feeds_together,
    pooling_mask,
)

__all__ = ["Batch", "Caller", "Chunk", "Groups", "Kind", "Slot", "largest_first"]

Kind = tuple[int, tuple[str, ...], bool]
"""What the pieces of a batch have in common: their length in tokens, the outputs that are fetched, and
whether some tokens are not attended to: attention computes such texts in another way, and bits must not
depend on company."""


class Slot:
    """A piece that is to be computed, once for all rows of a caller that have it, and what its decoder keeps.

    Attributes:
        piece: the input of the graph.
        chunk: whose it is.
        kept: what the decoder kept, or the `RowError` of a piece that failed; None before.
    """

    __slots__ = ("chunk", "kept", "piece")

    def __init__(self, piece: Piece, chunk: Chunk, kept: Any = None) -> None:
        self.piece = piece
        self.chunk = chunk
        self.kept = kept


class Batch:
    """Slots whose pieces have one length, of any number of callers; or of several lengths, once it is taken.

    Attributes:
        kind: what they have in common; the first's, where lengths differ.
        slots: the slots.
        budget: tokens of a full batch.
        due: whether it waits in a caller's line, so that it may run; else it waits for company.
        taken: whether it runs, has run, or never will.
        alone: whether no other batch runs beside it and fewer wait than there are cores, so that it may take
            all of them.
        exclusive: whether no other can start beside it.
        apart: whether it must not run together with other lengths, for it failed before.
        lengths: where lengths differ, tokens of each piece.
    """

    __slots__ = ("alone", "apart", "budget", "due", "exclusive", "kind", "lengths", "slots", "taken")

    def __init__(self, kind: Kind, budget: int, slots: list[Slot]) -> None:
        self.kind = kind
        self.slots = slots
        self.budget = budget
        self.due = self.taken = self.alone = self.exclusive = self.apart = False
        self.lengths: list[int] = []

    @property
    def tokens(self) -> int:
        """Tokens of all its pieces."""
        return sum(self.lengths) or self.kind[0] * len(self.slots)

    @property
    def full(self) -> bool:
        """Whether no other piece fits in. One that is longer than the budget fills a batch."""
        return self.tokens + self.kind[0] > self.budget

    def feeds(self, inputs: Iterable[str]) -> Mapping[str, npt.NDArray[np.int64]]:
        """Return the graph's inputs by their names, int64; nothing is padded.

        They are of shape (slots, tokens), or (1, tokens of all) where lengths differ.
        """
        if self.lengths:
            return feeds_together([slot.piece for slot in self.slots], tuple(inputs))
        # A lone text pays for every call of NumPy's Python code: `stack` and `ones_like` take thrice as long.
        ids = np.array([slot.piece.ids for slot in self.slots])
        made = {"input_ids": ids}
        if "attention_mask" in inputs:
            made["attention_mask"] = mask = np.empty_like(ids)
            mask.fill(1)
            if self.kind[2]:
                made["attention_mask"] = attention_mask([slot.piece for slot in self.slots])
        if "token_type_ids" in inputs:
            made["token_type_ids"] = np.array([slot.piece.type_ids for slot in self.slots])
        if POOLING_MASK in inputs:
            made[POOLING_MASK] = pooling_mask([slot.piece for slot in self.slots])
        return made


class Groups:
    """The batches that still take slots, one of each kind.

    Args:
        tokens: the outputs that are fetched -> tokens of a full batch.
    """

    def __init__(self, tokens: Callable[[tuple[str, ...]], int]) -> None:
        self._tokens = tokens
        self._open: dict[Kind, Batch] = {}

    def add(self, slot: Slot) -> Batch:
        """Put a slot into the batch of its kind, and return the batch; a full one takes no more."""
        fetch = slot.chunk.caller.decoder.fetch
        kind = (len(slot.piece.ids), fetch, slot.piece.unseen > 0)
        batch = self._open.get(kind)
        if batch is None:
            batch = self._open[kind] = Batch(kind, self._tokens(fetch), [])
        batch.slots.append(slot)
        # An open batch is never full, so whoever's turn it is takes all of it: no caller's slot is left
        # behind by those of a larger job.
        if batch.full:
            del self._open[kind]
        return batch

    def close(self, batch: Batch) -> None:
        """Let a batch take no more slots."""
        if self._open.get(batch.kind) is batch:
            del self._open[batch.kind]


def largest_first(batches: Iterable[Batch]) -> list[Batch]:
    """Return batches by their tokens, the largest first, so that all cores finish together."""
    return sorted(batches, key=lambda batch: -batch.tokens)


class Caller:
    """Whose rows are in the queue: one call of `map`, or one submission. Callers take turns.

    Attributes:
        decoder: makes results of what the model puts out.
        line: batches that are due, in the order in which they should run.
        lined_up: whether the caller itself is in the queue's line of callers.
    """

    __slots__ = ("decoder", "line", "lined_up")

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.line: deque[Batch] = deque()
        self.lined_up = False


class Chunk:
    """Rows that were taken together from a caller, on their way through the model.

    Attributes:
        caller: whose rows they are.
        done: called with the chunk, once and in any thread, when all of it is computed or an error ended it.
        encoded: the rows, tokenized so far.
        slots: of each piece of each row, in order, where its result is put.
        fresh: the slots that this chunk computes, by what decides their results.
        gathering: the batches that its slots went into and that are not due yet.
        spread: whether the cores share its batches. They do once one for each of them was due.
        whole: whether all its rows are in.
        left: slots that are not computed yet.
        running: those of them that are being computed.
        open: whether it is still to be computed.
        started: when its first batch began, in seconds of `time.perf_counter`; 0 before.
        error: what ended it before it was computed.
        sleepers: a locked lock of each thread that waits for it.
    """

    __slots__ = (
        *("caller", "done", "encoded", "error", "fresh", "gathering", "left", "open"),
        *("running", "sleepers", "slots", "spread", "started", "whole"),
    )

    def __init__(self, caller: Caller, done: Callable[[Chunk], object] | None = None) -> None:
        self.caller = caller
        self.done = done
        self.encoded: list[Encoded | RowError] = []
        self.slots: list[Slot] = []
        self.fresh: dict[Key, Slot] = {}
        self.gathering: dict[Kind, Batch] = {}
        self.spread = self.whole = False
        self.left = self.running = 0
        self.open = True
        self.started = 0.0
        self.error: BaseException | None = None
        self.sleepers: list[threading.Lock] = []

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to wait for."""
        return (self.whole and not self.left) or self.error is not None

    def items(self) -> Iterator[Item | RowError]:
        """Yield one result a row, in order, once the chunk is settled. It lets go of its rows then.

        Raises:
            BaseException: what ended the chunk.
        """
        slots = iter(self.slots)
        try:
            if self.error is not None:
                raise self.error
            for item in self.encoded:
                if isinstance(item, RowError):
                    yield item
                else:
                    yield _decoded(item, [next(slots).kept for _ in item.pieces], self.caller.decoder)
        finally:
            # A chunk and its slots hold each other: they would stay until Python looks for such circles, and
            # it does so the more rarely the more there is in memory.
            self.encoded, self.slots, self.fresh = [], [], {}


def _decoded(encoded: Encoded, kept: Sequence[Any], decoder: Decoder) -> Item | RowError:
    failed = next((value for value in kept if isinstance(value, RowError)), None)
    if failed is not None:
        return failed
    try:
        item = decoder.decode(encoded, kept)
    except RowError as error:
        return error
    if encoded.truncated:
        item["truncated"] = True
    return item
