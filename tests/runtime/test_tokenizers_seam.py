"""What the Rust tokenizers raise, panics too, stays one row's error."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from tokenizers import Encoding, Tokenizer, models

from bertonnx.errors import ModelFileError, RowError
from bertonnx.runtime import tokenization
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.runtime.tokenizers_seam import FaultError, decoded, encoded, guarded, opened, twin
from tests.fake_predictor import card
from tests.tokenizers_zoo import KINDS, bpe, unigram, wordpiece

MAKERS = {"wordpiece": wordpiece, "bpe": bpe, "unigram": unigram}


def test_a_panic_is_the_error_of_the_text_that_caused_it() -> None:
    tokenizer = wordpiece()
    # Rust asserts that the room beside the question is larger than this, when it cuts and not before.
    tokenizer.enable_truncation(16, stride=10, strategy="only_second")
    long = ("the " * 8, "word " * 50)
    good, bad, again = encoded(tokenizer, ["short", long, "short"])
    assert isinstance(good, Encoding)
    assert isinstance(again, Encoding)
    assert good.ids == again.ids
    assert isinstance(bad, RowError)
    assert bad.kind == "runtime"
    assert "the tokenizer failed on this text: " in str(bad)
    with pytest.raises(BaseException, match="stride") as caught:
        tokenizer.encode(*long)
    assert not isinstance(caught.value, Exception), "no panic: this test shows nothing any more"


def test_a_tokenizer_without_an_unknown_token_fails_for_its_text_alone() -> None:
    tokenizer = Tokenizer(models.Unigram([("a", -1.0)]))
    first, second = encoded(tokenizer, ["a", "b"])
    assert isinstance(first, Encoding)
    assert isinstance(second, RowError)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_the_tokenizer_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind), guarded():
        raise kind
    with pytest.raises(FaultError, match="one line"), guarded():
        raise ValueError("one\n line")


def test_ids_that_there_are_not() -> None:
    with pytest.raises(RowError, match="cannot turn tokens into text"):
        decoded(wordpiece(), [-1], skip_special_tokens=False)


@pytest.mark.parametrize(
    "text", ["", "{}", "[" * 100_000, '{"version": "1.0", "model": {"type": "WordPiece", "vocab": 5}}', "\0"]
)
def test_what_is_no_tokenizer(text: str) -> None:
    with pytest.raises(ModelFileError, match="the tokenizer in the model file cannot be read"):
        opened(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_twin_reads_alike_and_is_cut_by_itself(kind: str) -> None:
    first = MAKERS[kind]()
    first.add_tokens(["brown fox"])
    first.add_special_tokens(["[E1]"])
    second = twin(first)
    text = "the quick brown fox [E1] jumps"
    assert second.to_str() == first.to_str()
    second.enable_truncation(4)
    assert first.encode(text).tokens[:3] == second.encode(text).tokens[:3]
    assert len(second.encode(text)) == 4 < len(first.encode(text))


def test_a_vocabulary_with_holes_prints_nothing_among_the_results(capfd: pytest.CaptureFixture[str]) -> None:
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 5, "##b": 9}
    text = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")).to_str()
    assert "holes" in capfd.readouterr().out, "no warning of Rust's: this test shows nothing any more"
    tokenizer = TextTokenizer(text, card("token-classification", max_length=8), long_text="stride")
    (read,) = tokenizer.encode([Row("ab" * 40)])
    assert isinstance(read, Encoded)
    assert tokenizer.subwords.has_prefix
    assert tokenizer.subwords.unknown_id == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_question_leaves_smaller_windows_or_none(kind: str) -> None:
    """Windows of 32 tokens usually share 16; a question of 25 leaves fewer than that for its context."""
    tokenizer = _tokenizer(kind, "question-answering", 32, "stride")
    context = "the quick brown fox jumps over the lazy dog " * 12
    rows = [Row("the " * count, context) for count in range(1, 40)]
    refused = 0
    for row, result in zip(rows, tokenizer.encode(rows), strict=True):
        if isinstance(result, RowError):
            refused += 1
            assert result.kind == "too-long"
            assert "leaves no room for the context" in str(result)
            continue
        spans = []
        for piece in result.pieces:
            assert len(piece.ids) <= 32
            inside = [place for place, part in enumerate(piece.encoding.sequence_ids) if part == 1]
            spans += [piece.encoding.offsets[place] for place in inside]
        whole = MAKERS[kind]().encode(row.text, row.pair)
        expected = {o for o, part in zip(whole.offsets, whole.sequence_ids, strict=True) if part == 1}
        assert set(spans) == expected, "a part of the context is in no window"
    assert 0 < refused < 20


def _tokenizer(kind: str, task: str, limit: int, long_text: str) -> TextTokenizer:
    return TextTokenizer(
        MAKERS[kind]().to_str(),
        card(task, max_length=max(limit, 96)),
        max_length=limit,
        long_text=long_text,  # type: ignore[arg-type]
    )


_PIECES = (
    *("語", "日本語", "한국어", "𠀀𠀁", "กขค", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "é", "e\u0301\u0323", "ﬁ", "ß", "İ"),
    *(
        "a",
        "word",
        "supercalifragilistic",
        "1234567890",
        "...",
        "\u200b",
        "\u00a0",
        "\t",
        "\n",
        "#",
        "##",
        "▁",
    ),
    *("▁", "Ġ", "[MASK]", "<mask>", "'s", "don't", "\u202e", "ل", "न्न", "\ufeff", "\u0300" * 40),
)


def _hard(seed: int, size: int, *, spaces: float) -> str:
    chance = random.Random(seed)
    made, length = [], 0
    few = chance.sample(_PIECES, chance.choice((1, 2, 5, len(_PIECES))))
    while length < size:
        piece = " " if chance.random() < spaces else chance.choice(few)
        made.append(piece)
        length += len(piece)
    return "".join(made)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spaces", [0.0, 0.01, 0.3])
def test_a_bounded_read_gives_the_tokens_of_the_whole_text(kind: str, spaces: float) -> None:
    limit = 16
    tokenizer = _tokenizer(kind, "text-classification", limit, "truncate")
    whole = MAKERS[kind]()
    whole.enable_truncation(limit)
    texts = [_hard(seed, 12_000, spaces=spaces) for seed in range(25)]
    for text, result in zip(texts, tokenizer.encode([Row(text) for text in texts]), strict=True):
        assert isinstance(result, Encoded)
        expected = whole.encode(text)
        assert result.pieces[0].ids.tolist() == expected.ids
        assert result.pieces[0].encoding.offsets == expected.offsets
        assert result.row.text is text


@pytest.mark.parametrize("long_text", ["truncate", "error"])
@pytest.mark.parametrize(
    ("kind", "text"), [("wordpiece", "語"), ("bpe", "語"), ("bpe", "a"), ("unigram", "a")]
)
def test_a_line_without_a_space_costs_what_its_kept_tokens_cost(
    kind: str, text: str, long_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counting(tokenizer: Tokenizer, inputs: Sequence[str]) -> list[Encoding | RowError]:
        read.extend(map(len, inputs))
        return encoded(tokenizer, inputs)

    monkeypatch.setattr(tokenization, "encoded", counting)
    tokenizer = _tokenizer(kind, "text-classification", 64, long_text)
    (result,) = tokenizer.encode([Row(text * 5_000_000)])
    if long_text == "truncate":
        assert isinstance(result, Encoded)
        assert len(result.pieces[0].ids) == 64
        assert result.truncated
    else:
        assert isinstance(result, RowError)
        assert "the text has over " in str(result)
    assert sum(read) < 20_000


def test_what_must_be_read_whole_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "_MOST_CHARACTERS", 10_000)
    # WordPiece reads a word of any length to its end, to find that it is unknown.
    one_word, windows = Row("a" * 10_001), Row("many words " * 1000)
    for long_text, row in (("truncate", one_word), ("stride", windows), ("truncate", Row("a", "b " * 5001))):
        (result,) = _tokenizer("wordpiece", "text-classification", 16, long_text).encode([row])
        assert isinstance(result, RowError)
        assert result.kind == "too-long"
        assert "characters, and all of them would have to be read at once" in str(result)
    (result,) = _tokenizer("wordpiece", "text-classification", 16, "truncate").encode([Row("a" * 9_999)])
    assert isinstance(result, Encoded)
