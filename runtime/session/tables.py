"""Tables that two sessions of one file have in common, so that they are in memory once.

ONNX Runtime packs the weights of products for each session anew, and what it packed it does not share
(in Python there is no container for it). A table of words it takes as it is: half of a small model, and
nearly all of a multilingual one.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from bertonnx.runtime.modelfile.initializers import read_tables
from bertonnx.runtime.modelfile.wire import Readable

__all__ = ["Tables"]


class Tables:
    """The tables of one file. They must be kept for as long as a session runs that was lent them."""

    def __init__(self) -> None:
        self._values: dict[str, Any] | None = None

    def lend(self, ort: ModuleType, options: Any, data: Readable) -> None:
        """Let the session that is opened with these options read the tables, not its own copies.

        Args:
            ort: ONNX Runtime.
            options: ONNX Runtime's options.
            data: the file, the same at each call; it is read at the first.
        """
        if self._values is None:
            tables = read_tables(data)
            self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in tables.items()}
        for name, value in self._values.items():
            options.add_initializer(name, value)
