"""The peers, each behind the same two calls: many texts to vectors, and one text to a vector.

All return the mean of the last layer's token vectors, scaled to length 1: float32 of shape (n, width).
Each is set up as its own documentation shows; where that is slow on texts of unequal length, there is
a second entry that sorts the texts first, and whose batch size is tuned in the warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peers.embedding import Vectors
from peers.engine import Engine, Setup
from peers.frameworks import FRAMEWORKS
from peers.runtimes import RUNTIMES

__all__ = ["ENGINES", "Engine", "Setup"]


class Bertonnx(Engine):
    """This project."""

    name, package, ours = "bertonnx", "onnxruntime", True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import bertonnx

        self.model = bertonnx.load(self.file(), "cpu", setup.cores)

    def file(self) -> Path:
        return self.setup.ours

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.model.embed(texts)


class BertonnxInt8(Bertonnx):
    """This project's INT8."""

    name, precision = "bertonnx INT8", "int8"

    def file(self) -> Path:
        return self.setup.ours_int8


ENGINES: dict[str, type[Engine]] = {
    "bertonnx": Bertonnx,
    "bertonnx-int8": BertonnxInt8,
    **FRAMEWORKS,
    **RUNTIMES,
}
