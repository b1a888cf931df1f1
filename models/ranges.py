"""Ranges of the dimensions of embeddings, which encodings in a byte spread over 256 values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Ranges"]


@dataclass(frozen=True)
class Ranges:
    """The least and the largest number of each dimension that a byte holds, by the embeddings of some texts.

    Attributes:
        dimensions: how many numbers of an embedding were kept, from its beginning.
        normalized: whether those then got length 1. Of embeddings as the graph puts them out: False.
        texts: how many texts they are of.
        least: `dimensions` numbers, each exact in float32.
        largest: as many.
    """

    dimensions: int
    normalized: bool
    texts: int
    least: tuple[float, ...]
    largest: tuple[float, ...]

    @property
    def fits(self) -> bool:
        """Whether there is a range for each dimension."""
        return len(self.least) == len(self.largest) == self.dimensions and all(
            low <= high for low, high in zip(self.least, self.largest, strict=True)
        )
