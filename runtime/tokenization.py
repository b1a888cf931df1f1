"""Text to token ids, with the tokenizer that lies in the model file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from tokenizers import Encoding, Tokenizer

from bertonnx.errors import ModelFileError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.retrieval import Side
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.options import LongText
from bertonnx.runtime.rows import Encoded, Piece, Row
from bertonnx.runtime.sides import encoded_by_side, part_of
from bertonnx.runtime.subwords import SubwordRule, stripped, subword_rule
from bertonnx.runtime.tokenizers_seam import decoded, encoded, opened, twin
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
"""A text with more characters than this for each token of the limit is read whole only if it must be."""

_FIRST_READ = 8
"""Characters for each token that the model takes, of which the first try reads its beginning."""

_MARGIN = 64
"""Tokens behind the cut that must be there as well, so that the cut cannot have changed what counts."""

_MOST_CHARACTERS = 4_000_000
"""Of a text that must be read whole: tokenizers take up to 500 bytes for each."""

_LEAST_ROOM = 2
"""Tokens of the text that a window must have beside the prompt."""


@dataclass(frozen=True)
class _Prompt:
    """What is put before a text.

    Attributes:
        text: it, empty for no prompt.
        tokens: `Piece.prompt`.
    """

    text: str
    tokens: int


_NO_PROMPT = _Prompt("", 0)


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
        self._tokenizer = opened(text)
        # Reading them and making an array of them takes as long as all else that is done for a short text.
        probe = encoded(self._tokenizer, ["a"])[0]
        self._one_segment = isinstance(probe, Encoding) and not any(probe.type_ids)
        self._card = card
        self._task = task_named(card.task)
        self.long_text = long_text
        self.max_length = self._limit(max_length)
        self.stride = min(self.max_length // 2, 128) if stride is None else stride
        self._shortening = lru_cache(maxsize=8)(self._make_shortening)
        # A few names, which rows repeat by the thousand.
        self._prompt = lru_cache(maxsize=16)(self._make_prompt)
        self._side = lru_cache(maxsize=16)(self._make_side)

    def reading(self, long_text: LongText, side: str) -> TextTokenizer:
        """Return a tokenizer that differs in what happens to a longer row, and shares all else.

        Args:
            long_text: what happens to it.
            side: the end that is cut, "right" or "left".
        """
        other = copy.copy(self)
        other.long_text = long_text
        other._side = lru_cache(maxsize=16)(other._make_side)
        if side != self._card.truncation_side:
            other._card = replace(self._card, truncation_side=side)
            other._shortening = lru_cache(maxsize=8)(other._make_shortening)
        return other

    def encode(self, rows: Sequence[Row]) -> list[Encoded | RowError]:
        """Tokenize rows; the results are in their order, with an error in place of a failed row.

        Raises:
            UsageError: a row asks for a prompt that the model has not.
        """
        if self._card.late is not None and self._card.late.reads_sides:
            return encoded_by_side(rows, self._side)
        results: list[Encoded | RowError] = []
        long: list[tuple[int, Row, Encoding]] = []
        for row, (read, whole) in zip(rows, self._whole(rows), strict=True):
            if isinstance(whole, RowError):
                results.append(whole)
                continue
            if len(whole) > self.max_length:
                long.append((len(results), read, whole))
            plain = self._one_segment and row.pair is None
            results.append(Encoded(row, (_piece(whole, self._prompt(row.prompt), one_segment=plain),)))
        if self.long_text == "error":
            for i, read, whole in long:
                results[i] = self.too_long(len(whole), whole_is_read=read is rows[i])
        elif long:
            for (i, _, _), result in zip(long, self._shorten([part[1:] for part in long]), strict=True):
                results[i] = replace(result, row=rows[i]) if isinstance(result, Encoded) else result
        return results

    def spelled(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[Encoding | RowError]:
        """Return the tokens of whole texts, however long, with an error in place of one that failed."""
        results: list[Encoding | RowError] = []
        for text in texts:
            if len(text) > _MOST_CHARACTERS:
                results.append(self._too_many(len(text)))
            else:
                results += encoded(self._tokenizer, [text], add_special_tokens=add_special_tokens)
        return results

    def whole(self, rows: Sequence[Row]) -> list[Encoding | RowError]:
        """Return all tokens of rows, however many; `encode` cuts them."""
        return self._encode(self._tokenizer, rows)

    def beginning(self, row: Row) -> Row | RowError:
        """Return as much of a huge text as decides the tokens that are kept; other texts as they are."""
        if len(row.text) <= _CHARACTERS_PER_TOKEN * self.max_length:
            return row
        read, whole = self._bounded(row)
        return whole if isinstance(whole, RowError) else read

    def encode_first_cut(self, row: Row) -> Encoded | RowError:
        """Return how a pair reaches the model where only its first text is cut, or read in windows.

        The second one must leave room for at least one token.
        """
        (whole,) = self.whole([row])
        if isinstance(whole, RowError) or len(whole) <= self.max_length:
            return whole if isinstance(whole, RowError) else Encoded(row, (_piece(whole, _NO_PROMPT),))
        room = self.max_length - (len(whole) - whole.sequence_ids.count(0))
        windows = self.long_text == "stride"
        shortening = self._shortening(windows, True, min(self.stride, room // 2) if windows else 0, True)
        (encoding,) = self._encode(shortening, [row])
        return encoding if isinstance(encoding, RowError) else self._parts(row, encoding)

    def _make_side(self, name: str | None) -> tuple[Side, TextTokenizer]:
        """Return how texts with a prompt are read, and what tokenizes them before they are marked."""
        assert self._card.late is not None
        side = self._card.late.side(name, self._card.default_prompt)
        longest = min(self.max_length, side.max_length or self.max_length)
        other = copy.copy(self)
        other._card = replace(self._card, late=None)
        other.max_length = longest - (side.marker is not None)
        other.stride = min(other.max_length // 2, self.stride)
        # A query that is filled up to one length is cut to it as well, and is never read in windows.
        other.long_text = "truncate" if side.expanded and self.long_text == "stride" else self.long_text
        other._shortening = lru_cache(maxsize=8)(other._make_shortening)
        other._prompt = lru_cache(maxsize=16)(other._make_prompt)
        return replace(side, expanded=side.expanded and min(side.expanded, longest)), other

    def of_ids(self, ids: Sequence[int]) -> Encoded | RowError:
        """Return a text that comes as token ids, with or without the special tokens around them.

        Args:
            ids: the ids, as this tokenizer makes them.
        """
        (bare,) = encoded(self._tokenizer, ["a"])
        if isinstance(bare, RowError):
            return bare
        if not all(0 <= number < self._tokenizer.get_vocab_size() for number in ids):
            return RowError("invalid-text", "there are token ids that the model does not have")
        special = bare.special_tokens_mask
        head = bare.ids[: _run_of_ones(special)]
        tail = bare.ids[len(bare) - _run_of_ones(special[::-1]) :]
        inner = list(ids)
        # Clients send what a tokenizer made, and some of them made it without special tokens.
        end = len(inner) - len(tail)
        if end >= len(head) and (inner[: len(head)], inner[end:]) == (head, tail):
            inner = inner[len(head) : end]
        room = self.max_length - len(head) - len(tail)
        cut = len(inner) > room
        if cut and self.long_text == "error":
            return self.too_long(len(inner) + len(head) + len(tail), whole_is_read=True)
        if cut:
            inner = inner[:room] if self._card.truncation_side == "right" else inner[len(inner) - room :]
        whole = np.array([*head, *inner, *tail], dtype=np.int64)
        piece = Piece(whole, np.zeros_like(whole), bare)
        return Encoded(Row(""), (piece,), truncated=cut)

    def decode_ids(self, ids: list[int], skip_special_tokens: bool) -> str:
        """Return the text of token ids, as transformers' `PreTrainedTokenizerFast.decode`.

        Raises:
            RowError: the tokenizer fails on them.
        """
        text = decoded(self._tokenizer, ids, skip_special_tokens=skip_special_tokens)
        if self._card.clean_up_spaces:
            for spaced, clean in _CLEAN_UP:
                text = text.replace(spaced, clean)
        return text

    def token(self, number: int) -> str:
        """Return the token of an id; an id that the tokenizer does not know is shown as a number."""
        # A model's table of words may be padded to a round number, and those rows are no tokens.
        return self._tokenizer.id_to_token(number) or f"[{number}]"

    @cached_property
    def subwords(self) -> SubwordRule:
        """How this tokenizer marks the inside of words."""
        return subword_rule(self._tokenizer)

    def _whole(self, rows: Sequence[Row]) -> list[tuple[Row, Encoding | RowError]]:
        """Return each row, or as much of its beginning as is needed, and its tokens."""
        longest = _CHARACTERS_PER_TOKEN * self.max_length
        huge = {i for i, row in enumerate(rows) if len(row.text) + len(row.pair or "") > longest}
        others = iter(self._encode(self._tokenizer, [row for i, row in enumerate(rows) if i not in huge]))
        return [self._bounded(row) if i in huge else (row, next(others)) for i, row in enumerate(rows)]

    def _bounded(self, row: Row) -> tuple[Row, Encoding | RowError]:
        """Return as much of a huge text's beginning as decides the tokens that are kept, and its tokens.

        Two beginnings, one twice as long as the other, must give the same tokens up to the limit, and the
        shorter one many more besides, so that the cut cannot have changed what counts. Where a text never
        gives so many tokens, it is read whole, up to a size that memory allows.
        """
        size = _FIRST_READ * self.max_length
        cut = self.long_text != "stride" and row.pair is None and self._card.truncation_side == "right"
        while cut and 2 * size < min(len(row.text), _MOST_CHARACTERS):
            parts = [replace(row, text=row.text[:end]) for end in (size, 2 * size)]
            short, long = (self._encode(self._tokenizer, [part])[0] for part in parts)
            if isinstance(short, RowError) or isinstance(long, RowError):
                break
            if len(short) >= self.max_length + _MARGIN:
                if self._kept(short) == self._kept(long):
                    return parts[1], long
                size *= 2
            else:
                size *= 8
        characters = len(row.text) + len(row.pair or "")
        if characters > _MOST_CHARACTERS:
            return row, self._too_many(characters)
        return row, self._encode(self._tokenizer, [row])[0]

    def _too_many(self, characters: int) -> RowError:
        return RowError(
            "too-long",
            "the text has {characters} characters, and all of them would have to be read at once; the most "
            "is {most}: split it",
            characters=characters,
            most=_MOST_CHARACTERS,
        )

    def _kept(self, encoding: Encoding) -> tuple[list[int], list[tuple[int, int]]]:
        return encoding.ids[: self.max_length], encoding.offsets[: self.max_length]

    def too_long(self, tokens: int, *, whole_is_read: bool) -> RowError:
        """Return the error of a text with so many tokens, where long ones are errors."""
        return RowError(
            "too-long",
            "the text has {more}{tokens} tokens and the model takes {limit}; use {cut} or {read}",
            more="" if whole_is_read else "over ",
            tokens=tokens,
            limit=self.max_length,
            cut=Option("long_text", "truncate"),
            read=Option("long_text", "stride"),
        )

    def _shorten(self, members: Sequence[tuple[Row, Encoding]]) -> list[Encoded | RowError]:
        results: dict[int, Encoded | RowError] = {}
        same: dict[Tokenizer, list[int]] = {}
        for k, (row, whole) in enumerate(members):
            if self.long_text == "stride" and row.pair is None and self._prompt(row.prompt).text:
                results[k] = self._windows(row)
            elif (overlap := self._overlap(row, whole)) is None:
                results[k] = self._no_room(row, whole)
            else:
                shortening = self._shortening(self.long_text == "stride", row.pair is not None, overlap)
                same.setdefault(shortening, []).append(k)
        for shortening, group in same.items():
            rows = [members[k][0] for k in group]
            for k, row, encoding in zip(group, rows, self._encode(shortening, rows), strict=True):
                results[k] = (
                    self._no_room(row, members[k][1])
                    if isinstance(encoding, RowError)
                    else self._parts(row, encoding)
                )
        return [results[k] for k in range(len(members))]

    def _overlap(self, row: Row, whole: Encoding) -> int | None:
        """Return how many tokens windows of a row share, 0 where it is cut; None where no window has room.

        A long question leaves less room for its context than windows usually share, and tokenizers then
        panic, in transformers too. Here they share half of the room, rounded down to a power of two, since
        every number takes a tokenizer of its own.
        """
        if self.long_text != "stride":
            return 0
        special = sum(whole.special_tokens_mask)
        first = 0 if row.pair is None else whole.sequence_ids.count(0)
        room = self.max_length - special - first
        if room < _LEAST_ROOM:
            return None
        return self.stride if self.stride < room else 1 << ((room // 2).bit_length() - 1)

    def _windows(self, row: Row) -> Encoded | RowError:
        """Return the windows of a text, the prompt in each of them.

        The tokens are those of the prompt and the text together, and only then are the text's cut: by itself
        a text may begin with another token.
        """
        prompt = self._prompt(row.prompt)
        (whole,) = self._encode(self._tokenizer, [row])
        if isinstance(whole, RowError):
            return whole
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
        text = part_of(whole, end, last)
        text.truncate(room, stride=min(self.stride, room // 2), direction=self._card.truncation_side)
        head, tail = part_of(whole, 0, end), part_of(whole, last, len(whole))
        parts = [text, *text.overflowing]
        # tokenizers begins at the end that is kept.
        if self._card.truncation_side == "left":
            parts.reverse()
        merged = (Encoding.merge([head, part, tail], growing_offsets=False) for part in parts)
        return Encoded(row, tuple(_piece(part, prompt) for part in merged))

    def _no_room(self, row: Row, whole: Encoding) -> RowError:
        if row.pair is None:
            return RowError("too-long", "the text cannot be cut to {limit} tokens", limit=self.max_length)
        first, second = self._task.pair_names
        return RowError(
            "too-long",
            "the {first} has {tokens} tokens and leaves no room for the {second} (the model takes {limit}); "
            "shorten it",
            first=first,
            tokens=whole.sequence_ids.count(0),
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

    def _encode(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Encoding | RowError]:
        inputs: list[str | tuple[str, str]] = []
        for row in rows:
            text = self._prompt(row.prompt).text + row.text
            inputs.append(text if row.pair is None else (text, row.pair))
        return encoded(tokenizer, inputs)

    def _make_prompt(self, name: str | None) -> _Prompt:
        text = self._card.prompt_text(name)
        if not text:
            return _Prompt("", 0)
        # As sentence-transformers' `_get_prompt_length`: the prompt by itself, without the special token that
        # ends every text. With a text behind it, its last token may be another; it counts all the same.
        (encoding,) = encoded(self._tokenizer, [text])
        if not isinstance(encoding, RowError) and len(encoding) > self.max_length:
            (encoding,) = encoded(self._shortening(False, False, 0), [text])
        if isinstance(encoding, RowError):
            raise ModelFileError("the model's prompt: {why}", why=encoding.message)
        added = self._tokenizer.get_added_tokens_decoder()
        special = encoding.ids[-1] in added and added[encoding.ids[-1]].special
        return _Prompt(text, len(encoding) - special)

    def _make_shortening(self, windows: bool, has_pair: bool, overlap: int, first: bool = False) -> Tokenizer:
        # A second tokenizer, because truncation is state of the tokenizer and others may be using it.
        tokenizer = twin(self._tokenizer)
        second_only = has_pair and (windows or self._task.pair_is_cut)
        tokenizer.enable_truncation(
            self.max_length,
            stride=overlap,
            strategy="only_first" if first else "only_second" if second_only else "longest_first",
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


def _run_of_ones(mask: Sequence[int]) -> int:
    """Return how many ones a mask begins with."""
    return next((place for place, one in enumerate(mask) if not one), len(mask))


def _piece(encoding: Encoding, prompt: _Prompt, *, one_segment: bool = False) -> Piece:
    # tokenizers 0.22 gives the second text segment 1 in every window but the first, even where the
    # tokenizer knows one segment only (RoBERTa's), and such a model has no row for it.
    ids = np.array(encoding.ids, dtype=np.int64)
    types = np.zeros_like(ids) if one_segment else np.array(encoding.type_ids, dtype=np.int64)
    return Piece(ids, types, encoding, min(prompt.tokens, len(ids)))
