"""What all that is measured has in common: texts in, vectors out, and how batches are put together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from peers.texts import LONGEST

__all__ = ["Embedding", "Ids", "Vectors", "padded", "placed", "pooled", "tokenizer"]

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Setup = TypeVar("Setup")


class Embedding(ABC, Generic[Setup]):
    """One way to embed.

    Attributes:
        name: as the table shows it.
        precision: of the matrix multiplications.
        budget: padded tokens a batch, of those that are tuned; None of the others.
    """

    name: ClassVar[str]
    precision: ClassVar[str]
    budget: int | None = None

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return a vector a text, (texts, width)."""


def tokenizer(file: Path) -> Tokenizer:
    """Return a tokenizer that cuts texts at `LONGEST` tokens and pads none."""
    made = Tokenizer.from_file(str(file))
    made.no_padding()
    made.enable_truncation(LONGEST)
    return made


def padded(batch: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Return ids and mask, each (texts, longest)."""
    longest = max(map(len, batch))
    ids = np.zeros((len(batch), longest), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(batch):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def pooled(hidden: Any, mask: Ids) -> Vectors:
    """Return means over the real tokens, scaled to length 1; (n, tokens, width) to (n, width)."""
    weights = mask.astype(np.float32)[:, None, :]
    means = (weights @ np.asarray(hidden))[:, 0] / weights.sum(-1)
    scaled: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
    return scaled


def placed(parts: Sequence[Vectors], batches: Sequence[Sequence[int]]) -> Vectors:
    """Return the vectors of batches in the order of the texts; a batch lists its texts' places."""
    gathered = np.concatenate(parts)
    vectors = np.empty_like(gathered)
    vectors[np.concatenate([np.array(batch) for batch in batches])] = gathered
    return vectors
