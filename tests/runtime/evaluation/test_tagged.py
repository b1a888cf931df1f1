"""Texts with entities: CoNLL files in all their dialects, JSON lines with spans or tags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bertonnx.errors import InputError, UsageError
from bertonnx.runtime.evaluation.labelled import Columns
from bertonnx.runtime.evaluation.tagged import Span, has_entities, read_tagged, spans_of

WORDS = ["Ada", "Lovelace", "met", "Marie", "in", "New", "York"]
FOUND = (Span(0, 12, "PER"), Span(17, 22, "PER"), Span(26, 34, "LOC"))


@pytest.mark.parametrize(
    "tags",
    [
        ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC", "I-LOC"],
        ["I-PER", "I-PER", "O", "I-PER", "O", "I-LOC", "I-LOC"],
        ["B-PER", "E-PER", "O", "S-PER", "O", "B-LOC", "E-LOC"],
        ["B-PER", "L-PER", "O", "U-PER", "O", "B-LOC", "L-LOC"],
        ["PER", "PER", "O", "PER", "O", "LOC", "LOC"],
    ],
    ids=["BIO", "IOB1", "BIOES", "BILOU", "without prefix"],
)
def test_dialects_of_tags(tags: list[str]) -> None:
    assert spans_of(WORDS, tags) == (" ".join(WORDS), FOUND)


def test_where_an_entity_begins() -> None:
    """As conlleval reads them: B begins one even after its like; another type begins one without B."""
    assert spans_of(["a", "b"], ["B-X", "B-X"])[1] == (Span(0, 1, "X"), Span(2, 3, "X"))
    assert spans_of(["a", "b"], ["B-X", "I-Y"])[1] == (Span(0, 1, "X"), Span(2, 3, "Y"))
    assert spans_of(["a", "b"], ["S-X", "I-X"])[1] == (Span(0, 1, "X"), Span(2, 3, "X"))
    assert spans_of(["a"], ["B-A-B"])[1] == (Span(0, 1, "A-B"),)


def test_a_conll_file(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nAda NNP B-NP B-PER\nslept VBD B-VP O\n\nBonn NNP B-NP B-LOC\n"
    path = tmp_path / "a.conll"
    path.write_text(text)
    found = read_tagged(path)
    assert found.texts == ["Ada slept", "Bonn"]
    assert found.spans == [(Span(0, 3, "PER"),), (Span(0, 4, "LOC"),)]
    assert found.names == ("LOC", "PER")
    assert has_entities(path)
    path.write_text("Ada\n")
    with pytest.raises(InputError, match=r"line 1 of .* has no tag"):
        read_tagged(path)


def test_comments_are_no_words_and_a_word_may_be_a_number_sign(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    sentence = "Ada NNP B-PER\nslept VBD O\n\n"
    comments = "# sent_id = 1\n# text = Ada slept by a B-52\n"
    path.write_text(f"{comments}{sentence}#begin document (x); part 000\n{sentence}")
    assert read_tagged(path).texts == ["Ada slept"] * 2
    path.write_text("\ufeff# O\nAda B-PER\r\n\r\n# B-MISC\n1 I-MISC\n \n#tag o\n")
    found = read_tagged(path)
    assert found.texts == ["# Ada", "# 1", "#tag"]
    assert found.spans == [(Span(2, 5, "PER"),), (Span(0, 3, "MISC"),), ()]


def test_spans_that_cut_words_are_said_and_white_space_is_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"text": "Adaline's in  Bonn ", "entities": [[0, 3, "PER"], [12, 19, "LOC"]] * 2})
    )
    found = read_tagged(path)
    assert found.spans == [(Span(0, 3, "PER"), Span(14, 18, "LOC"))]
    (message,) = map(str, found.messages)
    assert message.startswith("1 entities begin or end within a word, such as 'Ada' in ")


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"body": "Ada", "found": [[0, 3, "PER"]]}))
    assert not has_entities(path)
    columns = Columns(column="body", label_column="found")
    assert has_entities(path, columns)
    assert read_tagged(path, columns).spans == [(Span(0, 3, "PER"),)]
    with pytest.raises(
        UsageError, match=r"group_column='who' is for texts with a label each, and .* marks ent"
    ):
        read_tagged(path, Columns(column="body", label_column="found", group_column="who"))
    (tmp_path / "a.conll").write_text("Ada B-PER\n")
    with pytest.raises(UsageError, match="column='body' is for texts with a label each"):
        read_tagged(tmp_path / "a.conll", Columns(column="body"))


def test_texts_that_no_model_reads_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"tokens": words, "ner_tags": ["O"] * len(words)} for words in (["a"], ["b", None], [""], ["\ud800"])
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_tagged(path)
    assert found.texts == ["a"]
    assert sum(found.left_out.values()) == 3


@pytest.mark.skipif("BERTONNX_SHARED" not in os.environ, reason="needs the data that BERTONNX_SHARED names")
def test_the_entities_of_conll_2003() -> None:
    """5,942 entities in 3,250 sentences, as Tjong Kim Sang and De Meulder 2003 count those of the dev set."""
    found = read_tagged(Path(os.environ["BERTONNX_SHARED"]) / "data" / "conll_dev.txt")
    assert len(found) == 3250
    assert sum(map(len, found.spans)) == 5942


@pytest.mark.parametrize(
    "row",
    [
        {"tokens": WORDS, "ner_tags": ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC", "I-LOC"]},
        {"text": " ".join(WORDS), "entities": [{"start": s, "end": e, "label": n} for s, e, n in FOUND]},
        {"text": " ".join(WORDS), "label": [[*span] for span in FOUND]},
    ],
    ids=["words", "objects", "lists"],
)
def test_json_lines(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    found = read_tagged(path)
    assert (found.texts, found.spans) == ([" ".join(WORDS)], [FOUND])
    assert has_entities(path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a"], "ner_tags": ["O", "O"]}, "1 words and 2 tags"),
        ({"tokens": ["a"], "ner_tags": [0]}, "nothing says what they mean"),
        ({"text": "ab", "entities": [{"start": 0, "end": 3, "label": "X"}]}, "the text has 2 characters"),
        ({"text": "ab", "entities": [{"start": 1, "end": 1, "label": "X"}]}, "half open"),
        ({"text": "abc", "entities": [[0, 2, "X"], [1, 3, "Y"]]}, "two entities .* overlap in 'abc'"),
        ({"text": "a b", "entities": [[1, 2, "X"]]}, "half open"),
        ({"text": "ab", "entities": [[False, True, "X"]]}, "half open"),
        ({"text": "ab", "entities": [[0, 1, " "]]}, "half open"),
        ({"text": "ab", "label": "x"}, "no row of .* has words and their tags"),
    ],
)
def test_json_lines_that_are_wrong(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=said):
        read_tagged(path)


def test_labels_of_texts_are_no_entities(tmp_path: Path) -> None:
    for name, row in (
        ("a.jsonl", {"text": "a", "label": "x"}),
        ("b.jsonl", {"text": "a", "labels": ["x", "y"]}),
    ):
        (tmp_path / name).write_text(json.dumps(row))
        assert not has_entities(tmp_path / name)
    assert not has_entities(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["Ada"], "ner_tags": ["B-\ud800"]}, "write names, such as B-PER"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 3, "label": "\ud800"}]}, "an entity of"),
    ],
)
def test_half_a_character_is_no_name(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=said):
        read_tagged(tmp_path / "a.jsonl")
