"""What goes through the runtime: rows in, pieces to the model, items out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.tasks import TASKS
from bertonnx.wording import Message, Method, Option

if TYPE_CHECKING:
    from tokenizers import Encoding

    from bertonnx.runtime.session.session import Feeds

__all__ = [
    "POOLING_MASK",
    "Array",
    "Decoder",
    "Encoded",
    "Item",
    "Outputs",
    "Piece",
    "Row",
    "as_rows",
    "attention_mask",
    "by_text",
    "feeds_of",
    "feeds_together",
    "once_for_all",
    "pooling_mask",
    "require_single",
]

POOLING_MASK = "pooling_mask"
"""The input of graphs whose pooling leaves prompts out (`Card.pooled_prompt` is false)."""

Array = npt.NDArray[np.float32]
Outputs = Mapping[str, Array]
Item = dict[str, Any]
"""The fields of one output line, without `row`; floats are exact float32 values."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One input: a text, and where the task takes two, its pair (a question and its context).

    Attributes:
        text: as it was given; the prompt is not in it.
        pair: the second text.
        prompt: name of the prompt that is put before the text; None for the model's default, "" for none.
    """

    text: str
    pair: str | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One input of the graph: a whole row, or one window of a row that is too long.

    Attributes:
        ids: token ids, int64 of shape (sequence_length,).
        type_ids: segment ids, int64 of shape (sequence_length,).
        encoding: the tokenizer's record: offsets (code points into the prompt and the row's text), word
            ids, sequence ids, special tokens.
        prompt: how many tokens at its beginning are the prompt's, with the special tokens before it.
        unseen: how many tokens at its end the others do not attend to.
    """

    ids: npt.NDArray[np.int64]
    type_ids: npt.NDArray[np.int64]
    encoding: Encoding
    prompt: int = 0
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenized row: one piece, or its windows in order of the text."""

    row: Row
    pieces: tuple[Piece, ...]
    truncated: bool = False


class Decoder(Protocol):
    """Turns one row's outputs into an item. One small class a task; pure NumPy, no state.

    `keep` runs beside the model, right after a batch, once for each piece; what it returns must
    not hold on to the batch's arrays. `decode` runs later, once for each row.
    """

    @property
    def fetch(self) -> tuple[str, ...]:
        """Names of the graph's outputs that `keep` needs."""
        ...

    def keep(self, piece: Piece, outputs: Outputs) -> Any:
        """Return what `decode` needs of one piece; `outputs` have no batch dimension."""
        ...

    def decode(self, encoded: Encoded, kept: Sequence[Any]) -> Item:
        """Return the row's item from what was kept of its pieces, in their order.

        Raises:
            RowError: this row cannot be decoded.
        """
        ...


def feeds_of(pieces: Sequence[Piece], inputs: Sequence[str]) -> Feeds:
    """Return what a graph takes of pieces of one length, which therefore need no padding.

    Args:
        pieces: at least one.
        inputs: names of the graph's inputs, of `input_ids`, `attention_mask`, `token_type_ids` and
            `pooling_mask`.

    Returns:
        int64 arrays of shape (pieces, sequence_length), by the names of the inputs.
    """
    ids = np.stack([piece.ids for piece in pieces])
    feeds = {"input_ids": ids}
    if "attention_mask" in inputs:
        feeds["attention_mask"] = attention_mask(pieces)
    if "token_type_ids" in inputs:
        feeds["token_type_ids"] = np.stack([piece.type_ids for piece in pieces])
    if POOLING_MASK in inputs:
        feeds[POOLING_MASK] = pooling_mask(pieces)
    return feeds


def feeds_together(pieces: Sequence[Piece], inputs: Sequence[str]) -> Feeds:
    """Return what a graph takes of pieces of several lengths, those of equal length side by side.

    Args:
        pieces: at least one, of which all tokens are attended to.
        inputs: as in `feeds_of`.

    Returns:
        int64 arrays of shape (1, tokens of all pieces), by the names of the inputs.
    """
    parts = [feeds_of([piece], inputs) for piece in pieces]
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def by_text(array: Array, dimensions: Sequence[str], lengths: Sequence[int]) -> Array | list[Array]:
    """Return an output of texts of several lengths that ran as one batch, for each of them.

    Args:
        array: of shape (1, tokens of all texts, ...) where the output has numbers of every token, else
            (texts, ...).
        dimensions: the output's, as in `Task.outputs`.
        lengths: tokens of each text.
    """
    return np.split(array[0], np.cumsum(lengths)[:-1]) if "tokens" in dimensions else array


def attention_mask(pieces: Sequence[Piece]) -> npt.NDArray[np.int64]:
    """Return 1 for tokens that others attend to, 0 for those that fill a query up; as `pooling_mask`."""
    ones = np.ones((len(pieces), len(pieces[0].ids)), dtype=np.int64)
    for row, piece in zip(ones, pieces, strict=True):
        row[len(row) - piece.unseen :] = 0
    return ones


def pooling_mask(pieces: Sequence[Piece]) -> npt.NDArray[np.int64]:
    """Return 0 for the tokens of prompts and 1 for all others, int64 of shape (pieces, sequence_length).

    As sentence-transformers (`Pooling` with `include_prompt=False`), which leaves the special tokens before
    a prompt out as well. Where a text has no prompt, all its tokens count.
    """
    places = np.arange(len(pieces[0].ids))
    return (places >= np.array([[piece.prompt] for piece in pieces])).astype(np.int64)


def as_rows(texts: Iterable[object], pairs: Iterable[object] | None = None) -> Iterator[Row | RowError]:
    """Yield a row for every text; what is not valid text becomes a `RowError` in its place."""
    if pairs is None:
        for text in texts:
            yield _row(text, None, has_pair=False)
        return
    for text, pair in zip(texts, pairs, strict=True):
        yield _row(text, pair, has_pair=True)


def _row(text: object, pair: object, *, has_pair: bool) -> Row | RowError:
    for value in (text, pair) if has_pair else (text,):
        if value is None:
            return RowError("missing-text", "there is no text in this row (null)")
        if not isinstance(value, str):
            return RowError(
                "invalid-text", "a text is expected, and this is {kind}", kind=type(value).__name__
            )
        # A flag of the string; only what may hold a surrogate is searched.
        if not value.isascii() and _SURROGATE.search(value):
            return RowError("invalid-text", "the text holds a lone surrogate, which is not valid Unicode")
    return Row(str(text), str(pair) if has_pair else None)


def require_single(card: Card, given: Option) -> None:
    """Refuse second texts for a model that reads single ones.

    Args:
        card: of the model.
        given: the option by which they are given.

    Raises:
        UsageError: naming it.
    """
    if card.takes_pair:
        return
    owners = [row.name for row in TASKS if row.pairs != "never"]
    if card.task in owners:
        raise UsageError(
            "{asked} gives second texts, and this model was trained for {task} of single ones; leave it out",
            asked=given,
            task=card.task,
        )
    raise UsageError(
        "{asked} gives second texts, which are for {owners}, and this model is for {task}; leave it out",
        asked=given,
        owners=", ".join(owners),
        task=card.task,
    )


def once_for_all(card: Card, task: str | None = None) -> Message:
    """Return the end of a message that second texts are missing: the method that takes them once for all."""
    methods = [Method(use.method) for use in card.row(task).uses]
    return Message(", or call {method}", method=methods[0]) if methods else Message("")
