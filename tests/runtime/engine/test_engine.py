"""Batches, with a session that is not ONNX Runtime's."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.errors import BertonnxError, InferenceError, OutOfMemoryError, RowError
from bertonnx.models.card import Card
from bertonnx.runtime.engine import batches, repeats
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.options import LongText
from bertonnx.runtime.rows import Encoded, Item, Outputs, Piece, Row
from bertonnx.runtime.session.session import Feeds
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import wordpiece

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CARD = Card(task="feature-extraction", family="bert", max_length=64, inputs=INPUTS, outputs=("sums",))


class FakeSession:
    """Answers the sum of the ids; notes every batch; does `hook` before each."""

    def __init__(
        self,
        hook: Callable[[Feeds], None] = lambda _: None,
        *,
        inputs: tuple[str, ...] = INPUTS,
        provider: str = "cpu",
    ) -> None:
        self.provider = provider
        self.inputs = inputs
        self.outputs: tuple[str, ...] = ("sums",)
        self.hook = hook
        self.batches: list[dict[str, npt.NDArray[np.int64]]] = []
        self.alone: list[bool] = []

    def run(
        self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        self.alone.append(alone)
        assert tuple(outputs) == ("sums",)
        self.batches.append(dict(feeds))
        self.hook(feeds)
        return [feeds["input_ids"].sum(axis=1).astype(np.float32)]


class Sums:
    """Decodes to the sum over all pieces and the number of pieces."""

    fetch = ("sums",)

    def keep(self, piece: Piece, outputs: Outputs) -> float:
        assert int(outputs["sums"]) == int(piece.ids.sum())
        return float(outputs["sums"])

    def decode(self, encoded: Encoded, kept: Sequence[Any]) -> Item:
        if "undecodable" in encoded.row.text:
            raise RowError("no-mask", "cannot be decoded")
        return {"text": encoded.row.text, "sum": sum(kept), "pieces": len(kept)}


def _engine(session: FakeSession, *, threads: int = 2, long_text: LongText = "truncate") -> Engine:
    return Engine(session, TextTokenizer(wordpiece().to_str(), CARD, long_text=long_text), threads=threads)


def _texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [f"{i} " + "the film " * chance.randrange(12) for i in range(count)]


def _rows(texts: Sequence[str]) -> list[Row]:
    return [Row(text) for text in texts]


def _text_of(results: Sequence[Item | RowError]) -> list[Any]:
    return [item.kind if isinstance(item, RowError) else item["text"] for item in results]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 500])
def test_every_row_comes_out_once_in_order(count: int, threads: int) -> None:
    texts = _texts(count)
    engine = _engine(FakeSession(), threads=threads)
    assert _text_of(list(engine.map(_rows(texts), Sums()))) == texts
    engine.close()


def test_order_is_kept_where_batches_finish_in_another() -> None:
    chance = random.Random(3)
    engine = _engine(FakeSession(lambda _: time.sleep(chance.random() / 200)), threads=4)
    texts = _texts(300)
    assert _text_of(list(engine.map(_rows(texts), Sums()))) == texts
    engine.close()


def test_batches_are_of_exactly_equal_length_and_never_padded() -> None:
    session = FakeSession()
    engine = _engine(session)
    texts = _texts(400)
    list(engine.map(_rows(texts), Sums()))
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
    engine = _engine(session)
    list(engine.map(_rows(["one", "two"]), Sums()))
    engine.close()
    assert all(set(batch) == {"input_ids"} for batch in session.batches)


def test_reading_ahead_is_bounded() -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for i in range(20_000):
            read += 1
            yield Row(f"{i}")

    engine = _engine(FakeSession())
    results = engine.map(rows(), Sums())
    assert read == 0
    next(results)
    assert read <= 3 * 64  # the first windows are small, so that results come soon
    worst = 0
    for done, _ in enumerate(results, start=2):
        worst = max(worst, read - done)
    engine.close()
    assert read == 20_000
    assert 0 < worst <= 2 * 2048 + 2048


def test_long_texts_close_a_window_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CPU", replace(batches.CPU, window_characters=1000))
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield Row("x" * 600)

    engine = _engine(FakeSession())
    results = engine.map(rows(), Sums())
    for done in range(1, 40):
        next(results)
        assert read - done <= 6
    results.close()
    engine.close()


def test_closing_the_generator_cancels_what_waits() -> None:
    started = threading.Event()

    def slow(_: Feeds) -> None:
        started.set()
        time.sleep(0.02)

    session = FakeSession(slow)
    engine = _engine(session, threads=1)
    results = engine.map(_rows(_texts(3000)), Sums())
    next(results)
    assert started.is_set()
    begin = time.monotonic()
    results.close()
    ran = len(session.batches)
    time.sleep(0.1)
    assert len(session.batches) == ran  # nothing goes on behind the user's back
    assert time.monotonic() - begin < 2
    engine.close()


def test_the_engine_works_on_after_a_closed_generator() -> None:
    engine = _engine(FakeSession())
    results = engine.map(_rows(_texts(500)), Sums())
    next(results)
    results.close()
    assert _text_of(list(engine.map(_rows(["again"]), Sums()))) == ["again"]
    engine.close()


def test_one_failing_text_leaves_its_neighbours_alone() -> None:
    tokenizer = wordpiece()
    bad = tokenizer.token_to_id("[MASK]")

    def fail(feeds: Feeds) -> None:
        if (feeds["input_ids"] == bad).any():
            raise InferenceError("bad\n  token")

    session = FakeSession(fail)
    engine = _engine(session)
    texts = ["a", "[MASK]", "b", "c"]
    results = list(engine.map(_rows(texts), Sums()))
    engine.close()
    assert _text_of(results) == ["a", "runtime", "b", "c"]
    assert isinstance(results[1], RowError)
    assert str(results[1]) == "the model failed on this text: bad token"
    assert any(len(batch["input_ids"]) == 4 for batch in session.batches)  # they were one batch at first


def test_a_text_fails_when_one_of_its_windows_does() -> None:
    bad = wordpiece().token_to_id("[MASK]")

    def fail(feeds: Feeds) -> None:
        if (feeds["input_ids"] == bad).any():
            raise InferenceError("bad")

    engine = _engine(FakeSession(fail), long_text="stride")
    long = "the film " * 60
    results = list(engine.map(_rows([long, long + "[MASK]", "short"]), Sums()))
    engine.close()
    assert isinstance(results[0], dict)
    assert results[0]["pieces"] > 1
    assert _text_of(results)[1:] == ["runtime", "short"]


def test_errors_among_the_rows_stay_in_their_place() -> None:
    rows: list[Row | RowError] = [
        *_rows(["a", "b"]),
        RowError("invalid-json", "no"),
        *_rows(["undecodable", "c"]),
    ]
    rows = [RowError("missing-text", "none"), *rows]
    engine = _engine(FakeSession())
    assert _text_of(list(engine.map(rows, Sums()))) == [
        "missing-text",
        "a",
        "b",
        "invalid-json",
        "no-mask",
        "c",
    ]
    assert _text_of(list(engine.map([RowError("runtime", "x")] * 40, Sums()))) == ["runtime"] * 40
    engine.close()


def test_a_cut_text_says_so() -> None:
    engine = _engine(FakeSession())
    cut, whole = engine.map(_rows(["the film " * 60, "short"]), Sums())
    engine.close()
    assert isinstance(cut, dict)
    assert isinstance(whole, dict)
    assert cut["truncated"] is True
    assert "truncated" not in whole


def test_several_threads_use_one_engine() -> None:
    engine = _engine(FakeSession(lambda _: time.sleep(0.0005)))
    inputs = [_texts(150, seed) for seed in range(8)]

    def work(texts: list[str]) -> list[Any]:
        return _text_of(list(engine.map(_rows(texts), Sums())))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, inputs)) == inputs
    engine.close()


def test_batches_run_at_the_same_time_but_no_more_than_threads() -> None:
    running = worst = 0
    lock = threading.Lock()

    def hook(_: Feeds) -> None:
        nonlocal running, worst
        with lock:
            running += 1
            worst = max(worst, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    engine = _engine(FakeSession(hook), threads=3)
    list(engine.map(_rows(_texts(100)), Sums()))
    engine.close()
    assert worst == 3


def test_an_interrupt_in_the_input_reaches_the_caller_and_stops_the_work() -> None:
    def rows() -> Iterator[Row]:
        yield from _rows(_texts(200))
        raise KeyboardInterrupt

    session = FakeSession(lambda _: time.sleep(0.005))
    engine = _engine(session, threads=1)
    with pytest.raises(KeyboardInterrupt):
        list(engine.map(rows(), Sums()))
    ran = len(session.batches)
    time.sleep(0.05)
    assert len(session.batches) == ran
    engine.close()


def test_an_interrupt_in_a_batch_is_not_an_error_of_a_row() -> None:
    def interrupt(_: Feeds) -> None:
        raise KeyboardInterrupt

    engine = _engine(FakeSession(interrupt))
    with pytest.raises(KeyboardInterrupt):
        list(engine.map(_rows(["a", "b"]), Sums()))
    engine.close()


def test_closing_lets_the_threads_go_and_can_be_repeated() -> None:
    before = set(threading.enumerate())
    engine = _engine(FakeSession())
    list(engine.map(_rows(_texts(40)), Sums()))
    assert set(threading.enumerate()) - before
    engine.close()
    engine.close()
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_equal_texts_of_a_job_are_computed_once(provider: str) -> None:
    session = FakeSession(provider=provider)
    texts = ["the film", "a film", "the film"] * 1500
    results = list(_engine(session).map((Row(text) for text in texts), Sums()))
    assert [result["text"] for result in results if isinstance(result, dict)] == texts
    assert sum(len(batch["input_ids"]) for batch in session.batches) == 2


def test_a_text_that_comes_again_after_too_many_others_is_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repeats.Repeats.__init__, "__defaults__", (40_000,))
    session = FakeSession()
    texts = [*_texts(600), *_texts(600)]
    results = list(_engine(session).map(_rows(texts), Sums()))
    assert _text_of(results) == texts
    assert 600 < sum(len(batch["input_ids"]) for batch in session.batches) <= 1200


def test_a_job_knows_nothing_of_another() -> None:
    session = FakeSession()
    engine = _engine(session)
    for _ in range(2):
        list(engine.map(_rows(["the film"]), Sums()))
    engine.close()
    assert len(session.batches) == 2


def test_a_text_that_failed_is_tried_again() -> None:
    failures = iter([True, False])

    def fail_once(_: Feeds) -> None:
        if next(failures, False):
            raise InferenceError("for now")

    engine = _engine(FakeSession(fail_once), threads=1)
    texts = ["the film", *_texts(200), "the film"]
    results = _text_of(list(engine.map(_rows(texts), Sums())))
    engine.close()
    assert results == texts


def test_memory_that_runs_out_halves_the_batches_and_is_said_once() -> None:
    def tight(feeds: Feeds) -> None:
        if feeds["input_ids"].size > 100:
            raise OutOfMemoryError("BFCArena: Failed to allocate memory")

    session = FakeSession(tight)
    engine = _engine(session)
    assert not engine.notes
    texts = [f"{i:04} the film" for i in range(1000)]
    assert _text_of(list(engine.map(_rows(texts), Sums()))) == texts
    (note,) = engine.notes
    assert note.startswith("memory ran out on cpu, so batches now run one at a time, of at most ")
    before = len(session.batches)
    assert _text_of(list(engine.map(_rows(texts), Sums()))) == texts
    engine.close()
    # Later batches are small from the start.
    assert all(batch["input_ids"].size <= 100 for batch in session.batches[before:])
    assert engine.notes == (note,)


def test_what_only_fails_beside_another_batch_is_not_lost() -> None:
    """Two texts for which there is memory one after the other, and not at the same time."""
    lock, both = threading.Lock(), threading.Barrier(2, timeout=10)
    calls = running = 0

    def tight(_: Feeds) -> None:
        nonlocal calls, running
        with lock:
            calls += 1
            first, running = calls <= 2, running + 1
        if first:
            both.wait()
        time.sleep(0.01)
        with lock:
            beside, running = running > 1, running - 1
        if first or beside:
            raise OutOfMemoryError("CUDA failure 2: out of memory")

    engine = _engine(FakeSession(tight, provider="cuda"))
    texts = ["short", "a text that is longer", "and one that is longer than that"]
    assert _text_of(list(engine.map(_rows(texts), Sums()))) == texts
    assert engine.notes == ("memory ran out on cuda, so batches now run one at a time",)
    engine.close()


def test_a_text_that_alone_is_too_much_is_a_row_with_an_error() -> None:
    def tight(feeds: Feeds) -> None:
        if feeds["input_ids"].shape[1] > 40:
            raise OutOfMemoryError("CUDA failure 2: out of memory")

    engine = _engine(FakeSession(tight))
    results = list(engine.map(_rows(["short", "the film " * 30, "short too"]), Sums()))
    engine.close()
    assert _text_of(results) == ["short", "runtime", "short too"]
    assert "not memory enough for this text alone (64 tokens)" in str(results[1])


def test_a_fault_of_bertonnx_is_not_an_error_of_a_row() -> None:
    def broken(_: Feeds) -> None:
        raise TypeError("a bug")

    engine = _engine(FakeSession(broken))
    with pytest.raises(TypeError, match="a bug"):
        list(engine.map(_rows(_texts(100)), Sums()))
    engine.close()


def test_batches_of_a_gpu_are_larger_and_two_at_a_time() -> None:
    running = worst = 0
    lock = threading.Lock()

    def hook(_: Feeds) -> None:
        nonlocal running, worst
        with lock:
            running += 1
            worst = max(worst, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    session = FakeSession(hook, provider="cuda")
    engine = _engine(session, threads=7)
    texts = _texts(5000)
    assert _text_of(list(engine.map(_rows(texts), Sums()))) == texts
    engine.close()
    assert worst == 2
    sizes = [batch["input_ids"].size for batch in session.batches]
    assert 512 < max(sizes) <= 16_384
    assert all((batch["attention_mask"] == 1).all() for batch in session.batches)


def test_a_closed_generator_stops_what_is_tokenized_ahead() -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for text in _texts(100_000):
            read += 1
            yield Row(text)

    engine = _engine(FakeSession(provider="cuda"))
    results = engine.map(rows(), Sums())
    next(results)
    results.close()
    engine.close()
    assert read <= 256 + 1024 + 4096


def test_fewer_batches_than_threads_get_all_cores() -> None:
    session = FakeSession()
    list(_engine(session, threads=2).map([Row("one text")], Sums()))
    list(_engine(session, threads=1).map([Row("one text")], Sums()))
    list(_engine(session, threads=2).map(map(Row, _texts(40)), Sums()))
    assert session.alone[:2] == [True, False]
    assert not any(session.alone[2:])


def test_a_lone_batch_runs_in_the_thread_that_asks_for_its_result() -> None:
    threads = []
    engine = _engine(FakeSession(lambda _: threads.append(threading.current_thread())))
    results = engine.map([Row("one text")], Sums())
    assert threads == []
    next(results)
    assert threads == [threading.current_thread()]
    engine.close()


def test_a_lone_batch_does_not_run_once_the_engine_is_closed() -> None:
    session = FakeSession()
    engine = _engine(session)
    # The first window has many batches, the second one: it waits for its turn when the engine is closed.
    results = engine.map(_rows([*_texts(32), "one text"]), Sums())
    next(results)
    ran = len(session.batches)
    engine.close()
    with pytest.raises(BertonnxError, match="closed"):
        list(results)
    assert len(session.batches) == ran


def test_a_lone_batch_does_not_wait_for_the_window_after_it() -> None:
    session = FakeSession(lambda _: time.sleep(0.002))
    engine = _engine(session)
    same = [Row("one text")] * 32  # the first window, computed once
    assert len(list(engine.map([*same, *_rows(_texts(128))], Sums()))) == 160
    engine.close()
    assert session.alone[0]
    assert not any(session.alone[1:])


def test_batches_run_while_the_rest_of_their_window_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CPU", replace(batches.CPU, part_characters=2000))
    encode, begun = TextTokenizer.encode, threading.Event()
    calls, waited = 0, []

    def slow(self: TextTokenizer, rows: Sequence[Row]) -> list[Encoded | RowError]:
        nonlocal calls
        calls += 1
        if calls == 6:  # half of the window is tokenized, and must not wait for the other half
            waited.append(begun.wait(5))
        return encode(self, rows)

    monkeypatch.setattr(TextTokenizer, "encode", slow)
    engine = _engine(FakeSession(lambda _: begun.set()))
    texts = _texts(400)
    assert _text_of(list(engine.map(_rows(texts), Sums(), soon=False))) == texts
    engine.close()
    assert waited == [True]
    assert calls > 8


def test_a_part_that_fails_drops_what_runs_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CPU", replace(batches.CPU, part_characters=2000))
    encode, calls = TextTokenizer.encode, 0

    def failing(self: TextTokenizer, rows: Sequence[Row]) -> list[Encoded | RowError]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return encode(self, rows)

    monkeypatch.setattr(TextTokenizer, "encode", failing)
    session = FakeSession(lambda _: time.sleep(0.01))
    engine = _engine(session)
    with pytest.raises(KeyboardInterrupt):
        list(engine.map(_rows(_texts(400)), Sums(), soon=False))
    ran = len(session.batches)
    time.sleep(0.05)
    assert len(session.batches) == ran, "batches of a job that has ended still run"
    engine.close()


def _slots(lengths: Sequence[int]) -> list[batches.Slot]:
    encoding = wordpiece().encode("a")
    arrays = (np.zeros(length, dtype=np.int64) for length in lengths)
    return [batches.Slot(Piece(array, array, encoding)) for array in arrays]


def test_groups_give_full_batches_then_large_ones_then_the_rest_by_size() -> None:
    groups = batches.Groups(tokens=32)
    full = [batch for slot in _slots([8, 40, 8, 8, 4, 4, 6, 8, 8, 1]) if (batch := groups.add(slot))]
    assert [[len(slot.piece.ids) for slot in batch] for batch in full] == [[40], [8, 8, 8, 8]]
    # Left are 4 + 4, 8, 6 and 1 tokens; an eighth of 32 is 4.
    assert groups.large(0) == []
    assert [len(batch[0].piece.ids) for batch in groups.large(9)] == [4, 8, 6]
    assert [len(batch[0].piece.ids) for batch in groups.rest()] == [1]
    assert groups.rest() == []


def test_parts_hold_every_row_once_and_about_so_many_characters() -> None:
    window: list[Row | RowError] = [
        Row("x" * 30),
        RowError("input", "broken"),
        Row("y", "z" * 80),
        Row("end"),
    ]
    assert list(batches.in_parts(window, 60)) == [window[:3], window[3:]]
    assert list(batches.in_parts(window, 1)) == [window[:1], window[1:3], window[3:]]
    assert list(batches.in_parts([], 60)) == []
