"""Cores that several queues share: never more batches than cores, a turn for each, none lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bertonnx.runtime.engine.batches import Caller, Chunk, Slot
from bertonnx.runtime.engine.cores import Cores
from bertonnx.runtime.engine.queue import Queue
from bertonnx.runtime.engine.running import Runner
from tests.runtime.engine.fakes import FakeSession, HeldSession, Sums, in_thread, piece_of, until

TOKENS = 8


class Sides:
    """Queues side by side, over shared cores."""

    def __init__(self, cores: int) -> None:
        self.cores = Cores(cores)
        self.queues: list[Queue] = []

    def queue(self, session: FakeSession) -> Queue:
        self.queues.append(Queue(Runner(session), self.cores.number, lambda _: TOKENS, self.cores))
        return self.queues[-1]


@pytest.fixture
def two() -> Iterator[Sides]:
    sides = Sides(2)
    yield sides
    for queue in sides.queues:
        queue.close()


def put(queue: Queue, lengths: list[int]) -> Chunk:
    """Put a chunk into a queue whose threads run it; each piece is a batch, if lengths differ."""
    chunk = Chunk(Caller(Sums()), lambda _: None)
    slots = [Slot(piece_of(length, 1), chunk) for length in lengths]
    chunk.slots.extend(slots)
    queue.add(chunk, slots, more=False)
    queue.end(chunk)
    queue.start()
    return chunk


def done(*chunks: Chunk) -> None:
    until(lambda: all(chunk.settled for chunk in chunks))


def test_all_queues_together_run_no_more_batches_than_there_are_cores(two: Sides) -> None:
    running, most, lock = [0], [0], threading.Lock()
    started = threading.Event()

    def hook(_: object) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        started.wait(0.002)
        with lock:
            running[0] -= 1

    queues = [two.queue(FakeSession(hook)) for _ in range(3)]
    done(*(put(queue, [2, 3, 4, 5, 6, 7]) for queue in queues for _ in range(5)))
    until(lambda: two.cores.taken == 0)
    assert most[0] == 2


def test_a_busy_model_leaves_turns_to_another(two: Sides) -> None:
    busy, other = HeldSession(), HeldSession()
    first = put(two.queue(busy), [2, 3, 4, 5, 6, 7, 8])
    busy.wait_for(2)
    second = put(two.queue(other), [2])
    until(lambda: two.cores.waiting == 1)  # a thread of the other has asked, in vain
    assert other.sizes == []
    busy.let(1)
    other.wait_for(1)  # the first core that is free is the other model's, though the busy one has more
    assert len(busy.sizes) == 2
    other.let()
    busy.let()
    done(first, second)


def test_a_core_is_not_lost_where_nothing_is_left_to_run(two: Sides) -> None:
    held, other = HeldSession(), HeldSession()
    first = put(two.queue(held), [2, 3])
    held.wait_for(2)
    queue = two.queue(other)
    second = put(queue, [2])
    queue.cancel(second)
    held.let()
    done(first)
    until(lambda: two.cores.taken == 0)
    third = put(queue, [3])
    other.let()
    done(third)
    assert other.lengths == [3]


def test_a_closed_queue_leaves_its_cores_to_the_others(two: Sides) -> None:
    held, other = HeldSession(), FakeSession()
    closing = two.queue(held)
    first = put(closing, [2, 3, 4])
    held.wait_for(2)
    second = put(two.queue(other), [2])
    closed = in_thread(closing.close)
    held.let()
    closed.result()
    done(first, second)
    assert other.lengths == [2]
    until(lambda: two.cores.taken == 0)


def test_who_is_closed_while_it_waits_gets_no_core(two: Sides) -> None:
    held, other = HeldSession(), FakeSession()
    first = put(two.queue(held), [2, 3])
    held.wait_for(2)
    closing = two.queue(other)
    put(closing, [2])
    closing.close()
    held.let()
    done(first)
    until(lambda: two.cores.taken == 0)
    assert not other.sizes


def test_a_thread_that_waits_for_its_rows_takes_a_shared_core(two: Sides) -> None:
    session = FakeSession()
    queue = two.queue(session)
    chunk = Chunk(Caller(Sums()))
    slot = Slot(piece_of(3, 1), chunk)
    chunk.slots.append(slot)
    queue.add(chunk, [slot], more=False)
    queue.end(chunk)
    queue.wait(chunk)
    assert (slot.kept, session.threads) == (3, [threading.current_thread()])
    assert (session.alone, two.cores.taken) == ([True], 0)


def test_a_batch_beside_another_models_is_not_alone(two: Sides) -> None:
    held, other = HeldSession(), FakeSession()
    first = put(two.queue(held), [2])
    held.wait_for(1)
    done(put(two.queue(other), [2]))
    assert (held.alone, other.alone) == ([True], [False])
    held.let()
    done(first)


def test_batches_are_counted_by_their_sizes(two: Sides) -> None:
    queue = two.queue(FakeSession())
    for lengths in ([2], [2, 2, 2], [2, 2, 2, 2]):
        done(put(queue, lengths))
    assert queue.counters().sizes[:4] == (1, 0, 2, 0)
