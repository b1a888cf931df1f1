"""Names of the outputs that hold a layer's vectors, and of the layers that a user means."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ALL", "hidden_name", "layers_meant"]

ALL = "all"


def hidden_name(layer: int) -> str:
    """Return the name of the output of a layer: 0 is what enters the first, as transformers counts them."""
    return f"hidden_state_{layer}"


def layers_meant(asked: Sequence[int] | str, count: int) -> tuple[int, ...] | None:
    """Return the layers that a user means, rising; None where one of them is not there.

    Args:
        asked: numbers, of which negative ones count from the last, or `ALL`.
        count: how many hidden states there are: one more than layers.
    """
    if asked == ALL:
        return tuple(range(count))
    numbers = [int(layer) for layer in asked]
    if any(not -count <= number < count for number in numbers):
        return None
    return tuple(sorted({number % count for number in numbers}))
