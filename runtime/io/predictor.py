"""What files, jobs and record batches need of a model."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Protocol

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item, Row

__all__ = ["Predictor"]


class Predictor(Protocol):
    """A model, or what stands in for one in tests."""

    @property
    def card(self) -> Card:
        """The model's card."""
        ...

    @property
    def identity(self) -> str:
        """SHA-256, in hexadecimal, over the weights, the tokenizer and the limits."""
        ...

    def stream(
        self, rows: Iterable[Row | RowError], decode: DecodeOptions, /
    ) -> Generator[Item | RowError, None, None]:
        """Yield one result a row, in their order, reading only a bounded number of rows ahead.

        Closing it cancels what is under way.
        """
        ...
