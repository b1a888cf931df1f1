"""What a pooling module of Sentence-Transformers asks for."""

from __future__ import annotations

from typing import Any

import pytest

from bertonnx.models.pooling import POOLINGS, modes_of, named

_ALL = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({}, ["mean"]),
        ({"pooling_mode_mean_tokens": False}, ["mean"]),
        ({"pooling_mode_lasttoken": True}, ["lasttoken"]),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, ["max"]),
        ({"pooling_mode": ["mean", "cls"]}, ["mean", "cls"]),
        (dict.fromkeys([row.flag for row in POOLINGS], True), [*_ALL]),
        (
            {"pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_tokens": True},
            ["mean", "weightedmean"],
        ),
    ],
)
def test_modes_come_in_the_order_in_which_they_are_joined(config: dict[str, Any], modes: list[str]) -> None:
    assert modes_of(config) == modes


def test_several_are_named_with_commas_between_them() -> None:
    assert [row.name for row in named("max,lasttoken,weightedmean")] == ["max", "last", "weightedmean"]
    with pytest.raises(KeyError, match="there is no pooling 'median'"):
        named("mean,median")
