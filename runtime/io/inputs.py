"""What every input is to a job, and which of its columns are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.options import DecodeOptions, RunOptions
from bertonnx.runtime.rows import Row, require_single
from bertonnx.wording import Message, Option, Options

__all__ = ["Choice", "Input", "choose_columns", "given_once", "needs_pair"]

# The names in the data sets of GLUE, SQuAD and MS MARCO, which people keep.
PAIRS = (
    ("question", "context"),
    ("text", "text_pair"),
    ("text", "pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("query", "passage"),
    ("query", "document"),
)
TEXTS = ("text", "sentence", "document", "passage")


class Input(ABC):
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

    def __enter__(self) -> Input:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Choice:
    """What decides which columns of an input are read.

    Attributes:
        path: the input, as the caller named it; "-" is standard input.
        options: the columns that the caller named.
        needs_pair: whether the model cannot do without a second text.
        once: what can be given once for all rows in place of their second texts.
    """

    path: str
    options: RunOptions
    needs_pair: bool
    once: tuple[Option, ...] = ()

    @property
    def reads_pair(self) -> bool:
        """Whether a second text is needed or asked for."""
        return self.needs_pair or self.options.pair_column is not None

    @property
    def instead(self) -> Message:
        """The end of a message that second texts are missing."""
        if not self.once:
            return Message("")
        return Message(", or {once} once for all rows", once=Options(self.once))


def given_once(card: Card, decode: DecodeOptions) -> tuple[Option, ...]:
    """Return what can be given once for all rows in place of their second texts."""
    return tuple(Option(use.option, use.example) for use in card.row(decode.task).uses)


def needs_pair(card: Card, decode: DecodeOptions, options: RunOptions) -> bool:
    """Return whether each row of an input must have a second text.

    Raises:
        UsageError: a column of second texts is named, and the model takes none, or they are given once for
            all rows.
    """
    if not decode.pairs_texts:
        if options.pair_column is not None:
            require_single(card, Option("pair_column", options.pair_column))
        return card.needs_pair
    if options.pair_column is not None:
        raise UsageError(
            "{pair} and {given} exclude each other: each text makes a pair with what is given; name its "
            "column with {column}",
            pair=Option("pair_column", options.pair_column),
            given=decode.pairing,
            column=Option("column", "NAME"),
        )
    return False


def choose_columns(names: Sequence[str], choice: Choice) -> tuple[str, str | None]:
    """Return the column of the text and that of its pair, None where no pair is read.

    Raises:
        InputError: the file lacks a column that was asked for, or nothing says which to take; then its
            facts are the `problem` and what to `say`.
    """
    column, pair = choice.options.column, choice.options.pair_column
    for wanted in (column, pair):
        # A table can name a column twice; taking the first would be a guess.
        if wanted is not None and names.count(wanted) != 1:
            raise InputError(
                "{path} has {count} column {wanted!r}; its columns are: {columns}",
                path=choice.path,
                count="more than one" if wanted in names else "no",
                wanted=wanted,
                columns=_listed(names),
            )
    if not choice.needs_pair or (column is not None and pair is not None):
        return (_single(names, choice) if column is None else column), pair
    return _pair(names, choice)


def _single(names: Sequence[str], choice: Choice) -> str:
    others = [name for name in names if name != choice.options.pair_column]
    if len(others) == 1:
        return others[0]
    for name in TEXTS:
        if others.count(name) == 1:
            return name
    problem = Message(
        "which column of {path} holds the text? its columns are: {columns}",
        path=choice.path,
        columns=_listed(names),
    )
    raise InputError("{problem}; say {say}", problem=problem, say=Option("column", "NAME"))


def _pair(names: Sequence[str], choice: Choice) -> tuple[str, str]:
    column, pair = choice.options.column, choice.options.pair_column
    for first, second in PAIRS:
        if (
            names.count(first) == names.count(second) == 1
            and column in (None, first)
            and pair in (None, second)
        ):
            return first, second
    # Of two columns the other one is meant. Neither named, which is which would be a guess.
    if len(names) == 2 and (column, pair) != (None, None):
        other = next(name for name in names if name not in (column, pair))
        return column or other, pair or other
    problem = Message(
        "the model reads pairs of texts; which columns of {path} hold them? its columns are: {columns}",
        path=choice.path,
        columns=_listed(names),
    )
    both = Options([Option("column", "NAME"), Option("pair_column", "NAME")], last="and")
    raise InputError("{problem}; say {say}{instead}", problem=problem, say=both, instead=choice.instead)


def _listed(names: Sequence[str]) -> str:
    # A header that is not valid UTF-8 must be shown all the same.
    return ", ".join(name.encode("utf-8", "replace").decode() for name in names)
