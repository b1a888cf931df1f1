"""Vectors of tokens out of the graph's outputs, and MaxSim."""

from __future__ import annotations

import numpy as np
import pytest

from bertonnx.models.card import Card
from bertonnx.models.retrieval import LateInteraction, Side
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.maxsim import NOTHING, maxsim
from bertonnx.runtime.decoders.multi_vector import vectors_decoder
from bertonnx.runtime.engine.repeats import key_of
from bertonnx.runtime.io.columns import columns
from bertonnx.runtime.io.text import json_line
from bertonnx.runtime.options import DecodeOptions, LongText
from bertonnx.runtime.rows import Array, Encoded, Row, feeds_of
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import wordpiece

VOCABULARY = wordpiece()
COMMA, MASK = VOCABULARY.token_to_id(","), VOCABULARY.token_to_id("[MASK]")
QUERY = Side(max_length=8, marker=100, expanded=8, filler=MASK)
DOCUMENT = Side(max_length=12, marker=101, skipped=(COMMA,), first=1)
INPUTS = ("input_ids", "attention_mask")


def card_of(query: Side = QUERY, document: Side = DOCUMENT) -> Card:
    late = LateInteraction(4, {"query": query, "document": document})
    return Card(
        "multi-vector", "bert", 16, INPUTS, ("token_embeddings",), late=late, default_prompt="document"
    )


def read(text: str, prompt: str | None, card: Card, long_text: LongText = "truncate") -> Encoded:
    (found,) = TextTokenizer(VOCABULARY.to_str(), card, long_text=long_text).encode(
        [Row(text, prompt=prompt)]
    )
    assert isinstance(found, Encoded)
    return found


def numbered(piece_length: int) -> Array:
    return np.arange(piece_length * 4, dtype=np.float32).reshape(-1, 4)


def test_a_query_is_marked_and_filled_up() -> None:
    (piece,) = read("a b", "query", card_of()).pieces
    plain = VOCABULARY.encode("a b").ids
    assert piece.ids.tolist() == [plain[0], 100, *plain[1:], *[MASK] * (7 - len(plain))]
    assert (piece.unseen, len(piece.encoding), piece.type_ids.tolist()) == (7 - len(plain), 8, [0] * 8)
    feeds = feeds_of([piece], INPUTS)
    assert feeds["attention_mask"].tolist() == [[1] * (len(plain) + 1) + [0] * piece.unseen]
    # Where they are attended to, the same tokens are another input.
    (attended,) = read("a b", "query", card_of(Side(8, 100, 8, MASK, attended=True))).pieces
    assert attended.ids.tolist() == piece.ids.tolist()
    assert attended.unseen == 0
    assert key_of(attended) != key_of(piece)


def test_a_query_that_is_too_long_is_cut_and_never_read_in_windows() -> None:
    ways: tuple[LongText, ...] = ("truncate", "stride")
    for long_text in ways:
        found = read("a b c d e f g h i j", "query", card_of(), long_text)
        assert [len(piece.ids) for piece in found.pieces] == [8]
        assert found.truncated
        assert found.pieces[0].unseen == 0


def test_a_shorter_limit_shortens_queries_too() -> None:
    tokenizer = TextTokenizer(VOCABULARY.to_str(), card_of(), max_length=6)
    (found,) = tokenizer.encode([Row("a", prompt="query")])
    assert isinstance(found, Encoded)
    assert len(found.pieces[0].ids) == 6


@pytest.mark.parametrize("prompt", [None, "document"])
def test_what_a_document_leaves_out(prompt: str | None) -> None:
    card = card_of()
    row = read("a, b,", prompt, card)
    (piece,) = row.pieces
    assert piece.ids[1] == 101
    decoder = vectors_decoder(DecoderContext(card, TextTokenizer(VOCABULARY.to_str(), card)))
    outputs = {"token_embeddings": numbered(len(piece.ids))}
    kept = decoder.keep(piece, outputs)
    found = decoder.decode(row, [kept])["vectors"]
    left = [place for place, number in enumerate(piece.ids) if place and number != COMMA]
    assert found.tolist() == outputs["token_embeddings"][left].tolist()
    found[:] = 0
    assert kept.any()


def test_no_prompt_is_no_marker() -> None:
    assert 101 not in read("a", "", card_of()).pieces[0].ids


def test_a_document_of_punctuation_alone() -> None:
    card = card_of(document=Side(skipped=(COMMA, 2, 3)))
    row = read(",,", None, card)
    decoder = vectors_decoder(DecoderContext(card, TextTokenizer(VOCABULARY.to_str(), card)))
    item = decoder.decode(row, [numbered(len(row.pieces[0].ids))])
    assert item["vectors"].shape == (0, 4)
    assert json_line(0, item) == '{"row": 0, "vectors": []}'
    assert maxsim(numbered(2), item["vectors"]) == NOTHING


def test_windows_stand_behind_each_other() -> None:
    card = card_of()
    row = read("a b c d e f g h i j k l m n o", "document", card, "stride")
    assert len(row.pieces) > 1
    assert all(piece.ids[1] == 101 and len(piece.ids) <= 12 for piece in row.pieces)
    decoder = vectors_decoder(DecoderContext(card, TextTokenizer(VOCABULARY.to_str(), card)))
    kept = [numbered(len(piece.ids)) for piece in row.pieces]
    wanted = [vector for part in kept for vector in part[1:].tolist()]
    assert decoder.decode(row, kept)["vectors"].tolist() == wanted


def test_maxsim_by_hand() -> None:
    query = np.array([[1, 0], [0, 2]], dtype=np.float32)
    document = np.array([[0.5, 0.5], [-1, 1], [0.25, -3]], dtype=np.float32)
    assert maxsim(query, document) == 2.5
    assert maxsim(query, document, mean=True) == 1.25
    assert maxsim(query[:0], document) == 0


def test_how_it_is_written() -> None:
    item = {"vectors": np.array([[0.1, 2], [3, 4]], dtype=np.float32)}
    assert json_line(1, item) == '{"row": 1, "vectors": [[0.1, 2.0], [3.0, 4.0]]}'
    (column,) = columns(card_of(), DecodeOptions())[1:-3]
    assert (column.kind, column.lists, column.width) == ("vector", 1, 4)
    assert [column.name for column in columns(card_of(), DecodeOptions(query="a"))][1] == "score"
