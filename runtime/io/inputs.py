"""What every input is to a job, and which of its columns are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

from bertonnx.errors import InputError, RowError
from bertonnx.runtime.rows import Row

__all__ = ["Choice", "RowSource", "choose_columns"]

PAIRS = (
    ("question", "context"),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("query", "passage"),
)
TEXTS = ("text", "sentence")


class RowSource(ABC):
    """An open input: iterate over it once, then close it. A context manager.

    Attributes:
        bytes_total: size of the input, None where it is not known (a pipe).
        skipped: rows that `open_rows` passed over; fewer than asked where the input has fewer.
    """

    bytes_total: int | None = None
    skipped: int = 0

    @property
    @abstractmethod
    def bytes_done(self) -> int:
        """How many bytes of the input were read."""

    @abstractmethod
    def skip(self, count: int) -> int:
        """Pass over `count` rows, or as many as there are, and return how many it were."""

    @abstractmethod
    def __iter__(self) -> Iterator[Row | RowError]: ...

    @abstractmethod
    def close(self) -> None:
        """Close the file; standard input stays open."""

    def __enter__(self) -> RowSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Choice(NamedTuple):
    """What the caller asked for, as far as it decides which columns are read."""

    path: str
    column: str | None
    pair_column: str | None
    needs_pair: bool


def choose_columns(names: Sequence[str], choice: Choice) -> tuple[str, str | None]:
    """Return the column of the text and that of its pair, None where no pair is read.

    Raises:
        InputError: the file lacks a column that was asked for, or nothing says which to take.
    """
    for wanted in (choice.column, choice.pair_column):
        if wanted is not None and names.count(wanted) != 1:
            problem = "has no column" if wanted not in names else "has more than one column"
            raise InputError(f"{choice.path} {problem} {wanted!r}; {_listed(names)}")
    column, pair = choice.column, choice.pair_column
    if not choice.needs_pair or (column is not None and pair is not None):
        return (_single(names, choice) if column is None else column), pair
    return _pair(names, choice)


def _single(names: Sequence[str], choice: Choice) -> str:
    others = [name for name in names if name != choice.pair_column]
    if len(others) == 1:
        return others[0]
    for name in TEXTS:
        if others.count(name) == 1:
            return name
    raise InputError(f"which column of {choice.path} holds the text? {_listed(names)}; say --column NAME")


def _pair(names: Sequence[str], choice: Choice) -> tuple[str, str]:
    column, pair = choice.column, choice.pair_column
    for first, second in PAIRS:
        if first in names and second in names and column in (None, first) and pair in (None, second):
            return first, second
    if len(names) == 2 and (column, pair) != (None, None):
        other = next(name for name in names if name not in (column, pair))
        return column or other, pair or other
    raise InputError(
        f"the model reads pairs of texts; which columns of {choice.path} hold them? {_listed(names)}; "
        "say --column NAME --pair-column NAME"
    )


def _listed(names: Sequence[str]) -> str:
    return "its columns are: " + ", ".join(name.encode("utf-8", "replace").decode() for name in names)
