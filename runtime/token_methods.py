"""The methods of `bertonnx.Model` that are about tokens, over results that come from anywhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bertonnx.errors import RowError
from bertonnx.models.tasks import served
from bertonnx.runtime.methods import Methods, in_row, listed
from bertonnx.runtime.rows import Encoded, Item

if TYPE_CHECKING:
    from bertonnx.runtime.decoders.tokens import Pooled, TokenOptions

__all__ = ["TokenMethods"]


class TokenMethods(Methods):
    """Vectors of tokens, and how a text reaches the model."""

    @abstractmethod
    def _token_results(self, texts: Sequence[str], asked: TokenOptions) -> Iterator[Item | RowError]:
        """Return the vectors of each text's tokens, in order; an error stands in place of a failed row's.

        Args:
            texts: the texts, a list or tuple.
            asked: of which tokens.

        Raises:
            BertonnxError: nothing can be answered.
        """

    @abstractmethod
    def _encoded(
        self, texts: Sequence[str], pairs: Sequence[str] | None, prompt: str | None
    ) -> Iterator[Encoded | RowError]:
        """Return how each text reaches the model, in order; an error stands in place of a failed row's."""

    def embed_tokens(
        self, texts: Sequence[str], *, layer: int = -1, words: Pooled | None = None, prompt: str | None = None
    ) -> list[Item]:
        """Return one dict for each text: `tokens`, `offsets` and `vectors`, special tokens included.

        Of a model with many vectors for a text (ColBERT, bge-m3) the vectors are those that it compares, of
        the tokens that count; of others transformers' `hidden_states[layer]`. They are float32 of shape
        (tokens, width). `offsets` are pairs of code points, half open, into the text; (0, 0) for special
        tokens and those of a prompt.

        Args:
            texts: the texts.
            layer: -1 for the last one, which every file of embeddings holds; others where the file was
                exported with `hidden_states`: 0 is what enters the first layer, and negative numbers count
                from the last.
            words: give words in place of tokens (`words` in place of `tokens`), as the tokenizer splits a
                text before it looks for tokens; a word's vector is the "mean", "first", "last" or "max" of
                its tokens'. Special tokens are then left out.
            prompt: as `embed`.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: the file does not hold the layer, or there is no such pooling or prompt.
        """
        from bertonnx.runtime.decoders.tokens import TokenOptions

        asked = TokenOptions(layer=layer, words=words, prompt=prompt)
        self._require_tokens(asked)
        return self._tokens(listed(texts), asked)

    def token_results(self, texts: Sequence[str], asked: TokenOptions) -> Iterator[Item | RowError]:
        """Return what `embed_tokens` does, with an error in place of a text that failed.

        Raises:
            TaskError: the model's task is another.
            UsageError: the file does not hold the layer, or there is no such prompt.
        """
        self._require_tokens(asked)
        return self._token_results(listed(texts), asked)

    def tokenize(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, prompt: str | None = None
    ) -> list[Encoded]:
        """Return how each text reaches the model: ids, segments and offsets, cut or in windows.

        Raises:
            RowError: a text failed; its place is in the message.
            UsageError: there is no such prompt.
        """
        return [_good(place, row) for place, row in enumerate(self._encoded(listed(texts), pairs, prompt))]

    def _require_tokens(self, asked: TokenOptions) -> None:
        called = "embed_tokens"
        self.required(called if self._compares_tokens(asked) else "embed", said=called)

    def _compares_tokens(self, asked: TokenOptions) -> bool:
        """Return whether the vectors are those of a head that compares tokens.

        Such a head is what vectors of tokens are asked of; the layers of its encoder have numbers.
        """
        rows = served(self.card.task, self.card.also)
        usual = asked.layer == -1 and asked.words is None
        return usual and any("embed_tokens" in row.methods for row in rows)

    def _tokens(self, texts: Sequence[str], asked: TokenOptions) -> list[Item]:
        items = [_good(place, item) for place, item in enumerate(self._token_results(texts, asked))]
        if cut := sum("truncated" in item for item in items):
            self._say_cut(cut, len(texts))
        return items


def _good(place: int, result: Any) -> Any:
    if isinstance(result, RowError):
        raise in_row(place, result) from result
    return result
