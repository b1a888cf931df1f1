"""Rows, and what a graph takes of their pieces."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Encoding

from bertonnx.errors import RowError
from bertonnx.runtime.rows import Piece, Row, as_rows, feeds_of


def piece(*ids: int, second: int = 0) -> Piece:
    types = [0] * (len(ids) - second) + [1] * second
    return Piece(np.array(ids, dtype=np.int64), np.array(types, dtype=np.int64), Encoding())


def test_pieces_of_one_length_are_stacked_without_padding() -> None:
    feeds = feeds_of(
        [piece(2, 7, 3), piece(2, 8, 3, second=1)], ("input_ids", "attention_mask", "token_type_ids")
    )
    assert {name: array.tolist() for name, array in feeds.items()} == {
        "input_ids": [[2, 7, 3], [2, 8, 3]],
        "attention_mask": [[1, 1, 1], [1, 1, 1]],
        "token_type_ids": [[0, 0, 0], [0, 0, 1]],
    }
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    "inputs", [("input_ids",), ("input_ids", "attention_mask"), ("input_ids", "token_type_ids")]
)
def test_a_graph_gets_the_inputs_that_it_has(inputs: tuple[str, ...]) -> None:
    assert tuple(feeds_of([piece(2, 3)], inputs)) == inputs


def test_pieces_of_two_lengths_are_a_fault() -> None:
    with pytest.raises(ValueError, match="same shape"):
        feeds_of([piece(2, 3), piece(2, 7, 3)], ("input_ids",))


def test_what_is_no_text_becomes_an_error_in_its_place() -> None:
    rows = list(as_rows(["a", None, 3, "\ud800", "b"], ["x", "x", "x", "x", None]))
    assert rows[0] == Row("a", "x")
    kinds = [row.kind for row in rows[1:] if isinstance(row, RowError)]
    assert kinds == ["missing-text", "invalid-text", "invalid-text", "missing-text"]
    assert str(rows[2]) == "a text is expected, and this is int"
    assert list(as_rows(["a"])) == [Row("a", None)]
