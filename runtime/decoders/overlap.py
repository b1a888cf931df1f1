"""What decoders share about rows that were read in several windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertonnx.runtime.rows import Array, Piece

__all__ = ["text_length", "weighted_mean"]


def text_length(piece: Piece) -> int:
    """Return the number of tokens of `piece` that stand for text: all but the special ones and the prompt."""
    mask: list[int] = piece.encoding.special_tokens_mask[piece.prompt :]
    return len(mask) - sum(mask)


def weighted_mean(pieces: Sequence[Piece], values: Sequence[Array]) -> Array:
    """Return the mean of the windows' values, each weighted by its number of text tokens.

    Args:
        pieces: the windows of one row.
        values: float32 of shape (width,) for each of them.

    Returns:
        float32 of shape (width,), summed up in float64; the value itself where there is one window.
    """
    if len(values) == 1:
        return values[0]
    # Special tokens are in every window, and would give short last windows too much weight.
    weights = [text_length(piece) for piece in pieces]
    mean: Array = np.average(np.stack(values), axis=0, weights=weights).astype(np.float32)
    return mean
