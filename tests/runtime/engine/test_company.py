"""Small batches run together where the session takes several lengths at once, and only then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bertonnx.errors import InferenceError, OutOfMemoryError, RowError
from bertonnx.runtime.engine.batches import Caller, Slot
from bertonnx.runtime.engine.queue import Queue
from bertonnx.runtime.engine.running import Runner
from bertonnx.runtime.session.session import Feeds
from tests.runtime.engine.fakes import FakeSession, HeldSession, piece_of
from tests.runtime.engine.test_queue import BAD, Kept, add, chunk_of, kept, waiting, whole

OUTPUTS = {"sums": ("batch",), "counts": ("batch",)}

Opened = Callable[..., Queue]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Return what opens a queue for a session that takes several lengths at once."""
    queues = []

    def open_queue(session: FakeSession, cores: int = 1, tokens: int = 512, outputs: Any = OUTPUTS) -> Queue:
        session.ragged = True
        queues.append(Queue(Runner(session, outputs), cores, lambda _: tokens))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.close()


def test_all_that_is_due_runs_as_one_batch(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session)
    chunk = whole(queue, [5, 3, 5, 8])
    queue.wait(chunk)
    assert session.together == [[3, 5, 5, 8]]
    assert [batch["input_ids"].shape for batch in session.batches] == [(1, 21)]
    assert session.batches[0].keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert kept(chunk) == [[5.0], [3.0], [5.0], [8.0]]
    counters = queue.counters()
    assert (counters.waiting, counters.batches, counters.pieces) == (0, 1, 4)
    assert counters.tokens == 21


@pytest.mark.parametrize(
    ("lengths", "tokens", "runs"),
    [
        ([200, 5, 3], 512, [[], [3, 5]]),  # one that is large enough runs by itself
        ([50, 40, 30, 20], 100, [[50, 40], [30, 20]]),  # up to a full batch
        ([5, 5], 512, [[]]),  # of one length, it is a batch as any other
        ([0, 4, 3], 512, [[3, 4], []]),  # a text without tokens has no numbers of its own
    ],
)
def test_what_runs_together(opened: Opened, lengths: list[int], tokens: int, runs: list[list[int]]) -> None:
    session = FakeSession()
    queue = opened(session, tokens=tokens)
    chunk = add(queue, chunk_of(decoder=Kept(("counts",))), lengths)
    queue.end(chunk)
    queue.wait(chunk)
    assert sorted(map(sorted, session.together)) == sorted(map(sorted, runs))
    assert kept(chunk) == [[float(length)] for length in lengths]


def test_what_has_other_outputs_or_is_masked_stays_apart(opened: Opened) -> None:
    session = HeldSession()
    queue = opened(session)
    first = whole(queue, [9])
    held = waiting(queue, first)
    session.wait_for(1)
    others = [
        whole(queue, [3]),
        whole(queue, [4], decoder=Kept(("counts",))),
        whole(queue, [5]),
    ]
    masked = chunk_of()
    masked.slots.append(Slot(replace(piece_of(6), unseen=2), masked))
    queue.add(masked, masked.slots, more=False)
    queue.end(masked)
    others.append(masked)
    session.let()
    for chunk in others:
        queue.wait(chunk)
    held.result()
    assert sorted(map(sorted, session.together)) == [[], [], [], [3, 5]]
    assert [kept(chunk) for chunk in others] == [[[3.0]], [[4.0]], [[5.0]], [[6.0]]]


def test_an_output_of_unknown_dimensions_is_of_one_length(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session, outputs={})
    queue.wait(whole(queue, [5, 3]))
    assert session.together == [[], []]


def test_cores_share_what_is_left(opened: Opened) -> None:
    session = FakeSession()
    queue = opened(session, 2)
    chunk = whole(queue, range(1, 21))
    queue.wait(chunk)
    assert kept(chunk) == [[float(length)] for length in range(1, 21)]
    sizes = [batch["input_ids"].size for batch in session.batches]
    assert sum(sizes) == 210
    # No core takes more than its half of what is left.
    assert max(sizes) <= 105
    assert len(sizes) < 20


def test_one_that_fails_is_tried_by_itself(opened: Opened) -> None:
    def refuse(feeds: Feeds) -> None:
        if BAD in feeds["input_ids"]:
            raise InferenceError("no such token")

    session = FakeSession(refuse)
    queue = opened(session)
    caller = Caller(Kept())
    chunk = chunk_of(caller)
    add(queue, chunk, [5, 3])
    add(queue, chunk, [4], token=BAD)
    queue.end(chunk)
    queue.wait(chunk)
    good, other, bad = (slot.kept for slot in chunk.slots)
    assert (good, other) == ([5.0], [3.0])
    assert isinstance(bad, RowError)
    assert session.together == [[3, 4, 5], [], [], []]


def test_where_memory_runs_out_each_length_runs_by_itself(opened: Opened) -> None:
    def short_of(feeds: Feeds) -> None:
        if feeds["input_ids"].size > 9:
            raise OutOfMemoryError("no memory")

    session = FakeSession(short_of)
    queue = opened(session)
    chunk = whole(queue, [5, 3, 5, 8])
    queue.wait(chunk)
    assert kept(chunk) == [[5.0], [3.0], [5.0], [8.0]]
    assert session.together[0] == [3, 5, 5, 8]
    assert not any(session.together[1:])


def test_callers_get_their_own(opened: Opened) -> None:
    """Texts of many lengths from many threads at once, whoever's batch they run in."""
    session = FakeSession()
    queue = opened(session, 3)
    wrong = []

    def ask(seed: int) -> None:
        dice = np.random.default_rng(seed)
        for _ in range(30):
            lengths = dice.integers(1, 60, dice.integers(1, 9)).tolist()
            token = int(dice.integers(1, 50))
            chunk = whole(queue, lengths, token=token)
            queue.wait(chunk)
            if kept(chunk) != [[float(length * token)] for length in lengths]:
                wrong.append((lengths, kept(chunk)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert any(session.together)
    assert queue.counters().waiting == queue.counters().running == 0
