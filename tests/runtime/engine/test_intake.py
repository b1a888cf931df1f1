"""Chunks of rows: how they grow, and what all callers may hold together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from bertonnx.errors import RowError
from bertonnx.models.providers import provider
from bertonnx.runtime.engine.intake import Intake, Room, in_parts
from bertonnx.runtime.rows import Row
from tests.runtime.engine.fakes import FakeSession, Sums, engine_with

SMALL = replace(provider("cpu").batching, first_chunk=2, last_chunk=16, chunk_characters=160)
"""All callers together may hold eight chunks of 16 rows."""


def endless(text: str = "x") -> Iterator[Row]:
    while True:
        yield Row(text)


def sizes(intake: Intake, chunks: int, *, collected: bool = True) -> list[int]:
    """Return the rows in so many chunks, each collected at once or held."""
    found = []
    for chunk in islice(intake, chunks):
        found.append(len(chunk))
        if collected:
            intake.collected()
    return found


@pytest.mark.parametrize(
    ("name", "soon", "expected"),
    [
        ("cpu", True, [32, 128, 512, 2048, 2048]),
        ("cpu", False, [2048, 2048]),
        ("cuda", True, [256, 1024, 4096, 16_384, 32_768, 32_768]),
        ("cuda", False, [32_768, 32_768]),
    ],
)
def test_chunks_grow_fourfold(name: str, soon: bool, expected: list[int]) -> None:
    batching = provider(name).batching
    assert sizes(Intake(endless(), batching, Room(batching), soon=soon), len(expected)) == expected


def test_no_row_is_read_before_its_chunk_is_asked_for() -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for row in islice(endless(), 5):
            read += 1
            yield row

    chunks = iter(Intake(rows(), SMALL, Room(SMALL)))
    assert read == 0
    assert len(next(chunks)) == read == 2
    assert len(next(chunks)) == 3
    assert read == 5
    assert next(chunks, None) is None


def test_rows_that_end_with_a_chunk_give_no_empty_one() -> None:
    assert sizes(Intake(islice(endless(), 2), SMALL, Room(SMALL)), 9) == [2]
    assert sizes(Intake([], SMALL, Room(SMALL)), 9) == []


def test_text_closes_a_chunk_early() -> None:
    rows: list[Row | RowError] = [Row("x" * 80), Row("y", "z" * 78), Row("x"), Row("x" * 500)]
    rows.append(RowError("input", "broken"))
    assert sizes(Intake(rows, SMALL, Room(SMALL), soon=False), 9) == [3, 1, 1]


def test_chunks_stay_small_when_there_is_no_room_and_grow_again() -> None:
    room = Room(SMALL)
    first, second = Intake(endless(), SMALL, room, soon=False), Intake(endless(), SMALL, room, soon=False)
    assert sizes(first, 7, collected=False) == [16] * 7
    # A chunk is smaller as soon as there is no room for a largest one.
    assert sizes(second, 1, collected=False) == [16]
    assert sizes(second, 2, collected=False) == [2, 2]
    third = Intake(endless(), SMALL, room)
    assert sizes(third, 3) == [2, 2, 2]
    first.collected()
    assert sizes(second, 1) == [2]  # what was taken beyond the room is given back first
    second.close()
    assert sizes(third, 2) == [16, 16]
    first.close()


def test_callers_that_wait_for_their_first_rows_hold_no_more_than_those() -> None:
    room = Room(SMALL)
    for _ in range(56):
        assert room.take(2, 2)
    assert room.take(16, 2)
    assert not room.take(2, 2)
    room.give_back(4)
    assert room.take(2, 2)
    assert not room.take(1, 1)


def test_a_chunk_that_ends_early_leaves_room() -> None:
    room = Room(SMALL)
    for _ in range(100):
        assert sizes(Intake([Row("x")], SMALL, room, soon=False), 1, collected=False) == [1]
    assert sizes(Intake(endless(), SMALL, room, soon=False), 1) == [16]


def test_long_texts_take_the_room_of_many() -> None:
    room = Room(SMALL)
    rows = [Row("x" * 320)] * 4  # each of two largest chunks
    assert sizes(Intake(rows, SMALL, room, soon=False), 9, collected=False) == [1] * 4
    short = Intake(endless("x" * 15), SMALL, room, soon=False)
    assert sizes(short, 2) == [2, 2]  # an eighth of the characters, too
    assert sizes(Intake(endless("x" * 20), SMALL, room, soon=False), 1) == [1]


def test_callers_that_stop_in_the_middle_hold_little_together() -> None:
    """Each holds two chunks: four callers fill the room, and the others get small ones."""
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for row in endless():
            read += 1
            yield row

    engine = engine_with(FakeSession())
    callers = [engine.map(rows(), Sums(), soon=False) for _ in range(20)]
    for caller in callers:
        next(caller)
    assert read == 4 * 2 * 2048 + 16 * 2 * 32
    for caller in callers:
        caller.close()
    again = engine.map(rows(), Sums(), soon=False)
    next(again)
    assert read == 4 * 2 * 2048 + 16 * 2 * 32 + 2 * 2048
    engine.close()


def test_parts_hold_every_row_once_and_about_so_many_characters() -> None:
    chunk: list[Row | RowError] = [
        Row("x" * 30),
        RowError("input", "broken"),
        Row("y", "z" * 80),
        Row("end"),
    ]
    assert list(in_parts(chunk, 60)) == [chunk[:3], chunk[3:]]
    assert list(in_parts(chunk, 1)) == [chunk[:1], chunk[1:3], chunk[3:]]
    assert list(in_parts(chunk, 0)) == [chunk]
    assert list(in_parts([], 60)) == []
