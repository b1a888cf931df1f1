"""The queue: which batches run, when, where, and what becomes of them when somebody stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from bertonnx.errors import BertonnxError, InferenceError, OutOfMemoryError, RowError
from bertonnx.runtime.engine.batches import Caller, Chunk, Slot
from bertonnx.runtime.engine.queue import Queue
from bertonnx.runtime.engine.running import Runner
from bertonnx.runtime.rows import Encoded, Item, Outputs, Piece, Row
from tests.runtime.engine.fakes import PATIENCE, FakeSession, HeldSession, in_thread, piece_of, until

TOKENS = 32
"""Tokens of a full batch."""

BAD = 99
"""A token that the sessions of this module do not like."""


class Kept:
    """Keeps what it fetches."""

    def __init__(self, fetch: tuple[str, ...] = ("sums",)) -> None:
        self.fetch = fetch

    def keep(self, piece: Piece, outputs: Outputs) -> list[float]:  # noqa: ARG002
        return [float(outputs[name]) for name in self.fetch]

    def decode(self, encoded: Encoded, kept: Any) -> Item:  # noqa: ARG002
        return {"kept": kept}


class Broken(Kept):
    """Cannot keep anything."""

    def keep(self, piece: Piece, outputs: Outputs) -> list[float]:  # noqa: ARG002
        raise TypeError("a bug")


Opened = Callable[..., Queue]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Return what opens a queue for a session and so many cores, to be closed after the test."""
    queues = []

    def open_queue(session: FakeSession, cores: int = 1) -> Queue:
        queues.append(Queue(Runner(session), cores, lambda _: TOKENS))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.close()


def chunk_of(caller: Caller | None = None, decoder: Kept | None = None, **more: Any) -> Chunk:
    return Chunk(caller or Caller(decoder or Kept()), **more)


def add(queue: Queue, chunk: Chunk, lengths: Iterable[int], *, more: bool = False, token: int = 1) -> Chunk:
    """Put pieces of such lengths into a chunk, without their rows."""
    slots = [Slot(piece_of(length, token), chunk) for length in lengths]
    chunk.slots.extend(slots)
    queue.add(chunk, slots, more=more)
    return chunk


def whole(queue: Queue, lengths: Iterable[int], *, token: int = 1, **more: Any) -> Chunk:
    """Return a chunk of pieces of such lengths, all of them in."""
    chunk = add(queue, chunk_of(**more), lengths, token=token)
    queue.end(chunk)
    return chunk


def kept(chunk: Chunk) -> list[Any]:
    return [slot.kept for slot in chunk.slots]


def waiting(queue: Queue, chunk: Chunk) -> Any:
    """Wait for a chunk in another thread, and return that thread's result once it sleeps."""
    before = queue.counters().running
    result = in_thread(lambda: queue.wait(chunk))
    until(lambda: bool(chunk.sleepers) or queue.counters().running > before or result.done())
    return result


def refuses(error: type[Exception], *, batches: int = 1_000_000) -> FakeSession:
    """Return a session that raises an error for batches with a bad token, so many times."""
    left = [batches]

    def hook(feeds: Any) -> None:
        if (feeds["input_ids"] == BAD).any() and left[0]:
            left[0] -= 1
            raise error("bad\n  token")

    return FakeSession(hook)


# Which batches run.


def test_pieces_of_one_length_and_of_equal_outputs_share_a_batch(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session)
    one, two = add(queue, chunk_of(), [4, 4, 5]), add(queue, chunk_of(), [4, 5])
    other = add(queue, chunk_of(decoder=Kept(("counts",))), [4])
    both = add(queue, chunk_of(decoder=Kept(("counts", "sums"))), [4], token=2)
    for chunk in (one, two, other, both):
        queue.end(chunk)
        queue.wait(chunk)
    assert sorted(zip(session.lengths, session.sizes, strict=True)) == [(4, 1), (4, 1), (4, 3), (5, 2)]
    assert (kept(one), kept(two)) == ([[4], [4], [5]], [[4], [5]])
    assert (kept(other), kept(both)) == ([[4]], [[4, 8]])


