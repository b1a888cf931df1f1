"""The form of embeddings, by what a card says: ranges that are there and ranges that are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.ranges import Ranges
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.vectors.form import form_of
from bertonnx.wording import COMMAND_LINE

CARD = Card(
    task="feature-extraction",
    family="bert",
    max_length=16,
    inputs=("input_ids", "attention_mask"),
    outputs=("sentence_embedding", "last_hidden_state"),
    width=8,
    normalize=True,
    ranges=(
        Ranges(8, False, 3, least=(-1.0,) * 8, largest=(1.0,) * 8),
        Ranges(4, True, 3, least=(-2.0,) * 4, largest=(2.0,) * 4),
    ),
)
VECTOR = np.array([0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0], dtype=np.float32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [191] * 4 + [127] * 4),  # 1.5 / 2 * 255 = 191.25
        ({"dimensions": 2}, [191] * 2),
        ({"normalize": True}, [191] * 4 + [127] * 4),  # of length 1 already
        ({"dimensions": 4, "normalize": True}, [159] * 4),  # 2.5 / 4 * 255 = 159.4
        ({"dimensions": 8, "normalize": True}, [191] * 4 + [127] * 4),
    ],
)
def test_which_ranges_an_encoding_takes(options: dict[str, Any], expected: list[int]) -> None:
    form = form_of(CARD, DecodeOptions(encoding="uint8", **options))
    assert (form.dtype.name, form.length) == ("uint8", len(expected))
    assert form.of(VECTOR).tolist() == expected


@pytest.mark.parametrize(
    ("card", "options", "said"),
    [
        (
            replace(CARD, ranges=()),
            {},
            "--encoding int8 needs the range of each dimension, and this file has none; make it with: "
            "bertonnx export SOURCE, or ask for --encoding float32 or --encoding binary",
        ),
        (
            CARD,
            {"dimensions": 2, "normalize": True},
            "--encoding int8 needs the range of each dimension, and this file has none of embeddings that "
            "are cut to 2 and then normalized (it has some of 4); make it with: bertonnx export SOURCE "
            "--dimensions 2, or ask for --encoding float32 or --encoding binary",
        ),
        (
            replace(CARD, normalize=False),
            {"normalize": True},
            "--encoding int8 needs the range of each dimension, and this file has none of embeddings that "
            "are normalized (it has some of 4); make it with: bertonnx export SOURCE, or ask for --encoding "
            "float32 or --encoding binary",
        ),
    ],
)
def test_ranges_that_are_not_there(card: Card, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        form_of(card, DecodeOptions(encoding="int8", **options))
    assert caught.value.worded(COMMAND_LINE) == said


def test_a_file_that_does_not_say_its_width_is_cut_when_it_is_known() -> None:
    form = form_of(replace(CARD, width=None), DecodeOptions(dimensions=4))
    assert form.length == 4
    assert form.of(VECTOR).tolist() == [0.5] * 4
    with pytest.raises(UsageError, match=r"dimensions=9 is more than this model's embeddings have \(8\)"):
        form_of(replace(CARD, width=None), DecodeOptions(dimensions=9)).of(VECTOR)


def test_what_is_no_number_has_no_integer() -> None:
    broken = VECTOR.copy()
    broken[1] = np.nan
    assert np.isnan(form_of(CARD, DecodeOptions()).of(broken)[1])
    with pytest.raises(RowError, match="NaN or infinity"):
        form_of(CARD, DecodeOptions(encoding="binary")).of(broken)


@pytest.mark.parametrize(
    "ranges",
    [
        {"dimensions": 3},
        {"least": (0.0,)},
        {"largest": (-3.0,) * 4},
    ],
)
def test_ranges_that_fit_no_embedding(ranges: dict[str, Any]) -> None:
    assert CARD.ranges[1].fits
    assert not replace(CARD.ranges[1], **ranges).fits
