"""Texts with entities: CoNLL files in all their dialects, JSON lines with spans or tags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bertonnx.errors import InputError
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
