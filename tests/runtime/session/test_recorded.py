"""Batches that come alone are recorded and replayed, and nothing runs meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import ModelFileError, OutOfMemoryError
from bertonnx.runtime.session import recorded
from bertonnx.runtime.session.ort_session import OrtSession
from bertonnx.runtime.session.recorded import Turns, unrecorded
from tests.fake_cuda import CANNOT_RECORD, CPU, CUDA, OUT_OF_MEMORY, FakeRuntime, pretend_cuda, use_runtime
from tests.runtime.engine.fakes import in_thread, until

TEXTS = ("a text", "another text", "one that is longer than these are")


def session_of(model: bertonnx.Model) -> Any:
    return model.engine._queue._runner._session  # what tests alone look into


@pytest.fixture
def model(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    pretend_cuda(monkeypatch)
    with bertonnx.load(exported["feature-extraction"], "cuda") as loaded:
        yield loaded


def test_a_shape_that_comes_again_is_replayed_with_the_same_bits(model: Any) -> None:
    first = [model.embed([text])[0] for text in TEXTS]
    graphs = session_of(model)._recorded._graphs
    assert not graphs
    for _ in range(4):
        for text, vector in zip(TEXTS, first, strict=True):
            assert np.array_equal(model.embed([text])[0], vector)
    lengths = {len(encoded.pieces[0].ids) for encoded in model.tokenize(TEXTS)}
    assert {tokens for _, tokens, _ in graphs} == lengths


def test_what_is_long_or_has_unknown_outputs_is_not_recorded(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "_TOKENS", 3)
    for _ in range(5):
        model.embed([TEXTS[0]])
    assert not session_of(model)._recorded._graphs


def test_no_more_shapes_than_fit(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_GRAPHS", 1)
    for _ in range(5):
        for text in TEXTS:
            model.embed([text])
    assert len(session_of(model)._recorded._graphs) == 1


def test_what_cannot_be_recorded_runs_as_ever(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.embed([TEXTS[0]])

    def fail(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "_Graph", fail)
    for _ in range(5):
        assert np.array_equal(model.embed([TEXTS[0]]), expected)


def test_memory_that_runs_out_ends_replays_and_is_given_back(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: OrtSession = session_of(model)
    binding: Any = session._binding
    feeds = {name: np.ones((1, 4), np.int64) for name in session.inputs}
    used: list[Any] = []

    def full(_: Any, options: Any = None) -> None:
        used.append(options)
        raise RuntimeError(OUT_OF_MEMORY)

    real = binding._session.run_with_iobinding
    monkeypatch.setattr(binding._session, "run_with_iobinding", full)
    with pytest.raises(OutOfMemoryError):
        session.run(session.outputs[:1], feeds)
    with pytest.raises(OutOfMemoryError):
        session.run(session.outputs[:1], feeds)

    def fits(bound: Any, options: Any = None) -> None:
        used.append(options)
        real(bound)

    monkeypatch.setattr(binding._session, "run_with_iobinding", fits)
    for _ in range(2):
        session.run(session.outputs[:1], feeds)
    # An ordinary run, two that give back, and ordinary ones again.
    assert [options is binding._tidy for options in used] == [False, True, True, False]
    for _ in range(5):
        model.embed([TEXTS[0]])
    assert not session._recorded._graphs  # type: ignore[union-attr]


def test_a_graph_that_computes_on_the_cpu_is_opened_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertonnx.runtime.session.cuda_session import open_cuda
    from bertonnx.runtime.session.session import SessionOptions

    fake = use_runtime(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    opened = open_cuda(fake, Path("m.onnx"), SessionOptions())
    assert opened._recorded is not None
    fake.records_nothing = True
    opened = open_cuda(fake, Path("m.onnx"), SessionOptions())
    assert opened._recorded is None
    assert ["enable_cuda_graph" in options for options in fake.provider_options] == [True, True, False]
    fake.records_nothing, fake.error = False, RuntimeError("something else")
    with pytest.raises(ModelFileError, match="something else"):
        open_cuda(fake, Path("m.onnx"), SessionOptions())
    assert "graph capture" in CANNOT_RECORD


def test_ordinary_runs_say_that_they_are_not_recorded() -> None:
    assert unrecorded(FakeRuntime([], [])).entries == {"gpu_graph_id": "-1"}


def test_runs_go_together_and_a_replay_alone() -> None:
    turns, going, ended = Turns(), threading.Event(), []
    both = threading.Barrier(3)

    def ordinary() -> None:
        with turns.together():
            both.wait(20)  # two at a time, or this never ends
            going.wait(20)
            ended.append("ordinary")

    def replay() -> None:
        with turns.alone():
            ended.append("replay")

    runs = [in_thread(ordinary) for _ in range(2)]
    both.wait(20)
    alone = in_thread(replay)
    until(lambda: turns.waiting == 1)
    assert not ended
    going.set()
    for thread in (*runs, alone):
        thread.result()
    assert ended == ["ordinary", "ordinary", "replay"]
