from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.masks import MaskDecoder, mask_decoder
from bertonnx.runtime.options import DecodeOptions, LongText
from bertonnx.runtime.rows import Encoded, Item, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.decoding import Checkpoint, tiny_checkpoint
from tests.tokenizers_zoo import KINDS, pretrained, wordpiece


def masked(text: str, mask: str, count: int) -> str:
    """Put `count` masks in the place of words, or in the middle of a text without spaces."""
    words = text.split(" ")
    if len(words) <= 2 * count:
        return text[: len(text) // 2] + mask * count + text[len(text) // 2 :]
    for k in range(count):
        words[(k * 5 + 3) % len(words)] = mask
    return " ".join(words)


@cache
def filler(kind: str) -> Checkpoint:
    """Return a model that remembers its outputs."""
    return tiny_checkpoint("fill-mask", kind)


def decoder_for(checkpoint: Checkpoint, top_k: int) -> MaskDecoder:
    tokenizer = checkpoint.tokenizer
    backend = tokenizer.backend_tokenizer

    def decode_ids(ids: list[int], skip_special_tokens: bool) -> str:
        return str(backend.decode(ids, skip_special_tokens=skip_special_tokens))

    mask, mask_id, pad_id = tokenizer.mask_token, tokenizer.mask_token_id, tokenizer.pad_token_id
    return MaskDecoder(mask, mask_id, pad_id, decode_ids, top_k)


def as_item(expected: list[Any]) -> Item:
    lists = expected if isinstance(expected[0], list) else [expected]
    return {
        "masks": [
            [
                {
                    "token": candidate["token_str"],
                    "token_id": candidate["token"],
                    "score": pytest.approx(candidate["score"], abs=1e-6),
                    "sequence": candidate["sequence"],
                }
                for candidate in candidates
            ]
            for candidates in lists
        ]
    }


@pytest.mark.parametrize(("count", "top_k"), [(1, 5), (1, 1), (3, 5), (2, 40)])
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_the_pipelines(kind: str, count: int, top_k: int) -> None:
    checkpoint = filler(kind)
    pipeline = checkpoint.pipeline(top_k=top_k, tokenizer_kwargs={"truncation": True})
    decoder = decoder_for(checkpoint, top_k)
    texts = [masked(text, decoder.mask_token, count) for text in (*SENTENCES, *PARAGRAPHS)]
    best = set()
    for text, encoded in zip(texts, checkpoint.encode([Row(text) for text in texts]), strict=True):
        item = checkpoint.decode(decoder, encoded)
        assert item == as_item(pipeline(text))
        best |= {candidates[0]["token_id"] for candidates in item["masks"]}
    assert len(texts) > 100
    assert len(best) > 10


# Hand-made logits

TOKENIZER = wordpiece()
MASK_ID = TOKENIZER.token_to_id("[MASK]")


def decode_ids(ids: list[int], skip_special_tokens: bool) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=skip_special_tokens))


def make(top_k: int = 2) -> MaskDecoder:
    return MaskDecoder("[MASK]", MASK_ID, TOKENIZER.token_to_id("[PAD]"), decode_ids, top_k)


def read(text: str, *, max_length: int = 128, long_text: LongText = "truncate") -> Encoded:
    card = Card("fill-mask", "bert", max_length, inputs=(), outputs=())
    tokenizer = TextTokenizer(TOKENIZER.to_str(), card, long_text=long_text)
    (encoded,) = tokenizer.encode([Row(text)])
    assert isinstance(encoded, Encoded)
    return encoded


