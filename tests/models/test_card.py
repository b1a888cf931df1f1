"""What a card says of its model beyond its fields."""

from __future__ import annotations

import pytest

from tests.fake_predictor import card


@pytest.mark.parametrize(
    ("task", "pairs", "needs", "takes"),
    [
        ("text-classification", True, True, True),
        ("text-classification", None, False, True),
        ("text-classification", False, False, False),
        ("question-answering", None, True, True),
        ("fill-mask", False, False, False),
    ],
)
def test_who_reads_pairs(task: str, pairs: bool | None, needs: bool, takes: bool) -> None:
    model = card(task, pairs=pairs)
    assert (model.needs_pair, model.takes_pair) == (needs, takes)
