"""Tables for R: those that a task's row names, and that of a task whose row names none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from bertonnx.models.card import Card
from bertonnx.models.tasks import TASKS, task
from bertonnx.runtime.io.columns import Column
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.r_tables import TOKENS, table_of, tables_of
from tests.results import CARDS

USUAL = DecodeOptions()


def only_vector(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    return (Column("vector", "vector", width=3),)


def many_kinds(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    return (
        Column("name", "text"),
        Column("count", "int"),
        Column("share", "float"),
        Column("sure", "bool"),
        Column("parts", "struct", lists=1, fields={"a": "int"}),
    )


@pytest.fixture
def outside(request: pytest.FixtureRequest) -> Iterator[Card]:
    """Register a task without tables, and return a card of it."""
    row = replace(task("fill-mask"), name="outside", columns=f"{__name__}:{request.param}", r_tables={})
    TASKS.register(row)
    yield replace(CARDS["fill-mask"], task="outside")
    TASKS.unregister("outside")


@pytest.mark.parametrize("name", CARDS)
def test_every_task_has_tables(name: str) -> None:
    card = CARDS[name]
    assert tables_of(card)
    for table in (*tables_of(card), TOKENS):
        assert "row" in table_of(card, table, USUAL).packed([])


def test_an_unknown_table_is_none_of_the_others() -> None:
    for name in ("labels", "results"):
        with pytest.raises(KeyError, match=name):
            table_of(CARDS["fill-mask"], name, USUAL)


@pytest.mark.parametrize("outside", ["only_vector"], indirect=True)
def test_a_lone_vector_is_a_matrix(outside: Card) -> None:
    assert tables_of(outside) == ("results",)
    table = table_of(outside, "results", USUAL)
    assert (table.is_matrix, table.width) == (True, 3)
    packed = table.packed([(1, {"vector": np.array([1, 2, 3], np.float32)}), (2, {"vector": [4, 5, 6]})])
    assert np.frombuffer(packed["vector"], "<f4").tolist() == [1, 4, 2, 5, 3, 6]


@pytest.mark.parametrize("outside", ["many_kinds"], indirect=True)
def test_columns_of_any_kind_are_a_table(outside: Card) -> None:
    table = table_of(outside, "results", USUAL)
    kinds = {"name": "text", "count": "int", "share": "float", "sure": "flag", "parts": "text"}
    assert table.columns == kinds
    full = {"name": "é\0", "count": 2, "share": 0.5, "sure": True, "parts": [{"a": np.int64(1)}]}
    packed = table.packed([(1, full), (2, {})])
    assert packed["name"] == ["é\N{REPLACEMENT CHARACTER}", ""]
    assert np.frombuffer(packed["count"], "<i4").tolist() == [2, -(2**31)], "R's NA"
    assert np.frombuffer(packed["sure"], "<i4").tolist() == [1, -(2**31)]
    shares = np.frombuffer(packed["share"], "<f4")
    assert shares[0] == 0.5
    assert np.isnan(shares[1])
    assert packed["parts"] == ['[{"a": 1}]', ""]


def test_the_numbers_of_a_table_are_row_by_row() -> None:
    card = CARDS["question-answering"]
    items = [
        {"answer": "a", "score": 0.5, "start": 0, "end": 1},
        {"answer": "", "score": 0.25, "start": 0, "end": 0},
    ]
    assert list(table_of(card, "answers", USUAL).numbers(items)) == [0.5, 0.25]