def logits_for(token: str, length: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    logits = np.zeros((length, TOKENIZER.get_vocab_size()), dtype=np.float32)
    logits[:, TOKENIZER.token_to_id(token)] = 20
    return {"logits": logits}


def test_one_mask() -> None:
    encoded = read("the [MASK] of")
    decoder = make()
    logits = logits_for("in", 5)
    item = decoder.decode(encoded, [decoder.keep(encoded.pieces[0], logits)])
    first, second = item["masks"][0]
    assert (first["token"], first["token_id"]) == ("in", TOKENIZER.token_to_id("in"))
    assert first["sequence"] == "the in of"
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert second["token_id"] == 0  # all others are equal: the lowest id
    assert all(candidate["score"] == float(np.float32(candidate["score"])) for candidate in item["masks"][0])


def test_several_masks_show_each_other() -> None:
    encoded = read("[MASK] of [MASK]")
    decoder = make(1)
    item = decoder.decode(encoded, [decoder.keep(encoded.pieces[0], logits_for("in", 5))])
    sequences = [candidates[0]["sequence"] for candidates in item["masks"]]
    assert sequences == ["[CLS] in of [MASK] [SEP]", "[CLS] [MASK] of in [SEP]"]


def test_padding_is_left_out_of_the_sequence() -> None:
    encoded = read("[MASK] of [MASK]")
    decoder = make(1)
    item = decoder.decode(encoded, [decoder.keep(encoded.pieces[0], logits_for("[PAD]", 5))])
    (first,), (second,) = item["masks"]
    assert (first["token"], first["sequence"]) == ("[PAD]", "[CLS] of [MASK] [SEP]")
    assert second["sequence"] == "[CLS] [MASK] of [SEP]"


@pytest.mark.parametrize("pad", [None, "[SEP]"])
def test_only_a_token_that_is_named_for_padding_is_left_out(pad: str | None) -> None:
    checkpoint = copy(filler("wordpiece"))
    checkpoint.tokenizer = pretrained("wordpiece")
    checkpoint.tokenizer.pad_token = pad
    # The first id is one of text, as the one of "!" is in vocabularies without tokens of their own.
    checkpoint.model = copy(checkpoint.model)
    checkpoint.model.forward = towards(checkpoint.model.forward, 0)
    number = checkpoint.tokenizer.pad_token_id
    card = replace(
        checkpoint.card,
        mask_token="[MASK]",
        mask_token_id=checkpoint.tokenizer.mask_token_id,
        left_out_id=-1 if number is None else number,
    )
    tokenizer = TextTokenizer(checkpoint.tokenizer_json, card)
    decoder = mask_decoder(DecoderContext(card, tokenizer, DecodeOptions(top_k=3)))
    text = "[MASK] of [MASK]"
    (encoded,) = checkpoint.encode([Row(text)])
    item = checkpoint.decode(decoder, encoded)
    assert item == as_item(checkpoint.pipeline(top_k=3)(text))
    assert {candidates[0]["token"] for candidates in item["masks"]} == {"[PAD]"}
    assert all("[PAD]" in candidates[0]["sequence"] for candidates in item["masks"])


def towards(forward: Callable[..., Any], token: int) -> Callable[..., Any]:
    """Return a model's `forward` whose best candidate is always one token."""

    def changed(**inputs: Any) -> Any:
        made = forward(**inputs)
        made["logits"][..., token] += 100
        return made

    return changed


def test_top_k_ends_with_the_vocabulary() -> None:
    encoded = read("[MASK]")
    decoder = make(10_000)
    item = decoder.decode(encoded, [decoder.keep(encoded.pieces[0], logits_for("in", 3))])
    assert len(item["masks"][0]) == TOKENIZER.get_vocab_size()


def test_a_mask_is_taken_from_the_window_that_shows_most_around_it() -> None:
    encoded = read("a " * 10 + "[MASK] " + "b " * 10 + "[MASK]", max_length=14, long_text="stride")
    decoder = make(1)
    kept = [
        decoder.keep(piece, logits_for(token, 14))
        for piece, token in zip(encoded.pieces, ["in", "of", "the"], strict=True)
    ]
    places = [np.flatnonzero(piece.ids == MASK_ID).tolist() for piece in encoded.pieces]
    assert places == [[11], [6], [1, 12]]
    item = decoder.decode(encoded, kept)
    assert [candidates[0]["token"] for candidates in item["masks"]] == ["of", "the"]


def test_a_text_without_mask_is_told_what_to_write() -> None:
    encoded = read("the cat")
    decoder = make()
    with pytest.raises(RowError, match=r"no mask token in the text; write \[MASK\]") as caught:
        decoder.decode(encoded, [decoder.keep(encoded.pieces[0], logits_for("in", 4))])
    assert caught.value.kind == "no-mask"


def test_a_mask_that_was_cut_off_is_told_apart() -> None:
    encoded = read("a " * 20 + "[MASK]", max_length=10)
    with pytest.raises(RowError, match=r"\[MASK\] stands after the part .* use long_text='stride'"):
        make().decode(encoded, [make().keep(encoded.pieces[0], logits_for("in", 10))])
