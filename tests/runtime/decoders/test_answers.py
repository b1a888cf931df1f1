from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from bertonnx.errors import UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.decoders.answers import AnswerDecoder
from bertonnx.runtime.rows import Encoded, Item, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.corpus import CONTEXTS, QUESTIONS
from tests.decoding import Checkpoint, tiny_checkpoint
from tests.tokenizers_zoo import KINDS, wordpiece

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"  # in transformers
)

ROWS = [
    Row(QUESTIONS[(i + k) % len(QUESTIONS)], context) for i, context in enumerate(CONTEXTS) for k in range(3)
]


@cache
def reader(kind: str) -> Checkpoint:
    """Return a model that remembers its outputs: what is asked of it differs, and the texts do not."""
    return tiny_checkpoint("question-answering", kind, initializer_range=0.3)


def as_answers(expected: Any) -> list[Item]:
    """Return the pipeline's answers without the arbitrary ones of score 0 that fill its list up."""
    answers = expected if isinstance(expected, list) else [expected]
    return [answer for answer in answers if answer["score"] > 0]


def assert_same_answers(found: list[Item], expected: list[Item]) -> None:
    assert [answer["score"] for answer in found] == pytest.approx(
        [answer["score"] for answer in expected], abs=1e-6
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert {**ours, "score": 0} == {**theirs, "score": 0}


def assert_as_pipeline(
    checkpoint: Checkpoint, rows: list[Row], top_k: int, *, impossible: bool, max_answer_len: int = 15
) -> int:
    """Compare every row, and return how many rows had several windows."""
    pipeline = checkpoint.pipeline()
    decoder = AnswerDecoder(top_k, max_answer_len, handle_impossible_answer=impossible)
    windows = 0
    for row, encoded in zip(rows, checkpoint.encode(rows, long_text="stride"), strict=True):
        windows += len(encoded.pieces) > 1
        item = checkpoint.decode(decoder, encoded)
        expected = pipeline(
            question=row.text,
            context=row.pair,
            top_k=top_k,
            handle_impossible_answer=impossible,
            max_answer_len=max_answer_len,
        )
        assert_same_answers(item.get("answers", [item]), as_answers(expected))
        if top_k > 1:
            assert item == {**item["answers"][0], "answers": item["answers"]}
    return windows


@pytest.mark.parametrize("impossible", [False, True], ids=["answer", "impossible"])
@pytest.mark.parametrize("top_k", [1, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_pipelines(kind: str, top_k: int, impossible: bool) -> None:
    assert len(ROWS) > 100
    assert assert_as_pipeline(reader(kind), ROWS, top_k, impossible=impossible) >= 60


@pytest.mark.parametrize("max_answer_len", [1, 4, 300])
def test_the_longest_answer_is_the_pipelines(max_answer_len: int) -> None:
    checkpoint = tiny_checkpoint("question-answering", "wordpiece", initializer_range=0.1)
    assert_as_pipeline(checkpoint, ROWS[:60], 3, impossible=False, max_answer_len=max_answer_len)


def test_without_a_token_for_no_answer_all_is_the_contexts() -> None:
    checkpoint = tiny_checkpoint("question-answering", "wordpiece", initializer_range=0.3)
    usual = AnswerDecoder(3, handle_impossible_answer=True, cls_token_id=checkpoint.tokenizer.cls_token_id)
    none = replace(usual, cls_token_id=-1)
    rows = checkpoint.encode(ROWS[:20], long_text="stride")
    assert [checkpoint.decode(usual, row) for row in rows] == [
        checkpoint.decode(AnswerDecoder(3, handle_impossible_answer=True), row) for row in rows
    ]
    checkpoint.tokenizer.cls_token = None
    pipeline = checkpoint.pipeline()
    for row, encoded in zip(ROWS, rows, strict=False):
        expected = pipeline(question=row.text, context=row.pair, top_k=3, handle_impossible_answer=True)
        assert_same_answers(checkpoint.decode(none, encoded)["answers"], as_answers(expected))
        assert checkpoint.decode(none, encoded) != checkpoint.decode(usual, encoded)


# Hand-made logits

QUESTION, CONTEXT = "where?", "the cat sat in rain, the CAT is in"


def read(context: str = CONTEXT) -> Encoded:
    card = Card("question-answering", "bert", 128, inputs=(), outputs=())
    (encoded,) = TextTokenizer(wordpiece().to_str(), card).encode([Row(QUESTION, context)])
    assert isinstance(encoded, Encoded)
    return encoded


def decode(spans: dict[tuple[int, int], float], decoder: AnswerDecoder, context: str = CONTEXT) -> Item:
    """Decode with the given start and end logits at places of the context's text; (0, 0) is [CLS]."""
    encoded = read(context)
    encoding = encoded.pieces[0].encoding
    logits = {name: np.full(len(encoding.ids), -20, np.float32) for name in decoder.fetch}
    for (start, end), value in spans.items():
        first = encoding.char_to_token(start, 1) if end else 0
        last = encoding.char_to_token(end - 1, 1) if end else 0
        logits["start_logits"][first] = logits["end_logits"][last] = value
    return decoder.decode(encoded, [decoder.keep(encoded.pieces[0], logits)])


def test_the_best_span_is_widened_to_words() -> None:
    assert read().pieces[0].encoding.tokens.count("ra") == 1
    place = CONTEXT.index("rain")
    item = decode({(place, place + 1): 9.0}, AnswerDecoder())
    assert {**item, "score": 0} == {"answer": "rain", "score": 0, "start": place, "end": place + 4}
    assert 0.99 < item["score"] <= 1


def test_equal_texts_count_as_one_whatever_their_case() -> None:
    item = decode({(4, 7): 5.0, (25, 28): 5.0}, AnswerDecoder(top_k=3, max_answer_len=3))
    assert item["answers"][0]["answer"] == "cat"
    assert item["answers"][0]["score"] == pytest.approx(0.5, abs=1e-4)  # 2 x (1/2 x 1/2)
    assert [answer["answer"].lower() for answer in item["answers"]].count("cat") == 1


def test_no_answer_is_an_answer_only_where_it_may_be() -> None:
    spans = {(0, 0): 9.0, (4, 7): 3.0}
    assert decode(spans, AnswerDecoder())["answer"] == "cat"
    item = decode(spans, AnswerDecoder(handle_impossible_answer=True))
    assert {**item, "score": 0} == {"answer": "", "score": 0, "start": 0, "end": 0}
    assert item["score"] == pytest.approx(1 / (1 + np.exp(-6)) ** 2, abs=1e-5)


def test_one_window_with_an_answer_is_enough() -> None:
    card = Card("question-answering", "bert", 16, inputs=(), outputs=())
    tokenizer = TextTokenizer(wordpiece().to_str(), card, long_text="stride", stride=0)
    (encoded,) = tokenizer.encode([Row(QUESTION, CONTEXT)])
    assert isinstance(encoded, Encoded)
    assert len(encoded.pieces) > 1
    decoder = AnswerDecoder(top_k=2, handle_impossible_answer=True)
    kept = []
    for piece, place in zip(encoded.pieces, (0, *[-2] * len(encoded.pieces)), strict=False):
        logits = np.full(len(piece.ids), -20, np.float32)
        logits[place] = 9.0  # the first window points to [CLS], the others to their last word
        kept.append(decoder.keep(piece, {"start_logits": logits, "end_logits": logits}))
    answers = decoder.decode(encoded, kept)["answers"]
    assert answers[0]["answer"]
    assert answers[0]["score"] > 0.9
    assert "" not in [answer["answer"] for answer in answers]
    assert decoder.decode(Encoded(encoded.row, encoded.pieces[:1]), kept[:1])["answer"] == ""


def test_scores_are_float32() -> None:
    item = decode({(4, 7): 5.0, (25, 28): 4.0}, AnswerDecoder(top_k=4))
    assert all(answer["score"] == float(np.float32(answer["score"])) for answer in item["answers"])


def test_an_empty_context_has_an_empty_answer() -> None:
    assert decode({}, AnswerDecoder(), "") == {"answer": "", "score": 0.0, "start": 0, "end": 0}
    assert decode({}, AnswerDecoder(top_k=2), "")["answers"] == [
        {"answer": "", "score": 0.0, "start": 0, "end": 0}
    ]


def test_a_span_never_ends_before_it_starts() -> None:
    for answer in decode({(0, 3): 2.0}, AnswerDecoder(top_k=50), "the cat")["answers"]:
        assert answer["answer"]
        assert answer["start"] < answer["end"]


def test_answers_of_no_token_are_refused() -> None:
    with pytest.raises(UsageError, match="max_answer_len=0 is too small; give a number of at least 1"):
        AnswerDecoder(1, max_answer_len=0)
