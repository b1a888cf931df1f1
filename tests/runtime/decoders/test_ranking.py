"""Scores of pairs out of the graph's outputs."""

from __future__ import annotations

import numpy as np

from bertonnx.models.card import Card
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.ranking import RankingDecoder, ranking_decoder
from bertonnx.runtime.io.columns import columns
from bertonnx.runtime.io.npy import ranking_numbers
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.r_tables import table_of, tables_of
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import wordpiece

CARD = Card("text-ranking", "bert", 16, ("input_ids", "attention_mask"), ("logits", "scores"))
TOKENIZER = TextTokenizer(wordpiece().to_str(), CARD)


def encoded() -> Encoded:
    (found,) = TOKENIZER.encode([Row("a b", "c d e " * 9)])
    assert isinstance(found, Encoded)
    return found


def test_the_score_is_that_of_the_graph() -> None:
    decoder = ranking_decoder(DecoderContext(CARD, TOKENIZER))
    assert decoder.fetch == ("scores",)
    row = encoded()
    outputs = {"scores": np.array([-7.25], dtype=np.float32)}
    kept = decoder.keep(row.pieces[0], outputs)
    outputs["scores"][0] = 0.0
    assert decoder.decode(row, [kept]) == {"score": -7.25}


def test_another_output_can_be_asked_for() -> None:
    decoder = RankingDecoder(fetch=("logits",))
    row = encoded()
    kept = decoder.keep(row.pieces[0], {"logits": np.array([3.0], dtype=np.float32)})
    assert decoder.decode(row, [kept]) == {"score": 3.0}


def test_how_it_is_written() -> None:
    names = [column.name for column in columns(CARD, DecodeOptions())]
    assert names == ["row", "score", "truncated", "error_type", "error_message"]
    numbers = ranking_numbers(CARD, DecodeOptions())
    assert (numbers.width, numbers.of({"score": 0.5})) == (1, 0.5)
    assert tables_of(CARD) == ("scores",)
    table = table_of(CARD, "scores", DecodeOptions())
    assert [*table.rows({"score": 0.5})] == [([0.5],)]
    assert table.width == 1


def test_it_takes_pairs() -> None:
    assert CARD.needs_pair
