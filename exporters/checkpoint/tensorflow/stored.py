"""One tensor as it lies in a TensorFlow file, not read yet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Stored", "bfloat16_to_float32"]


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        name: the variable's own name, such as "bert/encoder/layer_0/output/dense/kernel".
        key: what the file calls it; the same as the name in most.
        dtype: in NumPy's words; "bfloat16" too, and "string".
        shape: as stored.
        read: gives the numbers as they lie in the file; of bfloat16 uint16.
        label: what people find it by in the file.
    """

    name: str
    key: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any]]
    label: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.dtype != "string"

    @property
    def bytes(self) -> int:
        """Its size, in bytes."""
        return math.prod(self.shape) * (2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize)

    def sha256(self) -> str:
        """Return the SHA-256 of its bytes, in hex; "" where it holds no numbers."""
        # Texts, such as the graph of objects, are no weights: nothing is made of them that could be checked.
        if not self.numeric:
            return ""
        return hashlib.sha256(np.ascontiguousarray(self.read()).data).hexdigest()

    def values(self) -> npt.NDArray[Any]:
        """Return its numbers; bfloat16 as float32, which holds them exactly."""
        array = self.read()
        return bfloat16_to_float32(array) if self.dtype == "bfloat16" else array


def bfloat16_to_float32(halves: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return numbers of bfloat16, given as uint16, in float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
