"""What is kept of the pieces of a job, and how much."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
from tokenizers import Encoding

from bertonnx.runtime.engine.repeats import Repeats, key_of
from bertonnx.runtime.rows import Piece


def _piece(number: int, tokens: int = 20) -> Piece:
    ids = np.arange(tokens, dtype=np.int64) + number
    return Piece(ids, np.zeros_like(ids), Encoding())


def test_what_was_kept_is_found_by_ids_segments_and_prompt() -> None:
    repeats = Repeats()
    first, other = _piece(1), _piece(1)
    repeats.add(key_of(first), "kept")
    assert repeats.find(key_of(other)) == "kept"
    assert repeats.find(key_of(_piece(2))) is None
    segments = Piece(first.ids, np.ones_like(first.ids), Encoding())
    assert repeats.find(key_of(segments)) is None
    # The same tokens, some of which are not pooled.
    assert repeats.find(key_of(replace(first, prompt=3))) is None


def test_the_least_recently_used_goes_first() -> None:
    array = np.zeros(100, dtype=np.float32)
    repeats = Repeats(limit=3 * (600 + 80 + 400))
    keys = [key_of(_piece(number)) for number in range(4)]
    for key in keys[:3]:
        repeats.add(key, array)
    assert repeats.find(keys[0]) is array
    repeats.add(keys[3], array)
    assert [repeats.find(key) is not None for key in keys] == [True, False, True, True]
    repeats.add(keys[3], array)
    assert len(repeats) == 3


def test_it_takes_no_more_memory_than_its_limit() -> None:
    limit = 1 << 20
    for make in (lambda: np.zeros(384, dtype=np.float32), lambda: [(list(range(5)), [0.5] * 5)]):
        tracemalloc.start()
        repeats = Repeats(limit)
        for number in range(5000):
            repeats.add(key_of(_piece(number)), make())
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.3 * limit < used < limit
