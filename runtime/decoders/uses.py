"""What else a model is used for than to answer each row by itself: the uses of tasks (`models.tasks.Use`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.runtime.decoders import DecoderContext, require_options
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Decoder, Encoded, Item, Row
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Answers", "Run", "Running", "use_of"]

Answers = Generator[Item | RowError, None, None]
Run = Callable[[Iterable[Row | Encoded | RowError], Decoder], Answers]


@dataclass(frozen=True)
class Running:
    """What a use has of an open model.

    Attributes:
        card: of the model.
        tokenizer: of the model.
        options: what the user chose; the option that asks for the use is among them.
        run: `(rows, decoder)`: yields one result for each row, in order, reading only a bounded number of
            rows ahead. A row may be tokenized already.
    """

    card: Card
    tokenizer: TextTokenizer
    options: DecodeOptions
    run: Run

    @property
    def context(self) -> DecoderContext:
        """What the task's own decoder is made of."""
        return DecoderContext(self.card, self.tokenizer, self.options)


Use = Callable[[Running, Iterable[Row | RowError]], Answers]


def use_of(card: Card, options: DecodeOptions) -> Use | None:
    """Return the use that the options ask for; None where each row is answered by itself.

    Raises:
        UsageError: an option is of other tasks.
    """
    require_options(card, options)
    for use in card.row(options.task).uses:
        if use.option in options.changed:
            answers: Use = resolve(use.answers)
            return answers
    return None
