"""Many callers of one engine, in threads of their own or without any: what each gets, and when."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import BertonnxError, InferenceError, RowError
from bertonnx.models.tasks import TASKS
from bertonnx.runtime.engine.batches import Chunk
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.rows import Encoded, Item, Outputs, Piece, Row
from bertonnx.runtime.session.session import Feeds
from bertonnx.runtime.tokenization import TextTokenizer
from tests.runtime.engine.fakes import (
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
    texts_of,
    until,
)
from tests.tokenizers_zoo import wordpiece

MASK = wordpiece().token_to_id("[MASK]")


class Times:
    """Decodes to what it fetches, times a number."""

    def __init__(self, times: int = 1, fetch: str = "sums") -> None:
        self.times = times
        self.fetch = (fetch,)

    def keep(self, piece: Piece, outputs: Outputs) -> float:  # noqa: ARG002
        return self.times * float(outputs[self.fetch[0]])

    def decode(self, encoded: Encoded, kept: Sequence[Any]) -> Item:
        return {"text": encoded.row.text, "value": sum(kept)}


def ask(engine: Engine, texts: Sequence[str], decoder: Any = None) -> Future[Any]:
    """Call the engine in a thread of its own."""
    return in_thread(lambda: list(engine.map(rows_of(texts), decoder or Sums(), soon=False)))


def wanted(text: str) -> int:
    return int(sum(wordpiece().encode(text).ids))


@pytest.fixture
def busy() -> Iterator[tuple[HeldSession, Engine]]:
    """Return an engine of one core that a caller has taken, whose text has 3 tokens."""
    session = HeldSession()
    engine = engine_with(session, threads=1)
    first = ask(engine, texts_of(3))
    session.wait_for(1)
    yield session, engine
    session.let()
    assert text_of(first.result(PATIENCE)) == texts_of(3)
    engine.close()


Busy = tuple[HeldSession, Engine]


# In threads of their own.


def test_many_threads_get_the_bits_that_one_gets_alone(exported: dict[str, Path]) -> None:
    texts = [f"{text} film" for text in some_texts(120)]
    with bertonnx.load(exported["feature-extraction"], "cpu", threads=2) as model:
        alone = [model.embed([text])[0] for text in texts]
        together = model.embed(texts)

        def work(number: int) -> list[Any]:
            mine = texts[number:] + texts[:number]
            found = [model.embed([text])[0] for text in mine] if number % 3 else list(model.embed(mine))
            return found[len(texts) - number :] + found[: len(texts) - number]

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(work, range(12)))
        assert model._engine.counters.pieces > model._engine.counters.batches
    for answer in (together, *answers):
        assert np.array(answer).tobytes() == np.array(alone).tobytes()


def test_texts_of_many_callers_run_in_one_batch(busy: Busy) -> None:
    session, engine = busy
    texts = texts_of(6, 20)
    answers = [ask(engine, [text]) for text in texts]
    until(lambda: engine.counters.waiting == 20)
    session.let()
    assert [text_of(answer.result(PATIENCE)) for answer in answers] == [[text] for text in texts]
    assert session.sizes == [1, 20]


def test_no_batch_is_larger_than_the_budget_whoever_fills_it(busy: Busy) -> None:
    session, engine = busy
    texts = texts_of(6, 90)
    answers = [ask(engine, texts[start : start + 9]) for start in range(0, 90, 9)]
    until(lambda: engine.counters.waiting == 90)
    session.let()
    for start, answer in enumerate(answers):
        assert text_of(answer.result(PATIENCE)) == texts[9 * start : 9 * start + 9]
    assert sorted(session.sizes) == [1, 5, 85]  # 85 x 6 tokens are 510 of 512


def test_callers_have_their_own_decoders_in_one_batch(busy: Busy) -> None:
    session, engine = busy
    same, other = texts_of(6, 2)
    answers = [ask(engine, [same, other], Times(times)) for times in (1, 2, 3)]
    until(lambda: engine.counters.waiting == 6)
    session.let()
    for times, answer in enumerate(answers, start=1):
        values = [item["value"] for item in answer.result(PATIENCE)]
        assert values == [times * wanted(same), times * wanted(other)]
    assert session.sizes == [1, 6]  # equal texts are computed once for each job, not for all


def test_other_outputs_are_another_batch(busy: Busy) -> None:
    session, engine = busy
    (text,) = texts_of(6)
    sums, counts = ask(engine, [text], Times()), ask(engine, [text], Times(fetch="counts"))
    until(lambda: engine.counters.waiting == 2)
    session.let()
    assert [answer.result(PATIENCE)[0]["value"] for answer in (sums, counts)] == [wanted(text), 6]
    assert session.sizes == [1, 1, 1]


def test_a_single_text_does_not_wait_for_a_large_job() -> None:
    session = HeldSession()
    engine = engine_with(session, threads=1)
    texts = texts_of(6, 850)  # ten full batches
    large = ask(engine, texts)
    session.wait_for(1)
    single = ask(engine, texts_of(4))
    until(lambda: engine.counters.waiting == 850 - 85 + 1)
    session.let(3)
    assert text_of(single.result(PATIENCE)) == texts_of(4)
    assert session.lengths[:3].count(4) == 1
    assert not large.done()
    session.let()
    assert text_of(large.result(PATIENCE)) == texts
    engine.close()


def test_a_single_text_goes_with_the_batch_of_a_large_job(busy: Busy) -> None:
    session, engine = busy
    texts = texts_of(6, 50)
    large = ask(engine, texts[1:])
    until(lambda: engine.counters.waiting == 49)
    single = ask(engine, texts[:1])
    until(lambda: engine.counters.waiting == 50)
    session.let()
    assert text_of(single.result(PATIENCE)) == texts[:1]
    assert text_of(large.result(PATIENCE)) == texts[1:]
    assert session.sizes == [1, 50]


def test_the_error_of_one_caller_is_not_anothers(busy: Busy) -> None:
    session, engine = busy
    hold = session.hook

    def fail(feeds: Feeds) -> None:
        hold(feeds)
        if (feeds["input_ids"] == MASK).any():
            raise InferenceError("bad")

    session.hook = fail
    good = ask(engine, texts_of(3, 3))
    bad = ask(engine, ["[MASK]"])
    until(lambda: engine.counters.waiting == 4)
    session.let()
    assert text_of(good.result(PATIENCE)) == texts_of(3, 3)
    assert text_of(bad.result(PATIENCE)) == ["runtime"]
    assert session.sizes == [1, 4, 1, 1, 1, 1]


def test_callers_that_wait_when_the_engine_is_closed_get_an_error(busy: Busy) -> None:
    _, engine = busy
    answers = [ask(engine, texts) for texts in (texts_of(6), texts_of(7, 2), [])]
    until(lambda: engine.counters.waiting == 3)
    closing = in_thread(engine.close)
    for answer in answers[:2]:
        with pytest.raises(BertonnxError, match="closed"):
            answer.result(PATIENCE)
    assert answers[2].result(PATIENCE) == []
    closing.result(PATIENCE)  # the batch that runs is in a caller's own thread
    with pytest.raises(BertonnxError, match="closed"):
        list(engine.map(rows_of(["late"]), Sums()))


def test_a_caller_that_closes_its_generator_leaves_others_their_batch(busy: Busy) -> None:
    session, engine = busy
    texts = texts_of(6, 40)
    # Its second chunk waits, with the text of another caller, when it stops.
    leaving = engine.map([*rows_of(["the"] * 32), *rows_of(texts[:8])], Sums())
    first = in_thread(lambda: next(leaving))
    until(lambda: engine.counters.waiting == 9)
    staying = ask(engine, texts[8:9])
    until(lambda: engine.counters.waiting == 10)
    session.let(2)
    assert text_of([first.result(PATIENCE)]) == ["the"]
    session.wait_for(3)  # the texts that both have
    session.let(1)
    leaving.close()
    assert text_of(staying.result(PATIENCE)) == texts[8:9]
    assert session.sizes == [1, 1, 9]


def test_an_engine_that_nobody_has_is_collected_with_its_threads() -> None:
    session = FakeSession()
    engine = engine_with(session)
    before = set(threading.enumerate())
    list(engine.map(rows_of(some_texts(200)), Sums()))
    threads = {thread for thread in threading.enumerate() if thread.name.startswith("bertonnx")} - before
    assert threads
    gone = weakref.ref(session)
    del engine, session
    until = time.monotonic() + PATIENCE
    while gone() is not None and time.monotonic() < until:  # a thread lets go of its last batch a bit later
        gc.collect()
        time.sleep(0.01)
    assert gone() is None
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# Without a thread that waits.


def submitted(engine: Engine, rows: Sequence[Row | RowError], decoder: Any = None) -> Future[Chunk]:
    """Submit rows, and return what has the chunk once its results are there."""
    done: Future[Chunk] = Future()
    engine.submit(rows, decoder or Sums(), done.set_result)
    return done


def test_what_is_submitted_comes_back_in_order() -> None:
    session = FakeSession()
    engine = engine_with(session)
    texts = ["the film", *some_texts(300), "the film"]
    rows: list[Row | RowError] = [RowError("missing-text", "none"), *rows_of(texts), Row("undecodable")]
    chunk = submitted(engine, rows).result(PATIENCE)
    assert text_of(list(chunk.items())) == ["missing-text", *texts, "no-mask"]
    assert threading.current_thread() not in session.threads
    assert sum(session.sizes) == len(texts)  # equal texts once
    assert not any(session.alone)
    engine.close()


def test_a_text_that_is_submitted_alone_gets_all_cores() -> None:
    session = FakeSession()
    engine = engine_with(session, threads=4)
    submitted(engine, rows_of(["the film"])).result(PATIENCE)
    assert session.alone == [True]
    engine.close()


@pytest.mark.parametrize("rows", [[], [RowError("missing-text", "none")]])
def test_what_needs_no_model_is_done_at_once(rows: list[Row | RowError]) -> None:
    engine = engine_with(FakeSession())
    told: list[Chunk] = []
    chunk = engine.submit(rows, Sums(), told.append)
    assert told == [chunk]
    assert list(chunk.items()) == rows
    engine.close()


def test_what_is_submitted_shares_batches_with_callers_that_wait(busy: Busy) -> None:
    session, engine = busy
    texts = texts_of(6, 6)
    done = [submitted(engine, rows_of(texts[start : start + 2])) for start in (0, 2)]
    waits = ask(engine, texts[4:])
    until(lambda: engine.counters.waiting == 6)
    session.let()
    for start, future in zip((0, 2), done, strict=True):
        assert text_of(list(future.result(PATIENCE).items())) == texts[start : start + 2]
    assert text_of(waits.result(PATIENCE)) == texts[4:]
    assert session.sizes == [1, 6]


def test_what_is_cancelled_is_not_computed(busy: Busy) -> None:
    session, engine = busy
    told: list[Chunk] = []
    gone = engine.submit(rows_of(texts_of(6, 3)), Sums(), told.append)
    stays = submitted(engine, rows_of(texts_of(6, 1, start=1)))
    assert engine.counters.waiting == 4
    engine.cancel(gone)
    assert engine.counters.waiting == 1
    session.let()
    stays.result(PATIENCE)
    assert session.sizes == [1, 1]
    assert told == []


def test_what_is_submitted_is_told_when_the_engine_is_closed(busy: Busy) -> None:
    _, engine = busy
    done = submitted(engine, rows_of(texts_of(6)))
    in_thread(engine.close)
    with pytest.raises(BertonnxError, match="closed"):
        list(done.result(PATIENCE).items())
    with pytest.raises(BertonnxError, match="closed"):
        engine.submit(rows_of(["late"]), Sums(), lambda _: None)


def test_rows_that_cannot_be_tokenized_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, busy: Busy
) -> None:
    _, engine = busy

    def fail(_: TextTokenizer, rows: Sequence[Row]) -> list[Encoded | RowError]:
        raise ValueError(f"{len(rows)} rows")

    monkeypatch.setattr(TextTokenizer, "encode", fail)
    with pytest.raises(ValueError, match="2 rows"):
        engine.submit(rows_of(texts_of(6, 2)), Sums(), lambda _: None)
    assert engine.counters.waiting == 0


def test_an_event_loop_serves_many_requests() -> None:
    """As a server would: no thread a request, and requests that are given up are dropped."""
    session = HeldSession()
    engine = engine_with(session, threads=1)
    texts = texts_of(6, 30)

    async def answer(text: str) -> list[Item | RowError]:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        chunk = engine.submit([Row(text)], Sums(), lambda _: loop.call_soon_threadsafe(ready.set))
        try:
            await ready.wait()
        except asyncio.CancelledError:
            engine.cancel(chunk)
            raise
        return list(chunk.items())

    async def serve() -> list[Any]:
        requests = [asyncio.create_task(answer(text)) for text in [*texts_of(3), *texts]]
        await asyncio.to_thread(session.wait_for, 1)
        for request in requests[-10:]:
            request.cancel()
        await asyncio.sleep(0)
        await asyncio.to_thread(until, lambda: engine.counters.waiting == 20)
        session.let()
        return await asyncio.gather(*requests, return_exceptions=True)

    results = asyncio.run(asyncio.wait_for(serve(), PATIENCE))
    assert [text_of(result) for result in results[:-10]] == [[text] for text in [*texts_of(3), *texts[:20]]]
    assert all(isinstance(result, asyncio.CancelledError) for result in results[-10:])
    assert session.sizes == [1, 20]
    engine.close()


# What a provider and a task say.


def test_outputs_with_a_vocabulary_make_smaller_batches() -> None:
    for name, outputs, most in (
        ("sums", TASKS["fill-mask"].outputs, 85),
        ("sums", {"sums": ("vocabulary",), "counts": ("batch",)}, 21),
        ("counts", {"sums": ("vocabulary",), "counts": ("batch",)}, 85),
    ):
        session = FakeSession()
        engine = engine_with(session, threads=1, outputs=outputs)
        list(engine.map(rows_of(texts_of(6, 100)), Times(fetch=name), soon=False))
        engine.close()
        assert max(session.sizes) == most  # 6 tokens each, of 512 or 128


def test_the_budget_of_a_tasks_outputs_reaches_the_engine(exported: dict[str, Path]) -> None:
    for task, tokens in (("fill-mask", 128), ("text-classification", 512)):
        with bertonnx.load(exported[task], "cpu") as model:
            fetch = tuple(TASKS[task].outputs)
            assert model._engine._tokens(fetch) == tokens


def test_chunks_are_tokenized_so_far_ahead_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is tokenized while one runs and one waits for it; the first of all in the caller's own thread."""
    session, threads = HeldSession(provider="ahead"), list[str]()
    read, encode = 0, TextTokenizer.encode

    def rows() -> Iterator[Row]:
        nonlocal read
        for text in texts_of(6, 100):
            read += 1
            yield Row(text)

    def noted(self: TextTokenizer, rows: Sequence[Row]) -> list[Encoded | RowError]:
        threads.append(threading.current_thread().name)
        return encode(self, rows)

    monkeypatch.setattr(TextTokenizer, "encode", noted)
    chunks = {"first_chunk": 4, "last_chunk": 16, "part_characters": 0, "tokens": 12, "runs": 2}
    for ahead, expected in ((1, 4 + 16 + 16), (2, 4 + 16 + 16 + 16)):
        read = 0
        with batching("ahead", ahead=ahead, **chunks):
            session = HeldSession(provider="ahead")
            engine = engine_with(session)
            results = engine.map(rows(), Sums())
            first = in_thread(lambda results=results: next(results))  # type: ignore[misc]
            session.wait_for(2)
            until(lambda engine=engine: engine.counters.waiting == 4 + 16 - 2 * 2)  # type: ignore[misc]
            assert read == expected
            assert not first.done()
            session.let()
            assert text_of([first.result(PATIENCE), *results]) == texts_of(6, 100)
            engine.close()
    assert not threads[0].startswith("bertonnx")
    assert threads[1].startswith("bertonnx-tokenize")


def test_a_text_does_not_wait_for_the_chunk_that_another_caller_has_tokenized_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode, ahead, go_on = TextTokenizer.encode, threading.Event(), threading.Event()

    def held(self: TextTokenizer, rows: Sequence[Row]) -> list[Encoded | RowError]:
        if threading.current_thread().name.startswith("bertonnx-tokenize"):
            ahead.set()
            assert go_on.wait(PATIENCE)
        return encode(self, rows)

    monkeypatch.setattr(TextTokenizer, "encode", held)
    engine = engine_with(FakeSession(provider="cuda"))
    texts = some_texts(600)
    large = in_thread(lambda: list(engine.map(rows_of(texts), Sums())))
    assert ahead.wait(PATIENCE)
    assert text_of(list(engine.map(rows_of(["one text"]), Sums()))) == ["one text"]
    go_on.set()
    assert text_of(large.result(PATIENCE)) == texts
    engine.close()
