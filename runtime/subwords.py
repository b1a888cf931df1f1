"""What a `tokenizer.json` says of the inside of words, and its text without what is not used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenizers import Tokenizer
from tokenizers.models import Unigram

__all__ = ["SubwordRule", "stripped", "subword_rule"]

_UNKNOWN_TOKENS = ("[UNK]", "<unk>")


@dataclass(frozen=True)
class SubwordRule:
    """How a token is known to continue the word before it.

    Attributes:
        has_prefix: the tokenizer marks such tokens ("##ing"), so that they are longer than their text.
            Without a mark, a token continues a word where no space is before it or at its start.
        unknown_id: id of the unknown token, which always begins a word; None or -1 where there is none.
        added: id of an added token -> how long it is; in an encoding it is what was typed, with the spaces
            that it took along.
    """

    has_prefix: bool
    unknown_id: int | None = None
    added: Mapping[int, int] = field(default_factory=dict, compare=False)


def subword_rule(tokenizer: Tokenizer) -> SubwordRule:
    """Return the rule of a tokenizer."""
    prefix = getattr(tokenizer.model, "continuing_subword_prefix", None)
    added = {number: len(token.content) for number, token in tokenizer.get_added_tokens_decoder().items()}
    return SubwordRule(bool(prefix), _unknown_id(tokenizer), added)


def stripped(text: str) -> str:
    """Return a `tokenizer.json`'s text without its padding and truncation.

    Sentence-Transformers saves both (all-MiniLM-L6-v2 pads everything to 128 tokens).
    """
    data = json.loads(text)
    data["padding"] = data["truncation"] = None
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    model = tokenizer.model
    if isinstance(model, Unigram):
        # Python has no name for it; what is written out says it.
        number = json.loads(tokenizer.to_str())["model"].get("unk_id")
        if number is not None:
            return int(number)
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    # RoBERTa's tokenizer.json leaves the model's unknown token empty and lists it as an added one.
    for token in filter(None, (getattr(model, "unk_token", None), *_UNKNOWN_TOKENS)):
        number = added.get(token)
        if number is None and not isinstance(model, Unigram):
            number = model.token_to_id(token)
        if number is not None:
            return int(number)
    return None
