"""Sparse embeddings out of the graph's outputs."""

from __future__ import annotations

import pickle

import numpy as np

from bertonnx.models.card import Card
from bertonnx.models.retrieval import SparseWeights
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.sparse import sparse_decoder
from bertonnx.runtime.io.columns import columns
from bertonnx.runtime.io.text import json_line
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Array, Encoded, Item, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import wordpiece

INPUTS = ("input_ids", "attention_mask")
CARD = Card("sparse-embedding", "bert", 16, INPUTS, ("sparse_embedding",), sparse=SparseWeights())
LONG = TextTokenizer(wordpiece().to_str(), CARD, long_text="stride")
SIZE = wordpiece().get_vocab_size()


def vector(**weights: float) -> Array:
    made = np.zeros(SIZE + 2, dtype=np.float32)
    for place, weight in weights.items():
        made[int(place[1:])] = weight
    return made


def decoded(card: Card, text: str, vectors: list[Array], top_k: int | None = None) -> Item:
    decoder = sparse_decoder(DecoderContext(card, LONG, DecodeOptions(top_k=top_k)))
    (row,) = LONG.encode([Row(text)])
    assert isinstance(row, Encoded)
    assert len(row.pieces) == len(vectors)
    kept = [
        decoder.keep(piece, {"sparse_embedding": one}) for piece, one in zip(row.pieces, vectors, strict=True)
    ]
    return decoder.decode(row, kept)


def test_the_heaviest_come_first_and_ties_by_id() -> None:
    words = decoded(CARD, "a b", [vector(_9=0.5, _7=0.5, _8=2.0, _300=1e-9)])["sparse"]
    assert words.ids.tolist() == [8, 7, 9, 300]
    assert (words.ids.dtype, words.weights.dtype) == (np.int64, np.float32)
    tokenizer = wordpiece()
    assert list(words) == [tokenizer.id_to_token(number) for number in (8, 7, 9, 300)]
    assert list(words.values()) == words.weights.tolist()


def test_no_more_than_asked_for() -> None:
    own = Card("sparse-embedding", "bert", 16, INPUTS, ("sparse_embedding",), sparse=SparseWeights(most=2))
    given = [vector(_5=1, _6=3, _7=2)]
    assert decoded(own, "a", given)["sparse"].ids.tolist() == [6, 7]
    assert decoded(own, "a", given, top_k=1)["sparse"].ids.tolist() == [6]
    assert decoded(own, "a", given, top_k=9)["sparse"].ids.tolist() == [6, 7, 5]


def test_windows_give_each_word_its_largest_weight() -> None:
    alphabet = "a b c d e f g h i j k l m n o p q r s t u v w"
    words = decoded(CARD, alphabet, [vector(_5=1, _6=3), vector(_5=2), vector(_9=0.5)])
    assert words["sparse"].ids.tolist() == [6, 5, 9]
    assert words["sparse"].weights.tolist() == [3, 2, 0.5]


def test_a_text_without_any_word() -> None:
    item = decoded(CARD, "", [vector()])
    assert item == {"sparse": {}}
    assert json_line(0, item) == '{"row": 0, "sparse": {}}'


def test_an_id_beyond_the_tokenizer_has_a_number() -> None:
    assert list(decoded(CARD, "a", [vector(**{f"_{SIZE + 1}": 1.0})])["sparse"]) == [f"[{SIZE + 1}]"]


def test_how_it_is_written() -> None:
    item = decoded(CARD, "a", [vector(_8=0.1, _7=0.2)])
    first, second = (wordpiece().id_to_token(number) for number in (7, 8))
    assert json_line(3, item) == f'{{"row": 3, "sparse": {{"{first}": 0.2, "{second}": 0.1}}}}'
    (column,) = columns(CARD, DecodeOptions())[1:-3]
    assert column.value(item) == [
        {"token": first, "token_id": 7, "weight": float(np.float32(0.2))},
        {"token": second, "token_id": 8, "weight": float(np.float32(0.1))},
    ]
    assert column.value({}) is None


def test_it_survives_pickling() -> None:
    words = decoded(CARD, "a", [vector(_8=0.1, _7=0.2)])["sparse"]
    copy = pickle.loads(pickle.dumps(words))
    assert (copy, copy.ids.tolist(), copy.weights.tolist()) == (words, [7, 8], words.weights.tolist())