def test_a_full_batch_runs_before_its_chunk_is_whole(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session)
    chunk = add(queue, chunk_of(), [8, 8, 8])
    assert not session.batches
    add(queue, chunk, [8])
    until(lambda: chunk.left == 0)
    assert session.sizes == [4]
    assert not chunk.settled
    queue.end(chunk)
    assert chunk.settled


@pytest.mark.parametrize(("length", "size"), [(32, 1), (33, 1), (17, 1), (16, 2), (11, 2), (10, 3)])
def test_a_batch_has_as_many_pieces_as_its_tokens_allow(opened: Opened, length: int, size: int) -> None:
    session = FakeSession()
    queue = opened(session)
    queue.wait(whole(queue, [length] * (2 * size + 1)))
    assert session.sizes == [size, size, 1]


def test_a_batch_starts_once_there_is_one_for_every_core(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 3)
    chunk = add(queue, chunk_of(), [32, 32])
    add(queue, chunk, [3])
    assert queue.counters().running == 0
    add(queue, chunk, [32])
    session.wait_for(3)
    session.let()
    until(lambda: chunk.left == 1)
    add(queue, chunk, [30])  # no longer one of the first: it need not wait for two others
    session.wait_for(4)
    assert session.lengths == [32, 32, 32, 30]


@pytest.mark.parametrize(
    ("cores", "busy", "lent"),
    [
        (1, 0, [10]),
        (2, 0, [8, 10]),
        (3, 0, [4, 8, 10]),
        (3, 1, [8, 10]),
        (3, 2, [10]),
        (2, 2, []),
        (4, 0, []),
    ],
)
def test_cores_that_wait_are_lent_the_largest_batches(
    opened: Opened, cores: int, busy: int, lent: list[int]
) -> None:
    """An eighth of 32 tokens is 4: with four cores there are not batches enough to begin with."""
    session = HeldSession()
    queue = opened(session, cores)
    if busy:
        add(queue, chunk_of(), [32] * cores)
        session.wait_for(cores)
        session.let(cores - busy)
        until(lambda: queue.counters().running == busy)
    chunk = add(queue, chunk_of(), [3, 10, 4, 8])
    assert len(session.batches) == bool(busy) * cores
    add(queue, chunk, [1], more=True)
    session.wait_for(bool(busy) * cores + len(lent))
    assert sorted(session.lengths[bool(busy) * cores :]) == lent
    session.let()


def test_a_batch_that_runs_counts_as_one_for_its_core(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 2)
    first = waiting(queue, whole(queue, [5]))
    session.wait_for(1)
    add(queue, chunk_of(), [32])  # with the one that runs there is one for every core
    session.wait_for(2)
    session.let()
    first.result(PATIENCE)


