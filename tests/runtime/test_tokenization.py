"""Text to ids: the same as the tokenizers package's own truncation, whatever the length."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models

from bertonnx.errors import ModelFileError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.options import LongText
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.tokenization import SubwordRule, TextTokenizer, stripped, subword_rule
from tests.corpus import SENTENCES
from tests.tokenizers_zoo import bpe, unigram, wordpiece

MAKERS = {"wordpiece": wordpiece, "bpe": bpe, "unigram": unigram}


PROMPTS = {"query": "Query: ", "long": "hello good " * 40}


def make(kind: str, *, task: str = "feature-extraction", long_text: LongText = "truncate") -> TextTokenizer:
    card = Card(task=task, family="bert", max_length=32, inputs=("input_ids",), outputs=(), prompts=PROMPTS)
    return TextTokenizer(MAKERS[kind]().to_str(), card, long_text=long_text)


def encoded(tokenizer: TextTokenizer, row: Row) -> Encoded:
    result = tokenizer.encode([row])[0]
    assert isinstance(result, Encoded)
    return result


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "text",
    [
        " ".join(SENTENCES),
        " ".join(SENTENCES * 40),
        "word " * 100_000,
        "x" * 30_000,
        " " * 20_000 + "the end",
        "\n" * 9_000 + "a b " * 9_000,
        "a" * 6_000 + " " + "b" * 6_000,
        "x" * 4_000 + " " + "hello good " * 2_000,
    ],
    ids=[
        "long",
        "very long",
        "words",
        "one word",
        "white space first",
        "line ends first",
        "two words",
        "giant word first",
    ],
)
def test_a_cut_text_has_the_ids_of_the_packages_own_truncation(kind: str, text: str) -> None:
    reference = MAKERS[kind]()
    reference.enable_truncation(32)
    expected = reference.encode(text)
    result = encoded(make(kind), Row(text))
    assert result.pieces[0].ids.tolist() == expected.ids
    assert result.pieces[0].encoding.offsets == expected.offsets
    assert result.truncated == (len(MAKERS[kind]().encode(text)) > 32)


def test_windows_cover_the_whole_text() -> None:
    text = " ".join(SENTENCES * 10)
    result = encoded(make("wordpiece", long_text="stride"), Row(text))
    assert not result.truncated
    covered = {place for piece in result.pieces for span in piece.encoding.offsets for place in range(*span)}
    assert {i for i, letter in enumerate(text) if letter.isalnum()} <= covered


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_prompt_is_in_every_window(kind: str, side: str) -> None:
    text = " ".join(SENTENCES[:6])
    whole = MAKERS[kind]().encode("Query: " + text)
    tokenizer = make(kind, long_text="stride")
    object.__setattr__(tokenizer._card, "truncation_side", side)
    result = encoded(tokenizer, Row(text, prompt="query"))
    pieces = result.pieces
    assert len(pieces) > 3
    assert not result.truncated
    head = [i for i, (_, end) in enumerate(whole.offsets[:-1]) if end <= len("Query: ")]
    seen: list[int] = []
    for piece in pieces:
        ids, offsets = piece.ids.tolist(), piece.encoding.offsets
        assert len(ids) <= 32
        assert (ids[: len(head)], ids[-1]) == (whole.ids[: len(head)], whole.ids[-1])
        # Each token is what stands at its place in the prompt and the text.
        start = whole.offsets.index(offsets[len(head)])
        assert ids[len(head) : -1] == whole.ids[start : start + len(ids) - len(head) - 1]
        assert offsets[len(head) : -1] == whole.offsets[start : start + len(ids) - len(head) - 1]
        assert start <= len(head) + len(seen)
        seen += whole.ids[len(head) + len(seen) : start + len(ids) - len(head) - 1]
    assert seen == whole.ids[len(head) : -1]


def test_a_prompt_that_leaves_no_room() -> None:
    cut = encoded(make("wordpiece"), Row("the text", prompt="long")).pieces[0]
    assert cut.prompt == 31  # all but the token that ends every text
    assert len(cut.ids) == 32
    result = make("wordpiece", long_text="stride").encode([Row("the text", prompt="long"), Row("a")])
    assert isinstance(result[0], RowError)
    assert "the prompt has 200 tokens and leaves no room" in str(result[0])
    assert isinstance(result[1], Encoded)


def test_the_tokens_of_a_prompt() -> None:
    tokenizer = make("bpe")
    # By itself the prompt ends with a space, which is a token of its own.
    assert encoded(tokenizer, Row("Ada", prompt="query")).pieces[0].prompt == len(
        MAKERS["bpe"]().encode("Query: ").ids[:-1]
    )
    for row in (Row("Query: Ada"), Row("Query: Ada", prompt="")):
        assert encoded(tokenizer, row).pieces[0].prompt == 0
    assert encoded(tokenizer, Row("Ada", prompt="query")).pieces[0].ids.tolist() == (
        encoded(tokenizer, Row("Query: Ada")).pieces[0].ids.tolist()
    )


def test_too_long_is_an_error_where_asked() -> None:
    result = make("bpe", long_text="error").encode([Row("short"), Row("word " * 100)])
    assert isinstance(result[0], Encoded)
    assert isinstance(result[1], RowError)
    assert result[1].kind == "too-long"
    assert "and the model takes 32" in str(result[1])


def test_a_question_that_alone_fills_the_model_is_one_rows_error() -> None:
    tokenizer = make("wordpiece", task="question-answering", long_text="stride")
    good = Row("Who?", "Ada did. " * 40)
    results = tokenizer.encode([good, Row("why " * 60, "because"), good])
    assert [isinstance(result, RowError) for result in results] == [False, True, False]


@pytest.mark.parametrize("length", [1, 3, 33])
def test_a_maximum_length_that_cannot_be(length: int) -> None:
    card = Card(task="fill-mask", family="bert", max_length=32, inputs=("input_ids",), outputs=())
    with pytest.raises(UsageError, match=f"max_length={length} "):
        TextTokenizer(wordpiece().to_str(), card, max_length=length)


def test_a_text_that_is_no_tokenizer() -> None:
    card = Card(task="fill-mask", family="bert", max_length=32, inputs=("input_ids",), outputs=())
    with pytest.raises(ModelFileError, match="tokenizer in the model file cannot be read"):
        TextTokenizer('{"model": 1}', card)


def test_padding_and_truncation_are_stripped() -> None:
    padded = wordpiece()
    padded.enable_padding(length=40)
    padded.enable_truncation(8)
    assert stripped(padded.to_str()) == stripped(wordpiece().to_str())


def test_the_subword_rule_is_read_from_the_tokenizer() -> None:
    assert subword_rule(wordpiece()) == SubwordRule(True, wordpiece().token_to_id("[UNK]"))
    assert subword_rule(bpe()) == SubwordRule(False, bpe().token_to_id("<unk>"))
    assert subword_rule(unigram()) == SubwordRule(False, unigram().token_to_id("<unk>"))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_tokenizer_knows_the_subword_rule_of_its_text(kind: str) -> None:
    assert make(kind).subwords == subword_rule(MAKERS[kind]())


def test_a_tokenizer_may_have_no_unknown_token() -> None:
    made = Tokenizer(models.BPE({"a": 0}, [], continuing_subword_prefix=""))
    assert subword_rule(made) == SubwordRule(False, None)
