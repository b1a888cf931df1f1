"""A text with each of many second texts: what a tokenizer makes of the pairs, each text tokenized once.

A tokenizer reads the texts of a pair one by one, and puts its special tokens around what it found. So the
tokens of all pairs are those of a text and of a second text, put together. That it is so is checked: of every
second text with one first text, and of every first text with one second text. Where it is not, each pair is
tokenized by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Encoded, Piece, Row
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Pairing"]

Tokens = npt.NDArray[np.int64]
"""Ids and segments, of shape (2, number of tokens)."""

_AT_ONCE = 512
"""Second texts that are tokenized together: a record of the tokenizer takes kilobytes."""

_SAMPLE = "a"


@dataclass(frozen=True)
class _Parts:
    """The tokens of a pair in their parts: special ones before, between and behind the two texts."""

    before: Tokens
    first: Tokens
    between: Tokens
    second: Tokens
    behind: Tokens

    def around(self, other: _Parts) -> bool:
        """Say whether the special tokens are another's as well."""
        mine, theirs = ((parts.before, parts.between, parts.behind) for parts in (self, other))
        return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


class Pairing:
    """Makes the model's inputs of a text and each of several second texts. Only the text is ever cut.

    Args:
        tokenizer: of the model.
        card: of the model.
        seconds: the second texts, none twice; valid Unicode.

    Attributes:
        fixed: second text -> how many tokens of its pieces are not the text's.

    Raises:
        UsageError: a second text leaves no room for any text.
    """

    def __init__(self, tokenizer: TextTokenizer, card: Card, seconds: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._cut_left = card.truncation_side == "left"
        self._seconds = seconds
        self._parts: list[Tokens] = []
        self._around: _Parts | None = None
        self.fixed: dict[str, int] = {}
        self._composes = self._read()
        for second, fixed in self.fixed.items():
            if fixed >= tokenizer.max_length:
                raise UsageError(
                    "{second!r} has {tokens} tokens with the special ones, and leaves no room for a text "
                    "(the model takes {limit}); shorten it",
                    second=second,
                    tokens=fixed,
                    limit=tokenizer.max_length,
                )

    def of(self, row: Row) -> Iterator[Encoded] | RowError:
        """Return the text with each second text, in their order; or what is wrong with the text.

        Args:
            row: a text without a pair.
        """
        read = self._tokenizer.beginning(row)
        if isinstance(read, RowError):
            return read
        whole = self._whole(replace(read, pair=self._seconds[0]))
        if isinstance(whole, RowError):
            return whole
        parts = _parts_of(whole)
        composes = self._composes and parts is not None and self._is_like_all(parts)
        longest = len(whole) - self.fixed[self._seconds[0]] + max(self.fixed.values())
        if self._tokenizer.long_text == "error" and longest > self._tokenizer.max_length:
            return self._tokenizer.too_long(longest, whole_is_read=read is row)
        if composes and parts is not None:
            return self._composed(row, parts, whole)
        return self._each(row, read)

    def _read(self) -> bool:
        """Tokenize the second texts, and say whether they are the same behind any text."""
        composes = True
        for start in range(0, len(self._seconds), _AT_ONCE):
            rows = [Row(_SAMPLE, second) for second in self._seconds[start : start + _AT_ONCE]]
            for row, whole in zip(rows, self._tokenizer.whole(rows), strict=True):
                if isinstance(whole, RowError):
                    raise UsageError("{second!r}: {why}", second=row.pair, why=whole.message)
                self.fixed[row.pair or ""] = len(whole) - whole.sequence_ids.count(0)
                parts = _parts_of(whole)
                self._around = self._around or parts
                if parts is None or not self._fits(parts):
                    composes = False
                else:
                    self._parts.append(parts.second)
        return composes

    def _fits(self, parts: _Parts) -> bool:
        assert self._around is not None  # set by the first pair that has parts
        return parts.around(self._around) and np.array_equal(parts.first, self._around.first)

    def _is_like_all(self, parts: _Parts) -> bool:
        assert self._around is not None
        return parts.around(self._around) and np.array_equal(parts.second, self._parts[0])

    def _whole(self, row: Row) -> Encoding | RowError:
        return self._tokenizer.whole([row])[0]

    def _composed(self, row: Row, parts: _Parts, whole: Encoding) -> Iterator[Encoded]:
        for place, second in enumerate(self._seconds):
            room = self._tokenizer.max_length - self.fixed[second]
            windows, cut = self._windows(parts.first, room)
            behind = [parts.between, self._parts[place], parts.behind]
            made = (np.concatenate([parts.before, window, *behind], axis=1) for window in windows)
            pieces = tuple(Piece(tokens[0], tokens[1], whole) for tokens in made)
            yield Encoded(replace(row, pair=second), pieces, truncated=cut)

    def _windows(self, first: Tokens, room: int) -> tuple[list[Tokens], bool]:
        """Return a text's tokens, cut to the room that there is or in windows, and whether they were cut."""
        length = first.shape[1]
        if length <= room:
            return [first], False
        if self._tokenizer.long_text != "stride":
            return [first[:, length - room :] if self._cut_left else first[:, :room]], True
        step = room - min(self._tokenizer.stride, room // 2)
        starts = range(0, length - room + step, step)
        if self._cut_left:  # whole windows from the end that is kept, as tokenizers makes them
            ends = [length - start for start in starts]
            return [first[:, max(end - room, 0) : end] for end in reversed(ends)], False
        return [first[:, start : start + room] for start in starts], False

    def _each(self, row: Row, read: Row) -> Iterator[Encoded]:
        """Tokenize each pair by itself; one by one, since there may be thousands."""
        for second in self._seconds:
            result = self._tokenizer.encode_first_cut(replace(read, pair=second))
            assert not isinstance(result, RowError), "the same text was tokenized before"
            yield replace(result, row=replace(row, pair=second))


def _parts_of(whole: Encoding) -> _Parts | None:
    """Return the parts of a pair's tokens; None where its texts are not each in one place."""
    owners = np.array([-1 if owner is None else owner for owner in whole.sequence_ids], dtype=np.int64)
    tokens = np.array([whole.ids, whole.type_ids], dtype=np.int64).reshape(2, len(whole))
    firsts, seconds = np.flatnonzero(owners == 0), np.flatnonzero(owners == 1)
    # An empty text has no place of its own: what is before the other one may stand before it or behind.
    if not len(firsts) or not len(seconds):
        return None
    bounds = [firsts[0], firsts[-1] + 1, seconds[0], seconds[-1] + 1]
    if bounds[1] - bounds[0] != len(firsts) or bounds[3] - bounds[2] != len(seconds) or bounds[1] > bounds[2]:
        return None
    return _Parts(*np.split(tokens, bounds, axis=1))
