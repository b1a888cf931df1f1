from __future__ import annotations

import json
from copy import copy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from bertonnx.errors import UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.entities import EntityDecoder, entity_decoder
from bertonnx.runtime.options import AGGREGATIONS, Aggregation, DecodeOptions
from bertonnx.runtime.rows import Array, Encoded, Item, Row
from bertonnx.runtime.tokenization import SubwordRule, TextTokenizer, subword_rule
from bertonnx.runtime.tokenizers_seam import opened
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.decoding import Checkpoint, shared_checkpoint, shared_folder, tiny_checkpoint
from tests.tokenizers_zoo import KINDS, pretrained, wordpiece

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
UNTAGGED = ("O", "PER", "X-LOC", "B-O", "I-PER")
UNKNOWN = ("We met a ☃ and two ☂☂ at the Ѫ-café <unk> [UNK].", "☃ ☂", "ᚠᛇᚻ", "")
TEXTS = [*SENTENCES, *PARAGRAPHS, *UNKNOWN]

heuristic_warning = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")


def as_item(expected: list[dict[str, Any]], text: str) -> list[Item]:
    return [
        {
            "entity": entity.get("entity_group", entity.get("entity")),
            "text": text[entity["start"] : entity["end"]],
            "score": pytest.approx(float(entity["score"]), abs=1e-6),
            "start": entity["start"],
            "end": entity["end"],
        }
        for entity in expected
    ]


