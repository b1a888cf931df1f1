"""Bound memory, run by the real ONNX Runtime on CPU; page-locked memory by a stand-in for CUDA's library."""

from __future__ import annotations

import ctypes
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bertonnx.runtime.session.binding import Binding, page_locked
from bertonnx.runtime.session.session import import_onnxruntime

TASKS = ("feature-extraction", "text-classification", "question-answering", "fill-mask")


def _feeds(batch: int, tokens: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(5, 100, (batch, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _session(path: Path) -> Any:
    return import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("task", TASKS)
def test_the_same_bits_as_without(exported: dict[str, Path], task: str) -> None:
    session = _session(exported[task])
    binding = Binding(session)
    names = [item.name for item in reversed(session.get_outputs())]
    for batch, tokens in ((3, 7), (1, 20), (5, 4), (3, 7)):
        feeds = _feeds(batch, tokens, seed=tokens)
        results = binding.run(names, feeds)
        for result, expected in zip(results, session.run(names, feeds), strict=True):
            assert result.dtype == np.float32
            assert np.array_equal(result, expected)


@pytest.mark.parametrize("hidden", [("made", "up"), ("type",)])
def test_an_output_whose_shape_or_type_is_not_known_before(
    exported: dict[str, Path], hidden: tuple[str, ...]
) -> None:
    real = _session(exported["text-classification"])
    kind = "tensor(float16)" if hidden == ("type",) else "tensor(float)"
    outputs = [SimpleNamespace(name=item.name, type=kind, shape=list(hidden)) for item in real.get_outputs()]

    class Session:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def get_outputs(self) -> Any:
            return outputs

    feeds = _feeds(2, 9)
    (scores,) = Binding(Session()).run(["scores"], feeds)
    assert np.array_equal(scores, real.run(["scores"], feeds)[0])


def test_results_are_the_callers_own(exported: dict[str, Path]) -> None:
    binding = Binding(_session(exported["text-classification"]))
    (first,) = binding.run(["scores"], _feeds(2, 9, seed=1))
    kept = first.copy()
    binding.run(["scores"], _feeds(2, 9, seed=2))
    assert np.array_equal(first, kept)


def test_threads_have_memory_of_their_own(exported: dict[str, Path]) -> None:
    session = _session(exported["feature-extraction"])
    binding = Binding(session)
    inputs = [_feeds(4, 3 + seed % 5, seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda feeds: binding.run(["sentence_embedding"], feeds)[0], inputs))
    for feeds, result in zip(inputs, results, strict=True):
        assert np.array_equal(result, session.run(["sentence_embedding"], feeds)[0])


class FakeCudart:
    """Gives ordinary memory as page-locked, or none."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.blocks: dict[int, Any] = {}
        self.cleared = 0

    def cudaHostAlloc(self, place: Any, size: ctypes.c_size_t, flags: ctypes.c_uint) -> int:
        assert flags.value == 1
        if self.full:
            return 2
        block = ctypes.create_string_buffer(size.value)
        self.blocks[ctypes.addressof(block)] = block
        place._obj.value = ctypes.addressof(block)
        return 0

    def cudaFreeHost(self, address: ctypes.c_void_p) -> int:
        assert address.value is not None
        del self.blocks[address.value]
        return 0

    def cudaGetLastError(self) -> int:
        self.cleared += 1
        return 2


def test_inputs_go_through_page_locked_memory_which_grows_and_is_freed(exported: dict[str, Path]) -> None:
    session, library = _session(exported["text-classification"]), FakeCudart()
    binding = Binding(session, page_locked(library))
    for tokens in (4, 9, 6):
        feeds = _feeds(2, tokens)
        assert np.array_equal(binding.run(["scores"], feeds)[0], session.run(["scores"], feeds)[0])
        gc.collect()
        assert len(library.blocks) == 3  # one an input
    del binding
    gc.collect()
    assert library.blocks == {}
    assert library.cleared == 0


def test_without_page_locked_memory_ordinary_memory_does(exported: dict[str, Path]) -> None:
    session, library = _session(exported["text-classification"]), FakeCudart(full=True)
    feeds = _feeds(2, 5)
    (scores,) = Binding(session, page_locked(library)).run(["scores"], feeds)
    assert np.array_equal(scores, session.run(["scores"], feeds)[0])
    assert library.cleared == 3
