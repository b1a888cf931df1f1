"""A model that was trained and is no file yet: it answers as the file will."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.methods import Methods
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item, as_rows
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Candidate"]


class Candidate(Methods):
    """A graph with its card and tokenizer.

    Args:
        session: the graph.
        card: of it.
        tokenizer: of it.

    Attributes:
        cut: how many of the texts that it was last asked about were longer than it reads.
    """

    def __init__(self, session: Session, card: Card, tokenizer: TextTokenizer) -> None:
        row = task_named(card.task)
        self.card = card
        # What is measured is what the file answers where nobody says how long texts are read.
        self.tokenizer = tokenizer.reading(row.long_text, card.truncation_side)
        self.cut = 0
        self._engine = Engine(session, self.tokenizer, threads=allowed_cores(), outputs=row.outputs)

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens included."""
        return self.tokenizer.max_length

    def close(self) -> None:
        """Let the threads go."""
        self._engine.close()

    def _results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        decoder = decoder_for(DecoderContext(self.card, self.tokenizer, decode))
        return self._engine.map(as_rows(texts, pairs), decoder, soon=False)

    def _say_cut(self, cut: int, texts: int) -> None:  # noqa: ARG002
        # Whoever trains it says so, as something of the data: there is no call of a user's to warn about.
        self.cut = cut