def test_nothing_is_lent_where_no_core_waits(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    first = waiting(queue, whole(queue, [5]))
    session.wait_for(1)
    chunk = add(queue, chunk_of(), [10])
    add(queue, chunk, [4], more=True)
    other = waiting(queue, whole(queue, [6]))
    session.let()
    first.result(PATIENCE)
    other.result(PATIENCE)
    until(lambda: not queue.counters().running)
    assert session.lengths == [5, 6]  # the larger one still waits for company


def test_what_is_lent_is_an_eighth_full_at_least(opened: Opened) -> None:
    for length, runs in ((3, False), (4, True)):
        session = FakeSession()
        queue = opened(session)
        chunk = add(queue, chunk_of(), [length])
        add(queue, chunk, [1], more=True)
        until(lambda runs=runs, chunk=chunk: chunk.left == (1 if runs else 2))  # type: ignore[misc]
        assert session.lengths == ([4] if runs else [])


def test_a_batch_that_is_due_for_another_caller_is_not_lent(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 3)
    chunk = add(queue, chunk_of(), [10, 10, 8])
    other = whole(queue, [10])  # which is due now, and larger than the other batch
    add(queue, chunk, [4], more=True)  # of two cores that are left, both get a batch
    session.wait_for(3)
    assert sorted(session.lengths) == [4, 8, 10]
    session.let()
    queue.wait(other)


def test_what_waits_for_company_goes_along_when_another_caller_needs_it(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session)
    gathering = add(queue, chunk_of(), [6, 6, 7])
    queue.wait(whole(queue, [6]))
    assert session.sizes == [3]
    assert gathering.left == 1
    queue.end(gathering)
    queue.wait(gathering)
    assert session.lengths == [6, 7]


def test_a_batch_that_another_fills_is_its_first_callers_too(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session)
    first = add(queue, chunk_of(), [8])
    other = add(queue, chunk_of(), [8, 8, 8])
    queue.end(first)
    queue.wait(first)
    assert session.sizes == [4]
    queue.end(other)
    queue.wait(other)
    assert session.sizes == [4]


# Turns.


def test_callers_take_turns_and_each_has_its_largest_batch_first(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    chunks = [whole(queue, lengths) for lengths in ([2], [10, 12, 11], [13, 14, 15], [16])]
    results = [waiting(queue, chunk) for chunk in chunks]
    session.let()
    for result in results:
        result.result(PATIENCE)
    assert session.lengths == [2, 12, 15, 16, 11, 14, 10, 13]


@pytest.mark.parametrize("cores", [1, 2])
def test_a_single_text_waits_for_one_batch_a_core_of_a_large_job(opened: Opened, cores: int) -> None:
    session = HeldSession()
    queue = opened(session, cores)
    large = whole(queue, [16] * 100)
    ending = waiting(queue, large)
    session.wait_for(cores)
    single = whole(queue, [5])
    answer = waiting(queue, single)
    for batches in range(1, cores + 1):
        assert 5 not in session.lengths
        session.let(1)
        session.wait_for(cores + batches)
    session.let(1)
    session.wait_for(2 * cores + 1)
    assert session.lengths.index(5) <= cores + 1
    session.let(cores)
    answer.result(PATIENCE)
    assert not ending.done()
    assert large.left >= 100 - 2 * (3 * cores + 1)
    session.let()
    ending.result(PATIENCE)


def test_a_later_chunk_of_a_caller_has_no_turn_of_its_own(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    caller = Caller(Kept())
    chunks = [whole(queue, [2]), whole(queue, [10, 11], caller=caller)]
    chunks += [whole(queue, [12], caller=caller), whole(queue, [13, 14])]
    results = [waiting(queue, chunk) for chunk in chunks]
    session.let()
    for result in results:
        result.result(PATIENCE)
    assert session.lengths == [2, 11, 14, 10, 13, 12]


# Threads.


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_a_lone_batch_wakes_no_other_thread(opened: Opened, cores: int) -> None:
    session = FakeSession()
    queue = opened(session, cores)
    before = threading.enumerate()
    for _ in range(3):
        queue.wait(whole(queue, [5]))
    assert session.threads == [threading.current_thread()] * 3
    assert threading.enumerate() == before
    assert session.alone == [True] * 3


def test_fewer_batches_than_cores_run_alone_one_after_the_other(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session, 4)
    queue.wait(whole(queue, [5, 6, 7]))
    assert session.threads == [threading.current_thread()] * 3
    assert session.alone == [True] * 3
    assert session.lengths == [7, 6, 5]


def test_a_thread_that_waits_takes_a_core(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 2)
    waiting(queue, whole(queue, [5, 6, 7]))
    session.wait_for(2)
    assert session.alone == [False, False]
    names = sorted(thread.name.startswith("bertonnx") for thread in session.threads)
    assert names == [False, True]
    session.let()


def test_the_last_batch_of_a_chunk_that_the_cores_share_does_not_run_alone(opened: Opened) -> None:
    """It would open the session for all cores, which a large job does not need."""
    session = FakeSession()
    queue = opened(session, 2)
    chunk = add(queue, chunk_of(), [32, 32])
    until(lambda: chunk.left == 0 and not queue.counters().running)
    add(queue, chunk, [5])
    queue.end(chunk)
    queue.wait(chunk)
    assert session.lengths == [32, 32, 5]
    assert not any(session.alone)


def test_batches_beside_another_do_not_run_alone(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 3)
    waiting(queue, whole(queue, [5]))
    session.wait_for(1)
    waiting(queue, whole(queue, [6]))
    session.wait_for(2)
    assert session.alone == [True, False]
    session.let()


def test_after_callers_came_beside_each_other_batches_have_a_core_each_for_a_while(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 3)
    first = waiting(queue, whole(queue, [5]))
    session.wait_for(1)
    second = waiting(queue, whole(queue, [6]))
    session.wait_for(2)
    session.let()
    for result in (first, second):
        result.result(PATIENCE)
    for _ in range(4):  # the two count, too
        queue.wait(whole(queue, [7]))
    assert session.alone == [True, False, False, False, True, True]


def test_a_caller_is_not_beside_itself(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 3)
    caller = Caller(Kept())
    first = waiting(queue, whole(queue, [5], caller=caller))
    session.wait_for(1)
    queue.cancel(whole(queue, [6], caller=caller))  # or another thread might take what follows
    session.let()
    first.result(PATIENCE)
    queue.wait(whole(queue, [7]))
    assert session.alone == [True, True]


def test_who_has_its_result_leaves_its_core_to_those_who_wait(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    first, second = (waiting(queue, whole(queue, [length])) for length in (5, 6))
    session.let(1)
    first.result(PATIENCE)
    session.wait_for(2)
    assert not second.done()
    session.let(1)
    second.result(PATIENCE)


def test_batches_that_are_fewer_than_the_cores_run_before_the_next_chunk(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session, 3)
    chunk = whole(queue, [5, 6])
    queue.run_alone(chunk)
    assert session.alone == [True, True]
    assert session.threads == [threading.current_thread()] * 2
    assert chunk.settled


def test_batches_that_are_not_fewer_are_left_to_others(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session, 3)
    queue.run_alone(whole(queue, [5, 6, 7]))
    session.wait_for(3)
    assert not any(session.alone)
    session.let(3)
    until(lambda: not queue.counters().running)
    beside = waiting(queue, whole(queue, [8]))
    queue.run_alone(whole(queue, [9]))  # not alone: the core beside it is another thread's
    session.let()
    beside.result(PATIENCE)
    until(lambda: len(session.batches) == 5)
    assert session.threads[-1] is not threading.current_thread()


def test_what_is_started_runs_in_another_thread(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session, 4)
    done = threading.Event()
    whole(queue, [5, 6], done=lambda _: done.set())
    queue.start()
    assert done.wait(PATIENCE)
    assert session.alone == [True, True]
    assert threading.current_thread() not in session.threads


# Failures.


def test_the_rows_of_others_do_not_fail_with_a_bad_one(opened: Opened) -> None:
    session = refuses(InferenceError)
    queue = opened(session)
    good, bad = add(queue, chunk_of(), [5, 5]), add(queue, chunk_of(), [5], token=BAD)
    for chunk in (good, bad):
        queue.end(chunk)
    for chunk in (good, bad):
        queue.wait(chunk)
    assert kept(good) == [[5], [5]]
    (error,) = kept(bad)
    assert isinstance(error, RowError)
    assert str(error) == "the model failed on this text: bad token"
    assert session.sizes == [3, 1, 1, 1]


def test_memory_that_runs_out_for_one_is_halved_for_all(opened: Opened) -> None:
    session = refuses(OutOfMemoryError)
    queue = opened(session, 2)
    good, bad = add(queue, chunk_of(), [5, 5, 5]), add(queue, chunk_of(), [5], token=BAD)
    for chunk in (good, bad):
        queue.end(chunk)
    for chunk in (good, bad):
        queue.wait(chunk)
    assert kept(good) == [[5]] * 3
    (error,) = kept(bad)
    assert isinstance(error, RowError)
    assert "not memory enough for this text alone (5 tokens)" in str(error)
    # Once more as it was, with nothing beside it; then halves.
    assert session.sizes == [4, 4, 2, 2, 1, 1]
    assert queue.notes == ("memory ran out on cpu, so batches now run one at a time, of at most 5 tokens",)
    queue.wait(whole(queue, [2, 2, 2]))
    assert session.sizes[6:] == [2, 1]


def test_after_memory_ran_out_batches_run_one_at_a_time(opened: Opened) -> None:
    session = HeldSession()
    hold = session.hook
    refused = threading.Event()

    def tight(feeds: Any) -> None:
        hold(feeds)
        if feeds["input_ids"].shape[1] == 7 and not refused.is_set():
            refused.set()
            raise OutOfMemoryError("no")

    session.hook = tight
    queue = opened(session, 2)
    chunk = whole(queue, [5, 6, 7, 8])
    result = waiting(queue, chunk)
    session.wait_for(2)
    assert session.lengths == [8, 7] or session.lengths == [7, 8]
    session.let(2)
    assert refused.wait(PATIENCE)
    for batches in (3, 4, 5):
        session.wait_for(batches)
        assert queue.counters().running == 1
        session.let(1)
    result.result(PATIENCE)
    assert sorted(session.lengths[2:]) == [5, 6, 7]


def test_a_fault_of_one_decoder_is_its_callers_alone(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session)
    good, broken = add(queue, chunk_of(), [5]), add(queue, chunk_of(decoder=Broken()), [5, 5])
    for chunk in (good, broken):
        queue.end(chunk)
        queue.wait(chunk)
    assert session.sizes == [3]
    assert kept(good) == [[5]]
    assert list(good.items()) == []
    with pytest.raises(TypeError, match="a bug"):
        list(broken.items())


def test_a_fault_of_the_session_ends_the_chunk_that_it_comes_with(opened: Opened) -> None:
    session = refuses(TypeError)
    queue = opened(session)
    good, bad = add(queue, chunk_of(), [5, 5]), add(queue, chunk_of(), [5, 6, 7], token=BAD)
    for chunk in (good, bad):
        queue.end(chunk)
    for chunk in (good, bad):
        queue.wait(chunk)
    assert kept(good) == [[5], [5]]
    assert list(good.items()) == []
    with pytest.raises(TypeError, match="bad"):
        list(bad.items())
    assert 6 not in session.lengths or 5 not in session.lengths[-1:]
    assert queue.counters().waiting == 0  # what is left of it is dropped


@pytest.mark.parametrize("cores", [1, 2])
def test_an_interrupt_leaves_the_batch_of_another_caller_to_others(opened: Opened, cores: int) -> None:
    """Two callers share a batch, and who runs it is interrupted."""
    interrupts = iter([True])

    def interrupt(_: Any) -> None:
        if next(interrupts, False):
            raise KeyboardInterrupt

    session = FakeSession(interrupt)
    queue = opened(session, cores)
    other = whole(queue, [5])
    mine = whole(queue, [5])
    with pytest.raises(KeyboardInterrupt):
        queue.wait(mine)
    queue.drop([mine])
    queue.wait(other)
    assert kept(other) == [[5]]
    assert kept(mine) == [[5]] or kept(mine) == [None]
    counters = queue.counters()
    assert (counters.running, counters.waiting) == (0, 0)


# Dropping, cancelling, closing.


def test_what_is_dropped_leaves_the_batches_of_others(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session)
    dropped, left = whole(queue, [5, 5, 6]), whole(queue, [5])
    gathering = add(queue, chunk_of(), [7, 7])
    assert queue.counters().waiting == 6
    queue.drop([dropped, gathering])
    assert queue.counters().waiting == 1
    queue.wait(left)
    queue.wait(whole(queue, [7]))
    assert session.sizes == [1, 1]
    assert session.lengths == [5, 7]


def test_dropping_waits_for_what_runs(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    chunk = whole(queue, [5, 6])
    queue.start()
    session.wait_for(1)
    dropping = in_thread(lambda: queue.drop([chunk]))
    until(lambda: bool(chunk.sleepers))
    assert not dropping.done()
    assert queue.counters().waiting == 0
    session.let()
    dropping.result(PATIENCE)
    assert queue.counters().running == 0
    assert session.lengths == [6]


@pytest.mark.parametrize("stage", ["waits", "runs", "is done"])
def test_cancelling_waits_for_nothing_and_nobody_is_told(opened: Opened, stage: str) -> None:
    session, told = HeldSession(), list[Chunk]()
    queue = opened(session)
    first = whole(queue, [3], done=told.append)
    chunk = first if stage == "runs" else whole(queue, [5], done=told.append)
    queue.start()
    session.wait_for(1)
    if stage == "is done":
        session.let()
        until(lambda: len(told) == 2)
    result = waiting(queue, chunk) if stage != "is done" else None
    queue.cancel(chunk)
    if result is None:
        assert list(chunk.items()) == []
        return
    result.result(PATIENCE)
    with pytest.raises(CancelledError):
        list(chunk.items())
    session.let()
    until(lambda: not queue.counters().running)
    assert session.lengths == [3]
    assert told == ([] if stage == "runs" else [first])


def test_a_chunk_may_be_dropped_in_the_thread_that_runs_it(opened: Opened) -> None:
    """The garbage collector may close a caller's generator anywhere."""
    session = FakeSession()
    queue = opened(session)
    collected = whole(queue, [5])
    session.hook = lambda _: queue.drop([collected])
    other = whole(queue, [5])
    queue.wait(other)
    assert kept(other) == [[5]]


def test_a_chunk_may_be_dropped_in_the_middle_of_anything(opened: Opened) -> None:
    """The garbage collector may close a caller's generator even while the queue changes."""
    session = FakeSession()
    queue = opened(session)
    collected = add(queue, chunk_of(), [5, 6])

    class Collecting(tuple[str, ...]):
        __slots__ = ()

        def __hash__(self) -> int:
            waited = queue.counters().waiting
            queue.drop([collected])
            assert queue.counters().waiting == waited, "the queue changed while it was being changed"
            return super().__hash__()

    other = whole(queue, [5], decoder=Kept(Collecting(("sums",))))
    assert not collected.open
    queue.wait(other)
    assert session.sizes == [1]
    assert kept(other) == [[5]]
    queue.wait(whole(queue, [6]))
    assert session.sizes == [1, 1]
    assert queue.counters().waiting == 0


def test_who_waits_when_the_queue_is_closed_gets_an_error(opened: Opened) -> None:
    session, told = HeldSession(), list[Chunk]()
    queue = opened(session)
    runs, waits, half = whole(queue, [5]), whole(queue, [6]), whole(queue, [5, 7])
    gathers = add(queue, chunk_of(), [8])
    submitted = whole(queue, [9], done=told.append)
    results = [waiting(queue, chunk) for chunk in (runs, waits, half)]
    session.wait_for(1)
    closing = in_thread(queue.close)
    for result in results[1:]:
        result.result(PATIENCE)
    until(lambda: bool(told))
    assert told == [submitted]
    for chunk in (waits, half, submitted):
        with pytest.raises(BertonnxError, match=r"closed; open it again with bertonnx\.load\(\)"):
            list(chunk.items())
    with pytest.raises(BertonnxError, match="closed"):
        queue.add(gathers, [], more=True)
    with pytest.raises(BertonnxError, match="closed"):
        queue.end(gathers)
    session.let()
    results[0].result(PATIENCE)
    assert kept(runs) == [[5]]  # what had started is finished
    closing.result(PATIENCE)
    assert session.lengths == [5]


@pytest.mark.parametrize("error", [InferenceError("no"), OutOfMemoryError("no")])
def test_what_fails_once_the_queue_is_closed_is_not_tried_again(opened: Opened, error: Exception) -> None:
    session = HeldSession()
    hold = session.hook

    def fail(feeds: Any) -> None:
        hold(feeds)
        raise error

    session.hook = fail
    queue = opened(session)
    chunk = whole(queue, [5, 5])
    result = waiting(queue, chunk)
    session.wait_for(1)
    queue.close()
    session.let()
    result.result(PATIENCE)
    with pytest.raises(BertonnxError, match="closed"):
        list(chunk.items())


def test_closing_waits_for_the_pools_threads(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    before = set(threading.enumerate())
    whole(queue, [5])
    queue.start()
    session.wait_for(1)
    closing = in_thread(queue.close)
    until(lambda: queue.closed)
    assert not closing.done()
    session.let()
    closing.result(PATIENCE)
    assert not {
        thread for thread in set(threading.enumerate()) - before if thread.name.startswith("bertonnx")
    }


# Telling.


def test_somebody_is_told_once_of_each_chunk(opened: Opened) -> None:
    told, all_of_them = list[Chunk](), threading.Semaphore(0)

    def tell(chunk: Chunk) -> None:
        assert chunk.settled
        told.append(chunk)
        all_of_them.release()

    queue = opened(FakeSession(), 2)
    chunks = [whole(queue, lengths, done=tell) for lengths in ([5, 6, 7], [5], [])]
    assert told == [chunks[2]]  # there was nothing to compute
    queue.start()
    for _ in chunks:
        assert all_of_them.acquire(timeout=PATIENCE)
    assert sorted(map(id, told)) == sorted(map(id, chunks))


def test_what_fails_when_somebody_is_told_hurts_nobody(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", said.append)

    def fail(_: Chunk) -> None:
        raise ValueError("the loop is closed")

    queue = opened(FakeSession())
    other = threading.Event()
    whole(queue, [5], done=fail)
    whole(queue, [5], done=lambda _: other.set())
    queue.start()
    assert other.wait(PATIENCE)
    assert [str(arguments.exc_value) for arguments in said] == ["the loop is closed"]


@pytest.mark.parametrize("cores", [1, 2])
def test_who_is_told_may_submit_more_and_close_the_queue(opened: Opened, cores: int) -> None:
    session = FakeSession()
    queue, ended = opened(session, cores), threading.Event()

    def close(_: Chunk) -> None:
        queue.close()
        ended.set()

    def again(_: Chunk) -> None:
        whole(queue, [6], done=close)
        queue.start()

    whole(queue, [5], done=again)
    queue.start()
    assert ended.wait(PATIENCE)
    assert session.lengths == [5, 6]


def test_counters_say_what_waits_runs_and_ran(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    chunk = whole(queue, [5, 5, 6])
    assert (queue.counters().waiting, queue.counters().running) == (3, 0)
    result = waiting(queue, chunk)
    session.wait_for(1)
    assert (queue.counters().waiting, queue.counters().running) == (1, 1)
    session.let()
    result.result(PATIENCE)
    counters = queue.counters()
    assert (counters.waiting, counters.running) == (0, 0)
    assert (counters.batches, counters.pieces, counters.tokens) == (2, 3, 16)


def test_items_come_in_the_order_of_the_rows() -> None:
    chunk = chunk_of()
    pieces = [piece_of(3), piece_of(4), piece_of(5)]
    refused = RowError("runtime", "no")
    chunk.encoded = [
        Encoded(Row("a"), (pieces[0], pieces[1]), truncated=True),
        refused,
        Encoded(Row("b"), (pieces[2],)),
        Encoded(Row("c"), (pieces[2],)),
    ]
    failed = RowError("runtime", "failed")
    chunk.slots = [Slot(pieces[0], chunk, value) for value in (1, 2, 3, failed)]
    assert list(chunk.items()) == [
        {"kept": [1, 2], "truncated": True},
        refused,
        {"kept": [3]},
        failed,
    ]
