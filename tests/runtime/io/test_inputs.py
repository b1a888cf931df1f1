"""Which columns of an input are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertonnx.errors import InputError
from bertonnx.runtime.rows import Row
from tests.tables import TABLES, rows_of, table, written


@pytest.mark.parametrize("ending", TABLES)
@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (["body"], {}, ("body", None)),
        (["id", "text", "x"], {}, ("text", None)),
        (["id", "sentence"], {}, ("sentence", None)),
        (["id", "body"], {"column": "body"}, ("body", None)),
        (["a", "b"], {"pair_column": "b"}, ("a", "b")),
        (["context", "question", "id"], {"needs_pair": True}, ("question", "context")),
        (["sentence2", "sentence1"], {"needs_pair": True}, ("sentence1", "sentence2")),
        (["text", "text_pair"], {"needs_pair": True}, ("text", "text_pair")),
        (["premise", "hypothesis"], {"needs_pair": True}, ("premise", "hypothesis")),
        (["passage", "query"], {"needs_pair": True}, ("query", "passage")),
        (["a", "b"], {"needs_pair": True, "column": "b"}, ("b", "a")),
        (["a", "b"], {"needs_pair": True, "pair_column": "b"}, ("a", "b")),
        (["a", "b", "c"], {"needs_pair": True, "column": "c", "pair_column": "a"}, ("c", "a")),
        (["a", "question", "context"], {"needs_pair": True, "column": "a", "pair_column": "a"}, ("a", "a")),
    ],
)
def test_which_columns_are_read(
    tmp_path: Path, ending: str, names: list[str], options: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    path = table(tmp_path / f"in{ending}", {name: [f"in {name}"] for name in names})
    text, pair = expected
    assert rows_of(path, **options) == [Row(f"in {text}", None if pair is None else f"in {pair}")]


@pytest.mark.parametrize("ending", TABLES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"which column of .* holds the text\? its columns are: a, b, c; say column='NAME'"),
        ({"column": "nope"}, r"has no column 'nope'; its columns are: a, b, c"),
        ({"column": "a", "pair_column": "nope"}, r"has no column 'nope'; its columns are: a, b, c"),
        (
            {"needs_pair": True},
            r"reads pairs.* its columns are: a, b, c; say column='NAME' and pair_column='NAME'",
        ),
        ({"needs_pair": True, "column": "a"}, r"reads pairs.*say column='NAME' and pair_column='NAME'"),
    ],
)
def test_a_missing_column_lists_those_there_are(
    tmp_path: Path, ending: str, options: dict[str, Any], message: str
) -> None:
    path = table(tmp_path / f"in{ending}", {"a": ["1"], "b": ["2"], "c": ["3"]})
    with pytest.raises(InputError, match=message):
        rows_of(path, **options)


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", "text,text\na,b\n")
    with pytest.raises(InputError, match="more than one column 'text'"):
        rows_of(path, column="text")
