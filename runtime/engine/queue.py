"""The queue that all callers share: whose batch runs next, in which thread, and what happens when it fails.

A batch runs in the thread of a caller that would wait otherwise, if a core is free: a text that comes alone
wakes no other thread. Where more batches are due than such threads come by, a pool's threads run them,
each for as long as there are any.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import get_ident
from time import perf_counter

from bertonnx.runtime.engine.batches import Batch, Caller, Chunk, Groups, Slot, largest_first
from bertonnx.runtime.engine.company import company, parted, together
from bertonnx.runtime.engine.cores import Cores
from bertonnx.runtime.engine.counters import SIZES, Counters, place_of_size
from bertonnx.runtime.engine.running import Parts, Runner, closed
from bertonnx.runtime.engine.sleepers import sleeper_of, tell, wake

__all__ = ["Counters", "Queue", "closed"]

_SHARE = 8
"""A batch that is not due yet may run on an idle core if it is an eighth full. Smaller ones cost more than
the core that waits."""

_APART = 4
"""After a caller came while another's batch ran, so many batches run with a core each before one may take all
of them: all cores together take far more than a share of a core's time, and who comes meanwhile waits."""


class Queue:
    """Slots of any number of callers and threads, run in batches.

    Callers take turns, a batch each, whatever they have in the queue. A batch takes along all slots of its
    kind that wait, up to a full batch, whoever's they are; and a small one those of other small ones, where
    the session takes several lengths at once.

    Attributes:
        closed: whether no more is taken in.

    Args:
        runner: the model.
        runs: batches at a time.
        tokens: the outputs that are fetched -> tokens of a full batch.
        cores: what this queue shares with those of other models; default its threads are its own.
    """

    def __init__(
        self,
        runner: Runner,
        runs: int,
        tokens: Callable[[tuple[str, ...]], int],
        cores: Cores | None = None,
    ) -> None:
        self._runner = runner
        self._cores = cores
        self._tokens = tokens
        self._limit = runs
        self.closed = False
        self._pool = ThreadPoolExecutor(runs, thread_name_prefix="bertonnx")
        # Reentrant, since the garbage collector may close a caller's generator while this thread holds it.
        self._lock = threading.RLock()
        self._groups = Groups(self._budget)
        self._line: deque[Caller] = deque()
        self._due = 0
        self._coming = 0
        self._running: dict[int, Batch] = {}
        self._workers: set[int] = set()
        self._chunks: set[Chunk] = set()
        self._apart = _APART
        self._waiting = self._batches = self._pieces = self._batch_tokens = 0
        self._sizes = [0] * SIZES

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of what happened so far: that memory ran out, and what was done."""
        return self._runner.notes

    def counters(self) -> Counters:
        """Return what the queue does now, and has done so far."""
        with self._lock:
            return Counters(
                self._waiting,
                len(self._running),
                self._batches,
                self._pieces,
                self._batch_tokens,
                tuple(self._sizes),
            )

    # What callers do.

    def add(self, chunk: Chunk, slots: Iterable[Slot], *, more: bool) -> None:
        """Take slots of a chunk in, and let batches run from when there is one for every core.

        Args:
            chunk: the chunk, of which others may follow.
            slots: its slots.
            more: whether there were others before. Then cores that wait need not wait for all of them.

        Raises:
            BertonnxError: the queue is closed.
        """
        with self._lock:
            self._require_open()
            if chunk not in self._chunks:
                self._chunks.add(chunk)
                self._look_for_others(chunk.caller)
            before = self._due
            for slot in slots:
                self._gather(slot, chunk)
            if more:
                self._lend(chunk)
            if self._due > before and (chunk.spread or self._idle <= 0):
                chunk.spread = True
                self._hand_out()

    def end(self, chunk: Chunk) -> None:
        """Say that all slots of a chunk are in. All of its batches are due then.

        Raises:
            BertonnxError: the queue is closed.
        """
        with self._lock:
            self._require_open()
            chunk.whole = True
            # One that another caller has lined up is lined up again: whose turn comes first takes it.
            for batch in largest_first(chunk.gathering.values()):
                self._line_up(batch, chunk.caller)
            chunk.gathering.clear()
            told = self._settle([chunk])
        tell(told)

    def start(self) -> None:
        """Let the pool's threads run what is due, for this one will not wait for it."""
        with self._lock:
            self._hand_out(alone=self._fewer_than_cores())

    def run_alone(self, chunk: Chunk) -> None:
        """Run a chunk's batches that are fewer than the cores, one after the other with all cores, here.

        This is for a caller that takes its next chunk, whose batches would take the cores first.
        """
        try:
            while True:
                with self._lock:
                    batch = self._next(self._fewer_than_cores() and not chunk.spread)
                if batch is None:
                    return
                self._run(batch)
        except BaseException:
            self._abandon()
            raise

    def wait(self, chunk: Chunk) -> None:
        """Return when a chunk is settled. Meanwhile this thread runs batches, if a core is free."""
        try:
            while True:
                with self._lock:
                    settled = chunk.settled
                    batch = self._next(not settled, alone=not chunk.spread)
                    if settled:
                        return
                    sleeper = sleeper_of(chunk) if batch is None else None
                if batch is not None:
                    self._run(batch)
                elif sleeper is not None:
                    sleeper.acquire()
        except BaseException:
            self._abandon()
            raise

    def drop(self, chunks: Iterable[Chunk]) -> None:
        """Drop what has not started of chunks that nobody waits for any longer, and wait for what has."""
        for chunk in chunks:
            chunk.open = False
            self._chunks.discard(chunk)
        # The garbage collector may do this, in any thread and at any place. Where this thread holds the lock
        # or runs a batch, it can neither change the queue nor wait: what is not open is passed over later.
        if self._lock._is_owned() or get_ident() in self._running:  # type: ignore[attr-defined]
            return
        for chunk in chunks:
            while True:
                with self._lock:
                    self._forget(chunk)
                    if not chunk.running:
                        break
                    sleeper = sleeper_of(chunk)
                sleeper.acquire()

    def cancel(self, chunk: Chunk) -> None:
        """Drop what has not started of a chunk. Who waits for it gets a CancelledError."""
        with self._lock:
            if not chunk.settled:
                chunk.error = CancelledError()
                self._forget(chunk)
                wake(chunk)

    def close(self) -> None:
        """Drop batches that wait, let the pool's threads go, and fail all chunks that are not computed."""
        with self._lock:
            told = self._fail()
        tell(told)
        if self._cores is not None:
            self._cores.forget(self)
        # Not from a pool's thread, which has told of results and cannot wait for itself.
        self._pool.shutdown(wait=get_ident() not in self._workers, cancel_futures=True)
        self._runner.release()

    def core_is_free(self) -> bool:
        """Take a core that was handed over; return False where nothing runs here any longer.

        Another queue's lock may be held, so this one's is taken in a thread of the pool.
        """
        return self._sent(self._serve, True, False) is not None

    # Under the lock: what is due, and who runs it.

    @property
    def _turns(self) -> int:
        """How many cores are taken: by batches, and by threads of the pool that are about to take one."""
        return len(self._running) + self._coming

    @property
    def _idle(self) -> int:
        """How many cores there are more than batches that run or are due."""
        return self._limit - len(self._running) - self._due

    def _require_open(self) -> None:
        if self.closed:
            raise closed()

    def _look_for_others(self, caller: Caller) -> None:
        """Remember where a caller comes while another's batch runs."""
        if any(batch.slots[0].chunk.caller is not caller for batch in self._running.values()):
            self._apart = 0

    def _gather(self, slot: Slot, chunk: Chunk) -> None:
        """Put a slot into a batch; a full one is due."""
        batch = self._groups.add(slot)
        chunk.left += 1
        self._waiting += 1
        if batch.full:
            chunk.gathering.pop(batch.kind, None)
            self._line_up(batch, chunk.caller)
        else:
            chunk.gathering[batch.kind] = batch

    def _line_up(self, batch: Batch, caller: Caller, *, first: bool = False) -> None:
        """Let a batch run at a caller's turn; it may wait for another's turn too."""
        if batch.taken:
            return
        if not batch.due:
            batch.due = True
            self._due += 1
        if first:
            caller.line.appendleft(batch)
        else:
            caller.line.append(batch)
        if not caller.lined_up:
            caller.lined_up = True
            self._line.append(caller)

    def _lend(self, chunk: Chunk) -> None:
        """Let the largest batches that wait for company run on cores that would wait."""
        gathering = [batch for batch in chunk.gathering.values() if not batch.due]
        for batch in largest_first(gathering)[: max(0, self._idle)]:
            if _SHARE * batch.tokens >= batch.budget:
                del chunk.gathering[batch.kind]
                self._line_up(batch, chunk.caller)

    def _fewer_than_cores(self, *, held: bool = False) -> bool:
        """Return whether nothing runs, fewer batches are due than there are cores, and callers come apart.

        Args:
            held: whether one of the shared cores is taken already for what would run.
        """
        here = not self._running and not self._coming and self._due < self._limit
        here = here and self._apart >= _APART
        return here and (self._cores is None or self._cores.taken == held)

    def _sent(self, work: Callable[..., None], *arguments: object) -> Future[None] | None:
        """Let a thread of the pool do something with a core that is taken; None where there are no more."""
        try:
            future = self._pool.submit(work, *arguments)
        except RuntimeError:  # it is closed, or Python is about to end
            return None
        if self._cores is not None:
            future.add_done_callback(self._give_back_unused)
        return future

    def _take_core(self) -> bool:
        return self._cores is None or self._cores.take(self)

    def _give_core_back(self) -> None:
        if self._cores is not None:
            self._cores.give_back()

    def _give_back_unused(self, future: Future[None]) -> None:
        if future.cancelled():
            self._give_core_back()

    def _hand_out(self, *, alone: bool = False) -> None:
        """Let the pool's threads run what is due, as far as cores are free.

        Args:
            alone: whether they may run batches alone. Then one of them is enough.
        """
        while self._turns < self._limit and self._due > self._coming and not self.closed:
            if not self._take_core():
                return
            # Before, since the thread may begin at once.
            self._coming += 1
            if self._sent(self._serve, alone, True) is None:
                self._coming -= 1
                self._give_core_back()
                self._fail()
                return
            if alone:
                return

    def _next(self, wanted: bool, *, alone: bool = True, held: bool = False) -> Batch | None:
        """Take a batch to run in this thread, if there is a core for it, and let others run the rest.

        Args:
            wanted: whether this thread runs one at all.
            alone: whether it may run one alone.
            held: whether this thread has a core already.
        """
        wanted = wanted and self._turns < self._limit and not self.closed
        if wanted and not self._due:
            self._take()  # lets go of lines whose batches others took
        elif wanted and (held or self._take_core()):
            held = True
            alone = alone and self._fewer_than_cores(held=held)
            batch = self._take(in_company=not alone)
            if batch is not None:
                # Where there is but one core, what runs last of all that is due has it to itself.
                batch.alone = alone or (self._limit == 1 and not self._due and not batch.lengths)
                batch.exclusive = self._limit == 1
                if not batch.alone:
                    self._hand_out()
                return batch
        if held:
            self._give_core_back()
        self._hand_out()
        return None

    def _take(self, *, in_company: bool = False) -> Batch | None:
        """Take the next batch of the caller whose turn it is, with small ones if they may come along."""
        while self._line:
            caller = self._line[0]
            while caller.line:
                batch = caller.line.popleft()
                if batch.taken:
                    continue
                self._thin(batch)
                if batch.slots:
                    self._line.rotate(-1)  # the next turn is another caller's
                    self._leave(batch)
                    if in_company:
                        self._join(batch)
                    now = perf_counter()
                    for slot in batch.slots:
                        slot.chunk.running += 1
                        slot.chunk.started = slot.chunk.started or now
                    self._running[get_ident()] = batch
                    return batch
            caller.lined_up = False
            self._line.popleft()
        return None

    def _join(self, batch: Batch) -> None:
        """Let small batches that are due run together with one that is small."""
        due = (other for caller in self._line for other in caller.line if not other.taken)
        others = company(batch, due, self._runner.takes_together, self._limit)
        for other in others:
            self._thin(other)
            if other.slots:
                self._leave(other)
        together(batch, others)

    def _thin(self, batch: Batch) -> None:
        """Take slots that are no longer wanted out of a batch, and an empty batch out of the queue."""
        slots = [slot for slot in batch.slots if slot.chunk.open]
        self._waiting -= len(batch.slots) - len(slots)
        batch.slots = slots
        if not slots:
            self._leave(batch)

    def _leave(self, batch: Batch) -> None:
        """Take a batch out of the queue."""
        batch.taken = True
        self._due -= batch.due
        self._waiting -= len(batch.slots)
        self._groups.close(batch)

    def _forget(self, chunk: Chunk) -> None:
        """Take all slots of a chunk that wait out of the queue."""
        chunk.open = False
        self._chunks.discard(chunk)
        for batch in {*chunk.gathering.values(), *chunk.caller.line}:
            if not batch.taken:
                self._thin(batch)
        chunk.gathering.clear()

    def _settle(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Wake who waits for chunks that are settled, and return those of which somebody is to be told."""
        told = []
        for chunk in chunks:
            if chunk.settled and chunk.open:
                chunk.open = False
                self._chunks.discard(chunk)
                if chunk.error is not None:
                    self._forget(chunk)
                if chunk.done is not None:
                    told.append(chunk)
            if not chunk.open:
                wake(chunk)
        return told

    def _fail(self) -> list[Chunk]:
        """Close the queue: what has started may end, and all else fails."""
        self.closed = True
        failed = []
        for chunk in list(self._chunks):
            if not chunk.whole or chunk.left > chunk.running:
                chunk.error = closed()
                failed.append(chunk)
        return self._settle(failed)

    # In a thread that has a core.

    def _serve(self, alone: bool, expected: bool) -> None:
        """Run batches in a thread of the pool that has a core, for as long as there are any.

        Args:
            alone: whether it may run batches alone.
            expected: whether it counts as one that is coming.
        """
        self._workers.add(get_ident())
        with self._lock:
            # Under one lock: a queue that seemed to have a turn left would ask for one core more.
            self._coming -= expected
            batch = self._next(True, alone=alone, held=True)
        while batch is not None:
            self._run(batch)
            with self._lock:
                batch = self._next(True, alone=alone)

    def _abandon(self) -> None:
        """Leave what this thread ran to others, for it was interrupted."""
        with self._lock:
            batch = self._running.get(get_ident())
            told = self._finish(batch, [batch.slots]) if batch is not None else []
            self._hand_out()
        tell(told)

    def _run(self, batch: Batch) -> None:
        """Run a batch, and let it be tried again where it failed."""
        # An interrupt is of a caller's thread and not of the batch. The pool's threads get none.
        parts = self._runner.run(batch, interruptible=get_ident() not in self._workers)
        with self._lock:
            told = self._finish(batch, parts)
        tell(told)

    def _finish(self, batch: Batch, parts: Parts) -> list[Chunk]:
        """Count a batch's slots as computed, or line them up again in parts; return chunks to tell of."""
        del self._running[get_ident()]
        self._give_core_back()
        for slot in batch.slots:
            slot.chunk.running -= 1
            if not parts:
                slot.chunk.left -= 1
        if self._runner.out_of_memory:
            self._limit = 1
        chunks = dict.fromkeys(slot.chunk for slot in batch.slots)
        self._apart += 1
        if not parts:
            self._batches += 1
            self._pieces += len(batch.slots)
            self._sizes[place_of_size(len(batch.slots))] += 1
            self._batch_tokens += batch.tokens
        elif self.closed:
            for chunk in chunks:
                chunk.error = chunk.error or closed()
        # At its callers' next turns, before what else they have: their other rows wait for it.
        for part in reversed(parts):
            for smaller in parted(batch, part):
                self._waiting += len(smaller.slots)
                for caller in dict.fromkeys(slot.chunk.caller for slot in smaller.slots):
                    self._line_up(smaller, caller, first=True)
        return self._settle(chunks)

    def _budget(self, fetch: tuple[str, ...]) -> int:
        return min(self._tokens(fetch), self._runner.most_tokens)
