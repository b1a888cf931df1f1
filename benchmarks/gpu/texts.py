"""Texts of known lengths, as many as a GPU needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tokenizers import Tokenizer

from peers.texts import LONGEST, SHORTEST_PASSAGE, source

__all__ = ["exactly", "mixed", "passages"]


def passages(count: int, tokenizer: Tokenizer) -> list[str]:
    """Return texts of 8 to 512 tokens, every length as likely."""
    shortest, above = SHORTEST_PASSAGE, LONGEST + 1
    return mixed(count, tokenizer, lengths=lambda dice: int(dice.integers(shortest, above)))


def exactly(tokens: int, count: int, tokenizer: Tokenizer) -> list[str]:
    """Return texts of so many tokens each."""
    return mixed(count, tokenizer, lengths=lambda _: tokens)


def mixed(count: int, tokenizer: Tokenizer, *, lengths: Callable[[np.random.Generator], int]) -> list[str]:
    """Return different texts of so many tokens each, special tokens included.

    Words are tokenized one by one, so a text's length is the sum of its words'.
    """
    dice = np.random.default_rng(0)
    words = np.array(" ".join(source()[1]).split())
    known = {word: len(tokenizer.encode(word, add_special_tokens=False).ids) for word in set(words.tolist())}
    sizes = np.array([known[word] for word in words.tolist()])
    words, sizes = np.concatenate([words, words]), np.concatenate([sizes, sizes])
    ends = np.cumsum(sizes)
    texts: dict[str, None] = {}
    while len(texts) < count:
        length = lengths(dice) - 2
        start = int(dice.integers(len(words) // 2))
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + length, side="right"))
        missing = length - (int(ends[stop - 1]) - before if stop > start else 0)
        texts[" ".join([*words[start:stop].tolist(), *["the"] * missing])] = None
    return list(texts)
