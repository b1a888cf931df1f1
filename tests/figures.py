"""Figures of cards: those that an export must have noted, and some that were never measured."""

from __future__ import annotations

from bertonnx.models.card import Card
from bertonnx.models.figures import HalfFigures, Int8Figures, ParityFigures

__all__ = ["INT8_FIGURES", "half_of", "int8_of", "parity_of"]

INT8_FIGURES = Int8Figures(
    scheme="row-wise dynamic INT8",
    target="vnni",
    pair_safe=False,
    layers=12,
    tables=2,
    smoothing_alpha=(0.5, None),
    calibration_texts=128,
    weights_bytes=1000,
    weights_bytes_fp32=4000,
    metric="labels",
    agreement=0.995,
    worst=0.98,
    min_agreement=0.99,
    texts=128,
    mean_abs_difference=0.02,
    cpu="Milan",
)
"""Of a file for another CPU, where speed was not measured."""


def parity_of(card: Card) -> ParityFigures:
    """Return how far an export is from PyTorch."""
    assert card.parity is not None
    return card.parity


def half_of(card: Card) -> HalfFigures:
    """Return the figures of an export in fp16."""
    assert card.half is not None
    return card.half


def int8_of(card: Card) -> Int8Figures:
    """Return the figures of an export in INT8."""
    assert card.quantization is not None
    return card.quantization