def without_padding(_: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Cut off the padding that the pipeline puts at the last window, for the same bits as without it."""
    length = int(inputs["attention_mask"].sum())
    return args, {name: value[:, :length] for name, value in inputs.items() if hasattr(value, "shape")}


@cache
def tagger(kind: str, *, labels: tuple[str, ...] = LABELS, padded: bool = True) -> Checkpoint:
    """Return a model that remembers its outputs: what is made of them differs, and the texts do not."""
    checkpoint = tiny_checkpoint("token-classification", kind, labels=labels)
    if not padded:
        checkpoint.model.register_forward_pre_hook(without_padding, with_kwargs=True)
    return checkpoint


def decoder_for(checkpoint: Checkpoint, aggregation: Aggregation) -> EntityDecoder:
    return EntityDecoder(checkpoint.labels, aggregation, subword_rule(opened(checkpoint.tokenizer_json)))


def assert_as_pipeline(checkpoint: Checkpoint, aggregation: Aggregation, texts: list[str]) -> set[str]:
    pipeline = checkpoint.pipeline(aggregation_strategy=aggregation)
    decoder = decoder_for(checkpoint, aggregation)
    found = set()
    for text, encoded in zip(texts, checkpoint.encode([Row(text) for text in texts]), strict=True):
        item = checkpoint.decode(decoder, encoded)
        assert item == {"entities": as_item(pipeline(text), text)}
        found |= {entity["entity"] for entity in item["entities"]}
    return found


@heuristic_warning
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_entities_are_the_pipelines(kind: str, aggregation: Aggregation) -> None:
    checkpoint = tagger(kind)
    found = assert_as_pipeline(checkpoint, aggregation, TEXTS)
    assert found == (set(LABELS[1:]) if aggregation == "none" else {"PER", "LOC"})


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_labels_without_b_and_i_are_grouped_as_the_pipeline_does(aggregation: Aggregation) -> None:
    checkpoint = tagger("wordpiece", labels=UNTAGGED)
    found = assert_as_pipeline(checkpoint, aggregation, TEXTS[:60])
    assert found == (set(UNTAGGED[1:]) if aggregation == "none" else {"PER", "LOC"})


@heuristic_warning
@pytest.mark.parametrize("aggregation", AGGREGATIONS[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_entities_of_windows_are_the_pipelines(kind: str, aggregation: Aggregation) -> None:
    checkpoint = tagger(kind, padded=False)
    pipeline = checkpoint.pipeline(aggregation_strategy=aggregation, stride=32)
    decoder = decoder_for(checkpoint, aggregation)
    same = total = 0
    for encoded in checkpoint.encode([Row(text) for text in PARAGRAPHS], long_text="stride", stride=32):
        assert len(encoded.pieces) > 3
        text = encoded.row.text
        ours = checkpoint.decode(decoder, encoded)["entities"]
        theirs = as_item(pipeline(text), text)
        borders = word_borders_within(encoded)
        # "simple" splits words anywhere, so at a border too; words of the others are no tokenizer's words.
        if kind == "wordpiece" and aggregation != "simple":
            assert not any({entity["start"], entity["end"]} & borders for entity in ours)
        # What the pipeline tears there may have hidden another entity, and that one a third.
        same += sum(entity in ours for entity in theirs)
        total += len(theirs)
        assert borders or ours == theirs
    assert same > 0.9 * total > 20


def as_file(checkpoint: Checkpoint, **said: Any) -> EntityDecoder:
    """Return the decoder of a file whose card says what its tokenizer names."""
    card = replace(checkpoint.card, labels=checkpoint.labels, **said)
    context = DecoderContext(
        card, TextTokenizer(checkpoint.tokenizer_json, card), DecodeOptions(aggregation="average")
    )
    return entity_decoder(context)


@heuristic_warning
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [None, "!"])
def test_the_unknown_token_is_the_one_that_the_tokenizer_names(kind: str, named: str | None) -> None:
    checkpoint = copy(tagger(kind))
    checkpoint.tokenizer = pretrained(kind)
    checkpoint.tokenizer.unk_token = named
    number = checkpoint.tokenizer.unk_token_id
    pipeline = checkpoint.pipeline(aggregation_strategy="average")
    decoder = as_file(checkpoint, unk_token_id=-1 if number is None else number)
    usual = as_file(checkpoint)
    rows = checkpoint.encode([Row(text) for text in TEXTS])
    found = [checkpoint.decode(decoder, encoded) for encoded in rows]
    assert found == [{"entities": as_item(pipeline(text), text)} for text in TEXTS]
    # Every byte has a token in such a vocabulary, so that nothing is unknown to it.
    differs = found != [checkpoint.decode(usual, encoded) for encoded in rows]
    assert differs or (kind == "bpe" and named is None)


def word_borders_within(encoded: Encoded) -> set[int]:
    """Return where windows begin or end within a word, in code points."""
    borders = set()
    for before, behind in pairwise(piece.encoding for piece in encoded.pieces):
        last, first = len(before) - 2, 1
        start, end = behind.offsets[first][0], before.offsets[last][1]
        if before.word_to_chars(behind.token_to_word(first))[0] < start:
            borders.add(start)
        if behind.word_to_chars(before.token_to_word(last))[1] > end:
            borders.add(end)
    return borders


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_entities_of_a_real_model_are_the_pipelines(aggregation: Aggregation) -> None:
    data = (shared_folder() / "data" / "conll_dev.txt").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in data.split("\n\n") if block.strip()][:150]
    texts = [" ".join(line.split()[0] for line in block) for block in blocks]
    checkpoint = shared_checkpoint("token-classification", "ner-minilm")
    found = assert_as_pipeline(checkpoint, aggregation, texts)
    assert {name[-3:] for name in found} == {"PER", "LOC", "ORG", "ISC"}


# Hand-made scores


def read(text: str) -> Encoded:
    card = Card("token-classification", "bert", 128, inputs=(), outputs=())
    (encoded,) = TextTokenizer(wordpiece().to_str(), card).encode([Row(text)])
    assert isinstance(encoded, Encoded)
    return encoded


RULE = subword_rule(wordpiece())


def entities(text: str, scores: list[list[float]], aggregation: Aggregation = "simple") -> list[Item]:
    """Decode `text` with the given scores of its tokens; the special tokens shout PER."""
    encoded = read(text)
    special = [0.0, 0.0, 1.0]
    table: Array = np.array([special, *scores, special], dtype=np.float32)
    assert len(table) == len(encoded.pieces[0].ids), encoded.pieces[0].encoding.tokens
    decoder = EntityDecoder(("O", "B-PER", "I-PER"), aggregation, RULE)
    kept = decoder.keep(encoded.pieces[0], {"scores": table})
    found: list[Item] = decoder.decode(encoded, [kept])["entities"]
    return found


OUT, BEGIN, INSIDE = [1.0, 0.0, 0.0], [0.0, 0.75, 0.25], [0.25, 0.25, 0.5]


def test_a_begin_tag_starts_a_new_entity() -> None:
    found = entities("a b c d", [BEGIN, INSIDE, BEGIN, OUT])
    assert found == [
        {"entity": "PER", "text": "a b", "score": 0.625, "start": 0, "end": 3},
        {"entity": "PER", "text": "c", "score": 0.75, "start": 4, "end": 5},
    ]


def test_the_words_of_a_split_word_agree() -> None:
    assert read("it's raining").pieces[0].encoding.tokens[4:6] == ["ra", "##ining"]
    scores = [OUT, OUT, OUT, [0.1, 0.6, 0.3], [0.0, 0.1, 0.9]]
    expected = {"first": 0.6, "average": 0.6, "max": 0.9}
    for aggregation in ("first", "average", "max"):
        (entity,) = entities("it's raining", scores, aggregation)
        assert (entity["text"], entity["entity"]) == ("raining", "PER")
        assert entity["score"] == pytest.approx(expected[aggregation], abs=1e-6)


def test_an_unknown_token_begins_a_word() -> None:
    assert read("the ☃").pieces[0].encoding.tokens[2] == "[UNK]"
    (entity,) = entities("the ☃", [OUT, BEGIN], "first")
    assert entity["text"] == "☃"


def test_offsets_are_code_points_of_the_text_as_given() -> None:
    (entity,) = entities("\N{GRINNING FACE} É b", [OUT, INSIDE, OUT])
    assert (entity["text"], entity["start"], entity["end"]) == ("É", 2, 3)


@pytest.mark.parametrize("aggregation", ["first", "average", "max"])
def test_an_added_token_that_takes_the_space_before_it(aggregation: Aggregation) -> None:
    """In an encoding it is " [MASK]", and by its id "[MASK]", which the pipeline goes by."""
    checkpoint = tiny_checkpoint("token-classification", "wordpiece", labels=LABELS)
    data = json.loads(checkpoint.tokenizer_json)
    for token in data["added_tokens"]:
        token["lstrip"] = token["content"] == "[MASK]"
    checkpoint.tokenizer_json = json.dumps(data)
    checkpoint.tokenizer._tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
    texts = [f"{text} [MASK] {text}" for text in SENTENCES[:20]]
    (encoded, *_) = checkpoint.encode([Row(text) for text in texts])
    assert " [MASK]" in encoded.pieces[0].encoding.tokens
    assert len(assert_as_pipeline(checkpoint, aggregation, texts)) > 1


def test_no_entities_in_nothing() -> None:
    assert entities("", []) == []
    assert entities("a", [OUT]) == []


# Windows, by hand: seven words each, three of them shared


def windows(text: str, direction: str = "right") -> Encoded:
    card = Card("token-classification", "bert", 9, inputs=(), outputs=(), truncation_side=direction)
    tokenizer = TextTokenizer(wordpiece().to_str(), card, long_text="stride", stride=3)
    (encoded,) = tokenizer.encode([Row(text)])
    assert isinstance(encoded, Encoded)
    return encoded


def in_windows(
    text: str, *tags: str, aggregation: Aggregation = "simple", direction: str = "right"
) -> list[tuple[str, int, int]]:
    """Decode with a tag for each text token of each window: O, B, or I; a digit behind it is its score."""
    encoded = windows(text, direction)
    kept = []
    for piece, letters in zip(encoded.pieces, tags, strict=True):
        words = ["O", *letters.split(), "O"]
        assert len(words) == len(piece.ids), piece.encoding.tokens
        scores = np.full((len(words), 3), 0.05, dtype=np.float32)
        for place, word in enumerate(words):
            scores[place, "OBI".index(word[0])] = float(f"0.{word[1:] or 8}")
        kept.append(scores)
    decoder = EntityDecoder(("O", "B-PER", "I-PER"), aggregation, RULE)
    found = decoder.decode(encoded, kept)["entities"]
    assert all(entity["text"] == text[entity["start"] : entity["end"]] for entity in found)
    return [(entity["text"], entity["start"], entity["end"]) for entity in found]


LETTERS = "a b c d e f g h i j k"


def test_an_entity_in_what_two_windows_share_is_there_once() -> None:
    assert in_windows(LETTERS, "O O O O O B I", "O B I O O O O") == [("f g", 10, 13)]


def test_an_entity_that_a_border_cuts_is_whole() -> None:
    # The window before sees its beginning only, the one behind all of it, and the other way round.
    assert in_windows(LETTERS, "O O O O O O B", "O O B I I O O") == [("g h i", 12, 17)]
    assert in_windows(LETTERS, "O O B I I O O", "I O O O O O O") == [("c d e", 4, 9)]


def test_an_entity_longer_than_what_two_windows_share_is_whole() -> None:
    assert in_windows(LETTERS, "O O B I I I I", "I I I I I O O") == [("c d e f g h i", 4, 17)]


def test_two_windows_that_disagree_make_no_entity_of_both() -> None:
    assert in_windows(LETTERS, "O O B I I O I9", "I I O O O O O") == [("c d e", 4, 9), ("g", 12, 13)]


def test_of_two_equally_long_the_better_stays() -> None:
    encoded = in_windows(LETTERS, "O O O O O B6 I6", "B7 I7 O O O O O")
    assert encoded == [("e f", 8, 11)]


def test_the_rest_of_a_word_is_no_entity() -> None:
    # One window begins or ends within a word that its neighbor has whole: what that one says counts.
    text = "a b c d e f raining g h"
    assert windows(text).pieces[0].encoding.tokens[-2] == "ra"
    assert in_windows(text, "O O O O O O B", "O O O O O O") == []
    assert in_windows(text, "O O O O O O B", "O O B I O O") == [("raining", 12, 19)]
    text = "a b c raining e f g"
    assert windows(text).pieces[1].encoding.tokens[1] == "##ining"
    assert in_windows(text, "O O O O O O O", "B O O O") == []


@pytest.mark.parametrize("direction", ["right", "left"])
def test_a_token_is_judged_where_more_is_around_it(direction: str) -> None:
    # Of e, f and g, which both windows have, the second has the last alone.
    tags = ("O O O O B B O", "O O B B O O O")
    assert in_windows(LETTERS, *tags, aggregation="none", direction=direction) == [
        ("e", 8, 9),
        ("f", 10, 11),
        ("g", 12, 13),
        ("h", 14, 15),
    ]


def test_an_unknown_aggregation_is_refused() -> None:
    with pytest.raises(UsageError, match="aggregation='best' is unknown; it can be none, simple, first"):
        EntityDecoder(LABELS, "best", SubwordRule(True))  # type: ignore[arg-type]
