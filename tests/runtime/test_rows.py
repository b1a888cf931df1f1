"""Rows, and what a graph takes of their pieces."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from tokenizers import Encoding

from bertonnx.errors import RowError, UsageError
from bertonnx.runtime.engine.batches import Batch, Slot
from bertonnx.runtime.rows import Piece, Row, as_rows, feeds_of, require_single
from bertonnx.wording import Option
from tests.fake_predictor import card


def piece(*ids: int, second: int = 0, prompt: int = 0) -> Piece:
    types = [0] * (len(ids) - second) + [1] * second
    return Piece(np.array(ids, dtype=np.int64), np.array(types, dtype=np.int64), Encoding(), prompt)


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


def test_the_pooling_mask_leaves_prompts_out() -> None:
    pieces = [piece(2, 7, 8, 3, prompt=3), piece(2, 7, 8, 3), piece(2, 7, 8, 3, prompt=4)]
    masks = [[0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    feeds = feeds_of(pieces, ("input_ids", "pooling_mask"))
    assert feeds["pooling_mask"].tolist() == masks
    assert feeds["pooling_mask"].dtype == np.int64
    # The engine makes its own, one batch at a time.
    chunk: Any = None
    batch = Batch((4, (), False), 64, [Slot(item, chunk) for item in pieces])
    made = batch.feeds(("input_ids", "pooling_mask"))
    assert {name: array.tolist() for name, array in made.items()} == {
        name: array.tolist() for name, array in feeds.items()
    }


@pytest.mark.parametrize(
    "inputs", [("input_ids",), ("input_ids", "attention_mask"), ("input_ids", "token_type_ids")]
)
def test_a_graph_gets_the_inputs_that_it_has(inputs: tuple[str, ...]) -> None:
    assert tuple(feeds_of([piece(2, 3)], inputs)) == inputs


@pytest.mark.parametrize(
    ("task", "pairs", "said"),
    [
        ("text-classification", None, ""),
        ("text-ranking", True, ""),
        ("text-classification", False, "was trained for text-classification of single ones"),
        (
            "token-classification",
            False,
            "which are for text-classification, text-ranking, ",
        ),
    ],
)
def test_second_texts_are_for_those_that_read_them(task: str, pairs: bool | None, said: str) -> None:
    model = card(task, pairs=pairs)
    with pytest.raises(UsageError, match=f"^pairs gives second texts.*{said}") if said else nullcontext():
        require_single(model, Option("pairs"))


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
