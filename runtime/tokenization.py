"""Text to token ids, with the tokenizer that lies in the model file."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from bertonnx.errors import ModelFileError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.options import LongText
from bertonnx.runtime.rows import Encoded, Piece, Row
from bertonnx.wording import Option

__all__ = ["SubwordRule", "TextTokenizer", "stripped", "subword_rule"]

_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""transformers' `PreTrainedTokenizerBase.clean_up_tokenization`, in its order."""


_CHARACTERS_PER_TOKEN = 200
"""Of a text with more characters than this for each token that the model takes, the rest is not read."""

_MARGIN = 64
"""Tokens behind the cut that must be there as well, so that the cut cannot have changed what counts."""


_LEAST_ROOM = 2
"""Tokens of the text that a window must have beside the prompt."""

_UNKNOWN_TOKENS = ("[UNK]", "<unk>")


@dataclass(frozen=True)
class SubwordRule:
    """How a token is known to continue the word before it.

    Attributes:
        has_prefix: the tokenizer marks such tokens ("##ing"), so that they are longer than their text.
            Without a mark, a token continues a word where no space is before it or at its start.
        unknown_id: id of the unknown token, which always begins a word; None where there is none.
    """

    has_prefix: bool
    unknown_id: int | None = None


def subword_rule(tokenizer_json: str) -> SubwordRule:
    """Read the rule from the text of a `tokenizer.json`."""
    data = json.loads(tokenizer_json)
    model = data["model"]
    return SubwordRule(bool(model.get("continuing_subword_prefix")), _unknown_id(data, model))


@dataclass(frozen=True)
class _Prompt:
    """What is put before a text.

    Attributes:
        text: it, empty for no prompt.
        tokens: `Piece.prompt`.
    """

    text: str
    tokens: int


