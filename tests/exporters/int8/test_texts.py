"""The texts that come with bertonnx: which they are, and that the files hold nothing else."""

from __future__ import annotations

import hashlib
import unicodedata
from importlib.resources import files

import pytest

from bertonnx.exporters.int8.texts import QUESTIONS, TEXTS


def test_the_texts_and_their_order_are_fixed() -> None:
    """Another text, or another order, would give other INT8 weights for the same checkpoint."""
    assert (len(TEXTS), len(QUESTIONS)) == (256, 8)
    assert TEXTS[0].startswith("The central bank left interest rates unchanged")
    assert TEXTS[-1] == "The tide tables for Saint-Malo are printed on the back of the parking ticket."
    assert QUESTIONS[0] == "Who is it about?"
    found = hashlib.sha256("\n".join([*TEXTS, *QUESTIONS]).encode()).hexdigest()
    assert found == "e5a2e235f878d02558d6831564d6c93864432e03ce45b50745309bf57af63b7c"


def test_each_text_is_one_line_and_different() -> None:
    assert len(set(TEXTS)) == len(TEXTS)
    for text in (*TEXTS, *QUESTIONS):
        assert text == text.strip() != ""
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)


@pytest.mark.parametrize("name", ["texts.txt", "questions.txt"])
def test_the_files_are_utf_8_and_end_in_a_line(name: str) -> None:
    content = files("bertonnx.exporters.int8").joinpath(name).read_bytes()
    assert content.endswith(b"\n")
    assert not content.startswith(b"\xef\xbb\xbf")  # a byte order mark would be part of the first text
    assert b"\r" not in content
    content.decode("utf-8")
