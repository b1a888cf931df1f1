"""One session of two threads: a thread each for two batches at a time, both for one that is alone."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import InferenceError, OutOfMemoryError
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session.ort_session import OrtSession
from bertonnx.runtime.session.session import open_session
from bertonnx.runtime.session.two_threads import TwoThreads
from tests.fake_cuda import CPU, FakeRuntime, use_runtime
from tests.fake_predictor import card


def opened(path: Path, threads: int) -> OrtSession:
    session = open_session(path, card("text-classification"), LoadOptions(provider="cpu", threads=threads))
    assert isinstance(session, OrtSession)
    return session


def feeds(ids: Any) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}


class Scripted:
    """A session whose own thread answers when it is told to, and that notes how each run came."""

    def __init__(self) -> None:
        self.called: list[Any] = []
        self.handed: list[Callable[..., None]] = []
        self.taken = threading.Semaphore(0)

    def run(self, outputs: list[str], _: Any) -> list[Any]:
        self.called.append(outputs)
        return ["called"]

    def run_async(self, _outputs: list[str], _feeds: Any, done: Callable[..., None], _: None) -> None:
        self.handed.append(done)
        self.taken.release()

    def answer(self, results: list[Any], error: str = "") -> None:
        self.handed.pop()(results, None, error)


def test_the_first_of_two_is_handed_over_and_the_second_called() -> None:
    session = Scripted()
    both = TwoThreads(session)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(both.run, ["scores"], {}, alone=False)
        session.taken.acquire()
        assert both.run(["logits"], {}, alone=False) == ["called"]
        assert not first.done()
        session.answer(["handed over"])
        assert first.result() == ["handed over"]
        # It is free again.
        third = pool.submit(both.run, ["scores"], {}, alone=False)
        session.taken.acquire()
        session.answer(["again"])
        assert third.result() == ["again"]
    assert both.run(["alone"], {}, alone=True) == ["called"]
    assert session.called == [["logits"], ["alone"]]


@pytest.mark.parametrize(
    ("said", "kind"), [("a node failed", InferenceError), ("Failed to allocate memory", OutOfMemoryError)]
)
def test_an_error_of_the_other_thread_is_the_callers(said: str, kind: type[Exception]) -> None:
    session = SimpleNamespace(
        get_inputs=list, get_outputs=list, run_async=lambda _, __, done, ___: done([], None, said)
    )
    ours = OrtSession(session, "cpu", together=TwoThreads(session).run)
    with pytest.raises(kind, match=said):
        ours.run(["scores"], {})


def test_an_interrupt_waits_for_the_run_and_then_goes_on() -> None:
    session = Scripted()
    both = TwoThreads(session)
    seen: list[str] = []

    def interrupt() -> None:
        session.taken.acquire()
        signal.pthread_kill(main, signal.SIGUSR1)
        signalled.acquire()
        session.answer(["late"])
        seen.append("answered")

    def handler(*_: object) -> None:
        signalled.release()
        raise KeyboardInterrupt

    main, signalled = threading.get_ident(), threading.Semaphore(0)
    before = signal.signal(signal.SIGUSR1, handler)
    other = threading.Thread(target=interrupt)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            both.run(["scores"], {}, alone=False)
    finally:
        signal.signal(signal.SIGUSR1, before)
        other.join()
    assert seen == ["answered"]
    assert not both._handing_over.locked()


def test_two_cores_open_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use_runtime(monkeypatch, FakeRuntime([CPU], [CPU]))
    session = opened(Path("m.onnx"), 2)
    for _ in range(3):
        session.run([], {}, alone=True)
    assert [options.intra_op_num_threads for options in fake.options] == [2]


def test_the_same_bits_whichever_thread_runs(exported: dict[str, Path]) -> None:
    dice = np.random.default_rng(0)
    batches = [feeds(dice.integers(5, 50, (n, length))) for n, length in ((1, 3), (4, 9), (7, 16), (2, 30))]
    one, two = (opened(exported["text-classification"], threads) for threads in (1, 2))
    expected = [one.run(["logits"], batch)[0] for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: two.run(["logits"], batch)[0], batches * 8))
    alone = [two.run(["logits"], batch, alone=True)[0] for batch in batches]
    for i, found in enumerate([*together, *alone]):
        assert np.array_equal(found, expected[i % len(batches)])


def test_a_run_that_is_handed_over_says_what_was_wrong(exported: dict[str, Path]) -> None:
    session = opened(exported["text-classification"], 2)
    with pytest.raises(InferenceError, match="out of"):
        session.run(["scores"], feeds(np.array([[2, 10**6, 3]])))
    with pytest.raises(ValueError, match="attention_mask"):
        session.run(["scores"], {"input_ids": np.array([[2, 3]])})
    assert session.run(["scores"], feeds(np.array([[2, 3]])))[0].shape == (1, 3)


def test_a_session_is_let_go_right_after_its_last_run(exported: dict[str, Path]) -> None:
    for _ in range(20):
        session = opened(exported["text-classification"], 2)
        session.run(["scores"], feeds(np.array([[2, 3]])))
        gone = weakref.ref(session)
        del session
        gc.collect()
        assert gone() is None


def test_one_model_from_many_threads(exported: dict[str, Path]) -> None:
    texts = [" ".join(["word"] * (1 + i % 7)) for i in range(40)]
    with bertonnx.load(exported["text-classification"], provider="cpu", threads=1) as model:
        expected = model.classify(texts)
    with (
        bertonnx.load(exported["text-classification"], provider="cpu", threads=2) as model,
        ThreadPoolExecutor(6) as pool,
    ):
        assert list(pool.map(lambda text: model.classify([text])[0], texts)) == expected
        assert model.classify(texts) == expected
