"""What a caller of the engine gets, with a session that is not ONNX Runtime's."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bertonnx.errors import BertonnxError, InferenceError, OutOfMemoryError, RowError
from bertonnx.runtime.engine import repeats
from bertonnx.runtime.engine.batches import Batch, Chunk, Slot
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.rows import Encoded, Outputs, Piece, Row
from bertonnx.runtime.session.session import Feeds
from bertonnx.runtime.tokenization import TextTokenizer
from tests.runtime.engine.fakes import (
    CARD,
    PATIENCE,
    FakeSession,
    HeldSession,
    Sums,
    batching,
    engine_with,
    in_thread,
    rows_of,
    some_texts,
    text_of,
    until,
)
from tests.tokenizers_zoo import wordpiece


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 500])
def test_every_row_comes_out_once_in_order(count: int, threads: int) -> None:
    texts = some_texts(count)
    engine = engine_with(FakeSession(), threads=threads)
    assert text_of(list(engine.map(rows_of(texts), Sums()))) == texts
    engine.close()


@pytest.mark.parametrize("way", ["map", "submit"])
def test_what_is_done_goes_at_once_and_waits_for_no_garbage_collector(way: str) -> None:
    """The collector comes the more rarely the more there is in memory: a long job would grow."""
    engine = engine_with(FakeSession(), threads=2)
    rows = rows_of(some_texts(300) * 2)
    gc.collect()
    others = set(map(id, gc.get_objects()))
    gc.disable()
    try:
        if way == "map":
            assert len(list(engine.map(rows, Sums()))) == len(rows)
        else:
            done = threading.Event()
            chunk = engine.submit(rows, Sums(), lambda _: done.set())
            assert done.wait(PATIENCE)
            assert len(list(chunk.items())) == len(rows)
            del chunk
        engine.close()  # a thread may still have its last batch
        held = [one for one in gc.get_objects() if type(one) in (Batch, Chunk, Slot)]
    finally:
        gc.enable()
    assert [type(one).__name__ for one in held if id(one) not in others] == []


def test_order_is_kept_where_batches_finish_in_another() -> None:
    """The first batch ends when another one does, which begins after it."""
    order, other = iter(range(1000)), threading.Event()

    def second_first(_: Feeds) -> None:
        if next(order) == 0:
            assert other.wait(PATIENCE)
        else:
            other.set()

    engine = engine_with(FakeSession(second_first))
    texts = some_texts(300)
    assert text_of(list(engine.map(rows_of(texts), Sums()))) == texts
    engine.close()


def test_batches_are_of_exactly_equal_length_and_never_padded() -> None:
    session = FakeSession()
    engine = engine_with(session)
    texts = some_texts(400)
    list(engine.map(rows_of(texts), Sums()))
    engine.close()
    assert sum(len(batch["input_ids"]) for batch in session.batches) == len(texts)
    assert any(len(batch["input_ids"]) > 1 for batch in session.batches)
    for batch in session.batches:
        assert batch["input_ids"].dtype == np.int64
        assert (batch["attention_mask"] == 1).all()
        assert (batch["input_ids"] != 0).all()  # [PAD]
        assert {array.shape for array in batch.values()} == {batch["input_ids"].shape}
        assert batch["input_ids"].size <= 512 or len(batch["input_ids"]) == 1


def test_only_the_inputs_that_the_graph_has_are_fed() -> None:
    session = FakeSession(inputs=("input_ids",))
    engine = engine_with(session)
    list(engine.map(rows_of(["one", "two"]), Sums()))
    engine.close()
    assert all(set(batch) == {"input_ids"} for batch in session.batches)


def test_reading_ahead_is_bounded() -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for i in range(20_000):
            read += 1
            yield Row(f"{i}")

    engine = engine_with(FakeSession())
    results = engine.map(rows(), Sums())
    assert read == 0
    next(results)
    assert read <= 3 * 64  # the first chunks are small, so that results come soon
    worst = 0
    for done, _ in enumerate(results, start=2):
        worst = max(worst, read - done)
    engine.close()
    assert read == 20_000
    assert 0 < worst <= 2 * 2048 + 2048


def test_long_texts_close_a_chunk_early() -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield Row("x" * 600)

    with batching("few characters", chunk_characters=1000):
        engine = engine_with(FakeSession(provider="few characters"))
        results = engine.map(rows(), Sums())
        for done in range(1, 40):
            next(results)
            assert read - done <= 6
        results.close()
        engine.close()


def test_closing_the_generator_drops_what_waits_and_waits_for_what_runs() -> None:
    session = HeldSession()
    engine = engine_with(session, threads=1)
    session.let(20)
    results = engine.map(rows_of(some_texts(3000)), Sums())
    next(results)
    session.wait_for(21)  # one that is held, of a later chunk, runs in another thread
    ran = len(session.batches)
    closing = in_thread(results.close)
    until(lambda: engine.counters.waiting == 0)  # the other thread has begun to close
    assert not closing.done()
    session.let()
    closing.result(PATIENCE)
    assert engine.counters.running == engine.counters.waiting == 0
    assert len(session.batches) == ran  # nothing goes on behind the user's back
    engine.close()
    assert len(session.batches) == ran


def test_the_engine_works_on_after_a_closed_generator() -> None:
    engine = engine_with(FakeSession())
    results = engine.map(rows_of(some_texts(500)), Sums())
    next(results)
    results.close()
    assert text_of(list(engine.map(rows_of(["again"]), Sums()))) == ["again"]
    engine.close()


def test_one_failing_text_leaves_its_neighbours_alone() -> None:
    tokenizer = wordpiece()
    bad = tokenizer.token_to_id("[MASK]")

    def fail(feeds: Feeds) -> None:
        if (feeds["input_ids"] == bad).any():
            raise InferenceError("bad\n  token")

    session = FakeSession(fail)
    engine = engine_with(session)
    texts = ["a", "[MASK]", "b", "c"]
    results = list(engine.map(rows_of(texts), Sums()))
    engine.close()
    assert text_of(results) == ["a", "runtime", "b", "c"]
    assert isinstance(results[1], RowError)
    assert str(results[1]) == "the model failed on this text: bad token"
    assert any(len(batch["input_ids"]) == 4 for batch in session.batches)  # they were one batch at first


@pytest.mark.parametrize("raises", [True, False])
def test_a_text_of_no_token_says_so_where_the_model_needs_one(*, raises: bool) -> None:
    """Where it needs none, as a sum over tokens, its answer counts; what is no number is no answer."""

    def fail(feeds: Feeds) -> None:
        if raises and not feeds["input_ids"].size:
            raise InferenceError("[ONNXRuntimeError] : 2 : idx=0 must be within the inclusive range [0,-1]")

    class Means(Sums):
        fetch = ("sums",) if raises else ("means",)

        def keep(self, piece: Piece, outputs: Outputs) -> float:  # noqa: ARG002
            return float(outputs[self.fetch[0]])

    bare = wordpiece()
    bare.post_processor = None
    session = FakeSession(fail)
    engine = Engine(session, TextTokenizer(bare.to_str(), CARD), threads=2)
    results = list(engine.map(rows_of(["", "the", " "]), Means()))
    sums = list(engine.map(rows_of([""]), Sums()))
    engine.close()
    assert text_of(results) == ["no-tokens", "the", "no-tokens"]
    assert "the tokenizer makes no token of this text" in str(results[0])
    assert "ONNXRuntime" not in str(results[0])
    assert text_of(sums) == (["no-tokens"] if raises else [""])


def test_a_text_fails_when_one_of_its_windows_does() -> None:
    bad = wordpiece().token_to_id("[MASK]")

    def fail(feeds: Feeds) -> None:
        if (feeds["input_ids"] == bad).any():
            raise InferenceError("bad")

    engine = engine_with(FakeSession(fail), long_text="stride")
    long = "the film " * 60
    results = list(engine.map(rows_of([long, long + "[MASK]", "short"]), Sums()))
    engine.close()
    assert isinstance(results[0], dict)
    assert results[0]["pieces"] > 1
    assert text_of(results)[1:] == ["runtime", "short"]


def test_errors_among_the_rows_stay_in_their_place() -> None:
    rows: list[Row | RowError] = [
        *rows_of(["a", "b"]),
        RowError("invalid-json", "no"),
        *rows_of(["undecodable", "c"]),
    ]
    rows = [RowError("missing-text", "none"), *rows]
    engine = engine_with(FakeSession())
    assert text_of(list(engine.map(rows, Sums()))) == [
        "missing-text",
        "a",
        "b",
        "invalid-json",
        "no-mask",
        "c",
    ]
    assert text_of(list(engine.map([RowError("runtime", "x")] * 40, Sums()))) == ["runtime"] * 40
    engine.close()


def test_a_cut_text_says_so() -> None:
    engine = engine_with(FakeSession())
    cut, whole = engine.map(rows_of(["the film " * 60, "short"]), Sums())
    engine.close()
    assert isinstance(cut, dict)
    assert isinstance(whole, dict)
    assert cut["truncated"] is True
    assert "truncated" not in whole


def test_several_threads_use_one_engine() -> None:
    engine = engine_with(FakeSession())
    inputs = [some_texts(150, seed) for seed in range(8)]

    def work(texts: list[str]) -> list[Any]:
        return text_of(list(engine.map(rows_of(texts), Sums())))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, inputs)) == inputs
    engine.close()


@pytest.mark.parametrize(("provider", "threads", "runs"), [("cpu", 3, 3), ("cuda", 7, 2)])
def test_as_many_batches_run_at_the_same_time_as_there_are_cores(
    provider: str, threads: int, runs: int
) -> None:
    session = HeldSession(provider=provider)
    engine = engine_with(session, threads=threads)
    texts = some_texts(100)
    results = in_thread(lambda: list(engine.map(rows_of(texts), Sums())))
    session.wait_for(runs)
    assert engine.counters.running == runs
    for more in range(1, 5):
        session.let(1)
        session.wait_for(runs + more)
        assert len(session.batches) == runs + more  # one for each that ended
    session.let()
    assert text_of(results.result(PATIENCE)) == texts
    engine.close()


def test_an_interrupt_in_the_input_reaches_the_caller_and_stops_the_work() -> None:
    def rows() -> Iterator[Row]:
        yield from rows_of(some_texts(200))
        raise KeyboardInterrupt

    session = FakeSession()
    engine = engine_with(session, threads=1)
    with pytest.raises(KeyboardInterrupt):
        list(engine.map(rows(), Sums()))
    assert engine.counters.running == engine.counters.waiting == 0
    engine.close()


def test_an_interrupt_in_a_batch_is_not_an_error_of_a_row() -> None:
    def interrupt(_: Feeds) -> None:
        raise KeyboardInterrupt

    engine = engine_with(FakeSession(interrupt))
    with pytest.raises(KeyboardInterrupt):
        list(engine.map(rows_of(["a", "b"]), Sums()))
    engine.close()


def test_closing_lets_the_threads_go_and_can_be_repeated() -> None:
    before = set(threading.enumerate())
    engine = engine_with(FakeSession())
    list(engine.map(rows_of(some_texts(40)), Sums()))
    assert set(threading.enumerate()) - before
    engine.close()
    engine.close()
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_equal_texts_of_a_job_are_computed_once(provider: str) -> None:
    session = FakeSession(provider=provider)
    texts = ["the film", "a film", "the film"] * 1500
    results = list(engine_with(session).map((Row(text) for text in texts), Sums()))
    assert [result["text"] for result in results if isinstance(result, dict)] == texts
    assert sum(len(batch["input_ids"]) for batch in session.batches) == 2


def test_a_text_that_comes_again_after_too_many_others_is_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repeats.Repeats.__init__, "__defaults__", (40_000,))
    session = FakeSession()
    texts = [*some_texts(600), *some_texts(600)]
    results = list(engine_with(session).map(rows_of(texts), Sums()))
    assert text_of(results) == texts
    assert 600 < sum(len(batch["input_ids"]) for batch in session.batches) <= 1200


def test_a_job_knows_nothing_of_another() -> None:
    session = FakeSession()
    engine = engine_with(session)
    for _ in range(2):
        list(engine.map(rows_of(["the film"]), Sums()))
    engine.close()
    assert len(session.batches) == 2


def test_a_text_that_failed_is_tried_again() -> None:
    failures = iter([True, False])

    def fail_once(_: Feeds) -> None:
        if next(failures, False):
            raise InferenceError("for now")

    engine = engine_with(FakeSession(fail_once), threads=1)
    texts = ["the film", *some_texts(200), "the film"]
    results = text_of(list(engine.map(rows_of(texts), Sums())))
    engine.close()
    assert results == texts


def test_memory_that_runs_out_halves_the_batches_and_is_said_once() -> None:
    def tight(feeds: Feeds) -> None:
        if feeds["input_ids"].size > 100:
            raise OutOfMemoryError("BFCArena: Failed to allocate memory")

    session = FakeSession(tight)
    engine = engine_with(session)
    assert not engine.notes
    texts = [f"{i:04} the film" for i in range(1000)]
    assert text_of(list(engine.map(rows_of(texts), Sums()))) == texts
    (note,) = engine.notes
    assert note.startswith("memory ran out on cpu, so batches now run one at a time, of at most ")
    before = len(session.batches)
    assert text_of(list(engine.map(rows_of(texts), Sums()))) == texts
    engine.close()
    # Later batches are small from the start.
    assert all(batch["input_ids"].size <= 100 for batch in session.batches[before:])
    assert engine.notes == (note,)


def test_what_only_fails_beside_another_batch_is_not_lost() -> None:
    """Texts for which there is memory one after the other, and not at the same time."""
    lock, both = threading.Lock(), threading.Barrier(2, timeout=PATIENCE)
    calls = running = worst = 0

    def tight(_: Feeds) -> None:
        nonlocal calls, running, worst
        with lock:
            calls += 1
            first, running = calls <= 2, running + 1
            if not first:
                worst = max(worst, running)
        if first:
            both.wait()
        with lock:
            running -= 1
        if first:
            raise OutOfMemoryError("CUDA failure 2: out of memory")

    engine = engine_with(FakeSession(tight, provider="cuda"))
    texts = ["short", "a text that is longer", "and one that is longer than that"]
    assert text_of(list(engine.map(rows_of(texts), Sums()))) == texts
    assert worst == 1
    assert engine.notes == ("memory ran out on cuda, so batches now run one at a time",)
    engine.close()


def test_a_text_that_alone_is_too_much_is_a_row_with_an_error() -> None:
    def tight(feeds: Feeds) -> None:
        if feeds["input_ids"].shape[1] > 40:
            raise OutOfMemoryError("CUDA failure 2: out of memory")

    engine = engine_with(FakeSession(tight))
    results = list(engine.map(rows_of(["short", "the film " * 30, "short too"]), Sums()))
    engine.close()
    assert text_of(results) == ["short", "runtime", "short too"]
    assert "not memory enough for this text alone (64 tokens)" in str(results[1])


def test_a_fault_of_bertonnx_is_not_an_error_of_a_row() -> None:
    def broken(_: Feeds) -> None:
        raise TypeError("a bug")

    engine = engine_with(FakeSession(broken))
    with pytest.raises(TypeError, match="a bug"):
        list(engine.map(rows_of(some_texts(100)), Sums()))
    engine.close()


def test_batches_of_a_gpu_are_larger() -> None:
    session = FakeSession(provider="cuda")
    engine = engine_with(session)
    texts = some_texts(5000)
    assert text_of(list(engine.map(rows_of(texts), Sums()))) == texts
    engine.close()
    sizes = [batch["input_ids"].size for batch in session.batches]
    assert 512 < max(sizes) <= 16_384
    assert all((batch["attention_mask"] == 1).all() for batch in session.batches)


def test_a_closed_generator_stops_what_is_tokenized_ahead() -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for text in some_texts(100_000):
            read += 1
            yield Row(text)

    engine = engine_with(FakeSession(provider="cuda"))
    results = engine.map(rows(), Sums())
    next(results)
    results.close()
    engine.close()
    assert read <= 256 + 1024 + 4096 + 16_384


def test_fewer_batches_than_threads_get_all_cores() -> None:
    session = FakeSession()
    list(engine_with(session, threads=2).map([Row("one text")], Sums()))
    list(engine_with(session, threads=1).map([Row("one text")], Sums()))
    list(engine_with(session, threads=2).map(map(Row, some_texts(40)), Sums()))
    assert session.alone[:2] == [True, True]
    assert not any(session.alone[2:])


def test_a_batch_that_runs_alone_does_so_in_the_thread_that_asks_for_its_result() -> None:
    threads = []
    engine = engine_with(FakeSession(lambda _: threads.append(threading.current_thread())))
    results = engine.map([Row("one text")], Sums())
    assert threads == []
    next(results)
    assert threads == [threading.current_thread()]
    engine.close()


def test_an_engine_that_is_closed_while_rows_are_read_says_so() -> None:
    session = FakeSession()
    engine = engine_with(session)

    def rows() -> Iterator[Row]:
        yield Row("one text")
        engine.close()
        yield Row("another")

    with pytest.raises(BertonnxError, match=r"closed; open it again with bertonnx\.load\(\)"):
        list(engine.map(rows(), Sums()))
    assert not session.batches


def test_a_batch_that_runs_alone_does_not_wait_for_the_chunk_after_it() -> None:
    session = FakeSession()
    engine = engine_with(session)
    same = [Row("one text")] * 32  # the first chunk, computed once
    assert len(list(engine.map([*same, *rows_of(some_texts(128))], Sums()))) == 160
    engine.close()
    assert session.alone[0]
    assert session.sizes[0] == 1
    assert not any(session.alone[1:])


def test_batches_run_while_the_rest_of_their_chunk_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, begun = TextTokenizer.encode, threading.Event()
    calls, waited = 0, []

    def slow(self: TextTokenizer, rows: Sequence[Row]) -> list[Encoded | RowError]:
        nonlocal calls
        calls += 1
        if calls == 6:  # half of the chunk is tokenized, and must not wait for the other half
            waited.append(begun.wait(PATIENCE))
        return encode(self, rows)

    monkeypatch.setattr(TextTokenizer, "encode", slow)
    with batching("small parts", part_characters=2000):
        engine = engine_with(FakeSession(lambda _: begun.set(), provider="small parts"))
        texts = some_texts(400)
        assert text_of(list(engine.map(rows_of(texts), Sums(), soon=False))) == texts
        engine.close()
    assert waited == [True]
    assert calls > 8


def test_a_part_that_fails_drops_what_runs_already(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = TextTokenizer.encode, 0
    session = HeldSession(provider="small parts")

    def failing(self: TextTokenizer, rows: Sequence[Row]) -> list[Encoded | RowError]:
        nonlocal calls
        calls += 1
        if calls == 4:
            session.wait_for(2)
            session.let(2)
            raise KeyboardInterrupt
        return encode(self, rows)

    monkeypatch.setattr(TextTokenizer, "encode", failing)
    with batching("small parts", part_characters=2000):
        engine = engine_with(session)
        with pytest.raises(KeyboardInterrupt):
            list(engine.map(rows_of(some_texts(400)), Sums(), soon=False))
        assert engine.counters.running == engine.counters.waiting == 0
        engine.close()
