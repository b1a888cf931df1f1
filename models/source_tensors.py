"""What became of each tensor of a checkpoint that is not PyTorch's: a row a tensor, kept on the card.

A change is written so that it can be undone: what a model file holds is then compared with its source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bertonnx.models.registry import Registry

__all__ = ["CHANGES", "Change", "SourceTensor", "change"]


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: in the source.
        shape: in the source.
        dtype: in the source, in NumPy's words; "bfloat16" too.
        sha256: of its bytes in the source, little-endian, in C's order; "" where it is no array of numbers.
        became: the name of PyTorch's parameter; "" where it is left out.
        how: a name of `CHANGES`, or why it is left out.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    became: str
    how: str


@dataclass(frozen=True)
class Change:
    """One way in which a tensor's numbers are put in another order.

    Attributes:
        name: the value of `SourceTensor.how`.
        apply: from an array of the source to PyTorch's.
        undo: from PyTorch's array and the source's shape back to the source's.
        shape: from the source's shape to PyTorch's.
    """

    name: str
    apply: Callable[[Any], Any]
    undo: Callable[[Any, Sequence[int]], Any]
    shape: Callable[[Sequence[int]], tuple[int, ...]]


# Arrays are not named, so that nothing of NumPy is imported: their own methods do all.
CHANGES: Registry[Change] = Registry(
    "change",
    Change("copied", lambda array: array, lambda array, shape: array.reshape(shape), tuple),
    Change(
        "transposed",
        lambda array: array.T,
        lambda array, shape: array.T.reshape(shape),
        lambda shape: tuple(reversed(shape)),
    ),
    # A bias of heads: its numbers lie as joined heads have them, and only its axes are others.
    Change(
        "flattened",
        lambda array: array.reshape(-1),
        lambda array, shape: array.reshape(shape),
        lambda shape: (math.prod(shape),),
    ),
    # [hidden, heads, size]: what a head reads lies in the last two axes.
    Change(
        "heads joined and transposed",
        lambda array: array.reshape(array.shape[0], -1).T,
        lambda array, shape: array.T.reshape(shape),
        lambda shape: (math.prod(shape[1:]), *shape[:1]),
    ),
    # [heads, size, hidden]: what comes out of all heads lies in the first two axes.
    Change(
        "heads joined in front and transposed",
        lambda array: array.reshape(-1, array.shape[-1]).T,
        lambda array, shape: array.T.reshape(shape),
        lambda shape: (*shape[-1:], math.prod(shape[:-1])),
    ),
)


def change(name: str) -> Change:
    """Return a change by its name.

    Raises:
        KeyError: there is none.
    """
    return CHANGES[name]
