"""A text with each of many second texts: the same tokens as when each pair is tokenized by itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.hard_texts import HARD_TEXTS
from bertonnx.runtime.pairing import Pairing
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.corpus import SENTENCES
from tests.tokenizers_zoo import KINDS, bpe, unigram, wordpiece

MADE = {"wordpiece": wordpiece, "bpe": bpe, "unigram": unigram}
SECONDS = [
    *[text for text in SENTENCES if len(text) < 40][:20],
    "a",
    "[SEP]</s> [MASK] <mask>",
    "火星は赤い 🔴",
    "  spaces\tand\nlines  ",
    "x" * 30,
]
TEXTS = [
    *SENTENCES[20:40],
    "a",
    "",
    " ",
    "[CLS] <s> [SEP]",
    "e\u0301 ﬁ Ⅳ",
    "word " * 100,
    "🔴",
    " ".join(SENTENCES[:9]),
]


def tokenizer_of(kind: str, **options: Any) -> tuple[TextTokenizer, Card]:
    side = options.pop("side", "right")
    card = Card("text-classification", "bert", 96, ("input_ids",), ("logits",), truncation_side=side)
    return TextTokenizer(MADE[kind]().to_str(), card, **options), card


def assert_same(made: Encoded, wanted: Encoded) -> None:
    assert made.row == wanted.row
    assert made.truncated == wanted.truncated
    assert len(made.pieces) == len(wanted.pieces)
    for mine, theirs in zip(made.pieces, wanted.pieces, strict=True):
        assert mine.ids.tolist() == theirs.ids.tolist()
        assert mine.type_ids.tolist() == theirs.type_ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("long_text", ["truncate", "stride"])
def test_as_pairs(kind: str, side: str, long_text: Any) -> None:
    tokenizer, card = tokenizer_of(kind, side=side, long_text=long_text)
    pairing = Pairing(tokenizer, card, SECONDS)
    assert pairing._composes
    several = cut = 0
    for text in [*TEXTS, *HARD_TEXTS]:
        made = pairing.of(Row(text))
        assert not isinstance(made, RowError)
        for second, found in zip(SECONDS, made, strict=True):
            wanted = tokenizer.encode_first_cut(Row(text, second))
            assert isinstance(wanted, Encoded)
            assert_same(found, wanted)
            several += len(found.pieces) > 1
            cut += found.truncated
    assert (several > 0, cut > 0) == (long_text == "stride", long_text == "truncate")


def test_what_is_cut_is_the_first_text_alone() -> None:
    """As `truncation="only_first"` of transformers."""
    tokenizer, card = tokenizer_of("wordpiece")
    theirs: Tokenizer = wordpiece()
    theirs.no_padding()
    theirs.enable_truncation(96, strategy="only_first")
    made = Pairing(tokenizer, card, SECONDS).of(Row("word " * 100))
    assert not isinstance(made, RowError)
    for second, found in zip(SECONDS, made, strict=True):
        assert found.pieces[0].ids.tolist() == theirs.encode("word " * 100, second).ids


def test_a_tokenizer_whose_pairs_are_not_put_together_so() -> None:
    """The second text stands first: each pair is tokenized by itself, and only the text is cut."""
    data = json.loads(wordpiece().to_str())
    special = {
        name: {"id": name, "ids": [place], "tokens": [name]} for place, name in ((2, "[CLS]"), (3, "[SEP]"))
    }
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in special)
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [cls, first, sep],
        "pair": [cls, second, sep, first, sep],
        "special_tokens": special,
    }
    card = Card("text-classification", "bert", 96, ("input_ids",), ("logits",))
    tokenizer = TextTokenizer(json.dumps(data), card)
    pairing = Pairing(tokenizer, card, SECONDS)
    assert not pairing._composes
    for text in ("Mars is red.", "word " * 100):
        made = pairing.of(Row(text))
        assert not isinstance(made, RowError)
        for label, found in zip(SECONDS, made, strict=True):
            wanted = tokenizer.encode_first_cut(Row(text, label))
            assert isinstance(wanted, Encoded)
            assert_same(found, wanted)
            assert len(found.pieces[0].ids) <= 96


def test_a_huge_text_is_not_read_whole() -> None:
    tokenizer, card = tokenizer_of("wordpiece")
    found = []
    for text in ("word " * 100_000, "word " * 1000):
        made = Pairing(tokenizer, card, ["tea"]).of(Row(text))
        assert not isinstance(made, RowError)
        found += [*made]
    assert np.array_equal(found[0].pieces[0].ids, found[1].pieces[0].ids)
    assert len(found[0].pieces[0].encoding) < 2000


def test_errors() -> None:
    tokenizer, card = tokenizer_of("wordpiece", long_text="error")
    result = Pairing(tokenizer, card, ["a", "tea tea tea"]).of(Row("word " * 60))
    assert isinstance(result, RowError)
    assert result.kind == "too-long"
    with pytest.raises(UsageError, match=r"leaves no room for a text \(the model takes 96\); shorten it"):
        Pairing(tokenizer, card, ["a", "tea " * 90])
