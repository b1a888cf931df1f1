"""Texts of unequal lengths that every export is tried on: parity, golden examples, fusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["batch_rows", "pair_rows", "prompted_rows", "sample_rows", "sided_rows", "with_tokens"]

# An empty text, other scripts, emoji, odd white space: where tokenizers and padding go wrong first.
_TEXTS = (
    "Ada Lovelace wrote the first program in London in 1843.",
    "No.",
    "",
    "The film is slow, but the last twenty minutes are worth every one of the eighty before them.",
    "Où est la gare ? Das weiß ich nicht; ¿y usted?",
    "北京是中国的首都。東京は日本の首都です。",
    "UPPER lower MiXeD 3.14159 +49-30-1234567 user@example.org 👩‍🔬🚀 naïve café",
    "tabs\tand  double  spaces, and a line\u2028separator",
    'She said: "It isn\'t here!" — and left (for good).',
)
_PAIRS = (
    ("Who wrote the first program?", "Ada Lovelace wrote the first program in London in 1843."),
    ("Where?", "The conference takes place in Kraków; the dinner, on Friday, in a salt mine near it."),
    ("Which city is the capital of Japan?", "東京は日本の首都です。 Kyoto was before."),
    ("Was it good?", "The film is slow, but the last twenty minutes are worth every one before them."),
)
_ALIKE = (
    "The old dog sleeps in the sun.",
    "The sun sleeps in the old dog.",
    "In the sun the old dog sleeps.",
    "The red car stops at the door.",
    "The door stops at the red car.",
    "At the door the red car stops.",
    "A new book lies on the desk.",
    "The tall man waits at the gate.",
)
"""Of many tokenizers as many tokens; of all those that are made of the same words."""

_LONG = "A long text goes on, and on, with clause after clause, until the model can take no more of it. "


def sample_rows(*, pairs: bool, mask_token: str | None, max_length: int) -> list[Row]:
    """Return rows of unequal lengths, the last longer than the model.

    Args:
        pairs: whether rows have a pair (question answering, pair classification).
        mask_token: of fill-mask: put into every text.
        max_length: the model's longest input in tokens.
    """
    # One repetition is over 15 tokens for any usual tokenizer; 512 tokens test a cut as well as 8192.
    long = _LONG * (min(max_length, 512) // 15 + 1)
    if pairs:
        return [*(Row(text, pair) for text, pair in _PAIRS), Row("What goes on?", long)]
    texts = [*_TEXTS, long]
    if mask_token is not None:
        texts = [_masked(text, mask_token) for text in texts]
    return [Row(text) for text in texts]


def with_tokens(rows: Sequence[Row], tokenizer: TextTokenizer) -> list[Row]:
    """Return the rows that are tokens at all: no model reads none.

    An empty text is none where the tokenizer puts no special ones around it.
    """
    read = zip(rows, tokenizer.encode(rows), strict=True)
    return [row for row, item in read if not isinstance(item, Encoded) or len(item.pieces[0].ids)]


def batch_rows(*, pairs: bool, mask_token: str | None) -> list[Row]:
    """Return rows of which several have as many tokens as each other; arguments as `sample_rows`."""
    texts = [text if mask_token is None else _masked(text, mask_token) for text in _ALIKE]
    if pairs:
        return [Row(text, _PAIRS[0][1]) for text in texts]
    return [Row(text) for text in texts]


def pair_rows() -> list[Row]:
    """Return two pairs of texts, for a model that reads segments and whose samples are single texts."""
    return [Row(text, pair) for text, pair in _PAIRS[:2]]


def prompted_rows(rows: Sequence[Row], prompts: Mapping[str, str]) -> list[Row]:
    """Return two of the rows with each prompt that has a text, whichever is the default one."""
    return [replace(row, prompt=name) for name, text in prompts.items() if text for row in rows[:2]]


def sided_rows(rows: Sequence[Row], sides: Iterable[str]) -> list[Row]:
    """Return the first rows and the last, which is the longest, as queries and as documents."""
    return [replace(row, prompt=name) for name in sides for row in (*rows[:4], rows[-1])]


def _masked(text: str, mask_token: str) -> str:
    words = text.split(" ")
    words[min(2, len(words) - 1)] = mask_token
    return " ".join(words)