class TextTokenizer:
    """Tokenizes rows as the checkpoint's own tokenizer does. Stateless, so safe in several threads.

    Args:
        text: the text of a `tokenizer.json`; its padding and truncation are not used.
        card: says the longest input, the truncation side, and what happens to a text first.
        max_length: a shorter limit than the card's, in tokens, special tokens included.
        long_text: what happens to a longer row: it is cut ("truncate"), read in overlapping
            windows ("stride"), or fails with a `RowError` ("error"). A prompt is in every window.
        stride: tokens that neighbouring windows share; default as Hugging Face's question
            answering, half of `max_length`, at most 128.

    Raises:
        ModelFileError: the text is not a tokenizer.
        UsageError: `max_length` is longer than the model's, or leaves no room for text.
    """

    def __init__(
        self,
        text: str,
        card: Card,
        *,
        max_length: int | None = None,
        long_text: LongText = "truncate",
        stride: int | None = None,
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelFileError(
                "the tokenizer in the model file cannot be read: {error}", error=str(error)
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._card = card
        self._task = task_named(card.task)
        self.long_text = long_text
        self.max_length = self._limit(max_length)
        self._longest = _CHARACTERS_PER_TOKEN * self.max_length
        if self._card.truncation_side == "left":
            self._longest = sys.maxsize  # the end is what counts
        self._stride = min(self.max_length // 2, 128) if stride is None else stride
        self._shortening = lru_cache(maxsize=4)(self._make_shortening)
        # A few names, which rows repeat by the thousand.
        self._prompt = lru_cache(maxsize=16)(self._make_prompt)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | RowError]:
        """Tokenize rows; the results are in their order, with an error in place of a failed row.

        Raises:
            UsageError: a row asks for a prompt that the model has not.
        """
        read = [self._foreshortened(row) for row in rows]
        whole = self._encode(self._tokenizer, read)
        for i, encoding in enumerate(whole):
            if read[i] is not rows[i] and len(encoding) < self.max_length + _MARGIN:
                read[i] = rows[i]
                whole[i] = self._encode(self._tokenizer, [rows[i]])[0]
        long = [i for i, encoding in enumerate(whole) if len(encoding) > self.max_length]
        results: list[Encoded | RowError] = [
            Encoded(row, (_piece(encoding, self._prompt(row.prompt)),))
            for row, encoding in zip(rows, whole, strict=True)
        ]
        if self.long_text == "error":
            for i in long:
                results[i] = RowError(
                    "too-long",
                    "the text has {tokens} tokens and the model takes {limit}; use {cut} or {read}",
                    tokens=len(whole[i]),
                    limit=self.max_length,
                    cut=Option("long_text", "truncate"),
                    read=Option("long_text", "stride"),
                )
        elif long:
            for i, result in zip(long, self._shorten([read[i] for i in long]), strict=True):
                results[i] = replace(result, row=rows[i]) if isinstance(result, Encoded) else result
        return results

    def decode_ids(self, ids: list[int], skip_special_tokens: bool) -> str:
        """Return the text of token ids, as transformers' `PreTrainedTokenizerFast.decode`."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        if self._card.clean_up_spaces:
            for spaced, clean in _CLEAN_UP:
                text = text.replace(spaced, clean)
        return text

    @cached_property
    def subwords(self) -> SubwordRule:
        """How this tokenizer marks the inside of words."""
        # Written out again when asked for: to keep the text would cost megabytes for each model.
        return subword_rule(self._tokenizer.to_str())

    def _foreshortened(self, row: Row) -> Row:
        """Return the beginning of a text of megabytes that will be cut to a few hundred tokens anyway.

        Cut where white space ends a word, and far behind the last token that counts, so that the
        tokens are the same; `encode` makes sure that there are enough of them.
        """
        if len(row.text) <= self._longest or self.long_text != "truncate" or row.pair is not None:
            return row
        space = row.text.find(" ", self._longest // 2, self._longest)
        return row if space < 0 else replace(row, text=row.text[:space])

    def _shorten(self, rows: list[Row]) -> list[Encoded | RowError]:
        windows = self.long_text == "stride"
        results = {
            k: self._windows(row)
            for k, row in enumerate(rows)
            if windows and row.pair is None and self._prompt(row.prompt).text
        }
        for has_pair in (False, True):
            members = [
                k for k, row in enumerate(rows) if k not in results and (row.pair is not None) == has_pair
            ]
            if members:
                shortening = self._shortening(windows, has_pair)
                results |= zip(members, self._shortened([rows[k] for k in members], shortening), strict=True)
        return [results[k] for k in range(len(rows))]

    def _shortened(self, rows: list[Row], shortening: Tokenizer) -> list[Encoded | RowError]:
        try:
            encodings = self._encode(shortening, rows)
        except Exception as error:  # a question that alone fills the model
            if type(error) is not Exception:  # tokenizers raises the bare class
                raise
            if len(rows) > 1:
                return [result for row in rows for result in self._shortened([row], shortening)]
            return [self._no_room(rows[0])]
        return [self._parts(row, encoding) for row, encoding in zip(rows, encodings, strict=True)]

    def _windows(self, row: Row) -> Encoded | RowError:
        """Return the windows of a text, the prompt in each of them.

        The tokens are those of the prompt and the text together, and only then are the text's cut: by itself
        a text may begin with another token.
        """
        prompt = self._prompt(row.prompt)
        whole = self._encode(self._tokenizer, [row])[0]
        special = whole.special_tokens_mask
        first = end = _run_of_ones(special)
        last = len(whole) - _run_of_ones(special[::-1])
        # A token that is of both is the text's, for without it the text would lack its beginning.
        while end < last and whole.offsets[end][1] <= len(prompt.text):
            end += 1
        room = self.max_length - end - (len(whole) - last)
        if room < _LEAST_ROOM:
            return RowError(
                "too-long",
                "the prompt has {tokens} tokens and leaves no room to read a text in windows (the model "
                "takes {limit}); use {cut}",
                tokens=end - first,
                limit=self.max_length,
                cut=Option("long_text", "truncate"),
            )
        text = _part(whole, end, last)
        text.truncate(room, stride=min(self._stride, room // 2), direction=self._card.truncation_side)
        head, tail = _part(whole, 0, end), _part(whole, last, len(whole))
        parts = [[head, part, tail] for part in (text, *text.overflowing)]
        whole_parts = (Encoding.merge(part, growing_offsets=False) for part in parts)
        return Encoded(row, tuple(_piece(part, prompt) for part in whole_parts))

    def _no_room(self, row: Row) -> RowError:
        if row.pair is None:
            return RowError("too-long", "the text cannot be cut to {limit} tokens", limit=self.max_length)
        first, second = self._task.pair_names
        return RowError(
            "too-long",
            "the {first} has {tokens} tokens and leaves no room for the {second} (the model takes {limit}); "
            "shorten it",
            first=first,
            tokens=len(self._encode(self._tokenizer, [Row(row.text)])[0]),
            second=second,
            limit=self.max_length,
        )

    def _parts(self, row: Row, encoding: Encoding) -> Encoded:
        windows = self.long_text == "stride"
        parts = [encoding, *encoding.overflowing] if windows else [encoding]
        # tokenizers begins at the end that is kept.
        if self._card.truncation_side == "left":
            parts.reverse()
        prompt = self._prompt(row.prompt)
        pieces = tuple(_piece(part, prompt, one_segment=not any(encoding.type_ids)) for part in parts)
        return Encoded(row, pieces, truncated=not windows)

    def _encode(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Encoding]:
        inputs: list[str | tuple[str, str]] = []
        for row in rows:
            text = self._prompt(row.prompt).text + row.text
            inputs.append(text if row.pair is None else (text, row.pair))
        encodings: list[Encoding] = tokenizer.encode_batch(inputs)
        return encodings

    def _make_prompt(self, name: str | None) -> _Prompt:
        text = self._card.prompt_text(name)
        if not text:
            return _Prompt("", 0)
        # As sentence-transformers' `_get_prompt_length`: the prompt by itself, without the special token that
        # ends every text. With a text behind it, its last token may be another; it counts all the same.
        encoding: Encoding = self._tokenizer.encode(text)
        if len(encoding) > self.max_length:
            encoding = self._shortening(False, False).encode(text)
        added = self._tokenizer.get_added_tokens_decoder()
        special = encoding.ids[-1] in added and added[encoding.ids[-1]].special
        return _Prompt(text, len(encoding) - special)

    def _make_shortening(self, windows: bool, has_pair: bool) -> Tokenizer:
        # A second tokenizer, because truncation is state of the tokenizer and others may be using it.
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        second_only = has_pair and (windows or self._task.pair_is_cut)
        tokenizer.enable_truncation(
            self.max_length,
            stride=self._stride if windows else 0,
            strategy="only_second" if second_only else "longest_first",
            direction=self._card.truncation_side,
        )
        return tokenizer

    def _limit(self, max_length: int | None) -> int:
        limit = self._card.max_length
        if max_length is None:
            return limit
        if max_length > limit:
            raise UsageError(
                "{asked} is more than the model takes ({limit} tokens)",
                asked=Option("max_length", max_length),
                limit=limit,
            )
        least = self._tokenizer.num_special_tokens_to_add(is_pair=True) + 2
        if max_length < least:
            raise UsageError(
                "{asked} leaves no room for text; use at least {least}",
                asked=Option("max_length", max_length),
                least=least,
            )
        return max_length


def stripped(text: str) -> str:
    """Return a `tokenizer.json`'s text without its padding and truncation.

    Sentence-Transformers saves both (all-MiniLM-L6-v2 pads everything to 128 tokens).
    """
    data = json.loads(text)
    data["padding"] = data["truncation"] = None
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _unknown_id(data: dict[str, Any], model: dict[str, Any]) -> int | None:
    if isinstance(model.get("unk_id"), int):  # Unigram
        return int(model["unk_id"])
    added = {token["content"]: int(token["id"]) for token in data.get("added_tokens") or ()}
    # RoBERTa's tokenizer.json leaves the model's unknown token empty and lists it as an added one.
    for token in (model.get("unk_token"), *_UNKNOWN_TOKENS):
        if token in added:
            return added[token]
        if token in model["vocab"]:
            return int(model["vocab"][token])
    return None


def _run_of_ones(mask: Sequence[int]) -> int:
    """Return how many ones a mask begins with."""
    return next((place for place, one in enumerate(mask) if not one), len(mask))


def _part(encoding: Encoding, start: int, end: int) -> Encoding:
    """Return the tokens from `start` to `end` of an encoding, which stays as it is."""
    if start == end:
        return Encoding.merge([])
    part = Encoding.merge([encoding], growing_offsets=False)  # a copy
    for size, side in ((end, "right"), (end - start, "left")):
        # What the last cut takes away stays with it, as `overflowing`, and merging multiplies that. So the
        # last cut takes one token, and an encoding without any is what is cut off another.
        part.truncate(size + 1, direction=side)
        part.truncate(size, direction=side)
    twice = Encoding.merge([part, part], growing_offsets=False)
    twice.truncate(len(part))
    return twice.overflowing[0]


def _piece(encoding: Encoding, prompt: _Prompt, *, one_segment: bool = False) -> Piece:
    # tokenizers 0.22 gives the second text segment 1 in every window but the first, even where the
    # tokenizer knows one segment only (RoBERTa's), and such a model has no row for it.
    types = [0] * len(encoding) if one_segment else encoding.type_ids
    ids = np.array(encoding.ids, dtype=np.int64)
    return Piece(ids, np.array(types, dtype=np.int64), encoding, min(prompt.tokens, len(ids)))
