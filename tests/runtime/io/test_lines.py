"""Inputs of lines: text and JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.runtime.io import lines
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.rows import Row
from tests.tables import rows_of, texts_of, written


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"\n \n\n", ["", " ", ""]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\rb\nc\r", ["a\r\rb", "c\r"]),
        ("a\x85b\u2028c\u2029d\x0be\x0cf\x1cg\n".encode(), ["a\x85b\u2028c\u2029d\x0be\x0cf\x1cg"]),
        (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        (b"\xef\xbb\xbf", []),
        (b"a\x00b\n\x01\x1b[31m\n", ["a\x00b", "\x01\x1b[31m"]),
        (b"good\nbad \xff\xfe\nfine\n", ["good", "<invalid-text>", "fine"]),
        (b"\xed\xa0\x80\nfine\n", ["<invalid-text>", "fine"]),
        ("naïve 🙂 日本\n".encode(), ["naïve 🙂 日本"]),
    ],
)
def test_lines_of_text(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    assert texts_of(written(tmp_path / "in.txt", data)) == expected


def test_an_invalid_line_says_where_it_is(tmp_path: Path) -> None:
    rows = rows_of(written(tmp_path / "in.txt", b"good\nab\xff\n"))
    assert str(rows[1]) == "line 2 is not valid UTF-8 (byte 0xff at position 2)"


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-be", "UTF-16"), ("utf-32-be", "UTF-32")],
)
@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".jsonl"])
def test_utf16_and_utf32_are_refused_with_the_line_that_converts_them(
    tmp_path: Path, encoding: str, named: str, ending: str
) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    path = written(tmp_path / f"in{ending}", f"{mark}text\nab\n".encode(encoding))
    with pytest.raises(InputError) as caught:
        rows_of(path)
    assert f"iconv -f {named} -t UTF-8 '{path}' > '{tmp_path / 'in.utf8'}{ending}'" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("good text\nbad text\n".encode(encoding))
    with (
        pytest.raises(InputError, match=r"is UTF-16[LB]E, and UTF-8 is read; convert it with: iconv"),
        open_rows(path, needs_pair=False) as rows,
    ):
        list(rows)


def test_json_lines_each_fail_alone(tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "id": 1}',
        '{"text": "b"',
        "",
        "[1, 2]",
        '{"text": null}',
        '{"id": 3}',
        '{"text": 5}',
        '{"text": "\\ud800"}',
        '{"text": "\\ud83d\\ude42"}',
        "[" * 100_000,
        '"bare"',
        '{"text": "a\\u0000b"}',
        '{"text": "c", "id": ' + "9" * 5000 + "}",
    ]
    data = "\n".join(lines).encode() + b'\n{"text": "\xff"}\n'
    assert texts_of(written(tmp_path / "in.jsonl", data)) == [
        "a",
        "<invalid-json>",
        "<invalid-json>",
        "<invalid-json>",
        "<missing-text>",
        "<missing-text>",
        "<invalid-text>",
        "<invalid-text>",
        "🙂",
        "<invalid-json>",
        "bare",
        "a\0b",
        "c",
        "<invalid-text>",
    ]


def test_bare_json_strings_are_texts_unless_a_field_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "in.ndjson", '"a"\n"b"\n{"text": "c"}\n')
    assert texts_of(path) == ["a", "b", "c"]
    assert texts_of(path, column="text") == ["<invalid-json>", "<invalid-json>", "c"]
    only = written(tmp_path / "only.jsonl", '"a"\n3\n')
    assert texts_of(only) == ["a", "<invalid-json>"]


def test_json_that_lacks_the_field_everywhere(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", 'x\n{"body": "a"}\n{"body": "b", "id": 1}\n')
    with pytest.raises(InputError, match=r"no column 'text'; its columns are: body, id"):
        rows_of(path, column="text")
    with pytest.raises(InputError, match=r"its columns are: body, id; say column='NAME'$"):
        rows_of(path)


def test_json_pairs(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", '{"question": "q", "context": "c"}\n{"question": "q"}\n')
    first, second = rows_of(path, needs_pair=True)
    assert first == Row("q", "c")
    assert isinstance(second, RowError)
    assert (second.kind, str(second)) == ("missing-pair", "line 2: the field 'context' is missing")
    with pytest.raises(InputError, match="are no JSON objects"):
        rows_of(written(tmp_path / "bare.jsonl", '"a"\n'), needs_pair=True)


def test_a_file_that_fails_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.symlink_to("/proc/self/mem")  # opens, and gives EIO when read at 0
    with pytest.raises(InputError, match="cannot be read: Input/output error"):
        rows_of(path)


def test_pairs_from_text(tmp_path: Path) -> None:
    path = written(tmp_path / "in.txt", "a\n")
    with pytest.raises(InputError, match=r"pairs of texts are needed, .*\.csv, \.tsv, \.jsonl or \.parquet"):
        rows_of(path, needs_pair=True)
    with pytest.raises(InputError, match="pairs of texts are needed"):
        rows_of(path, pair_column="b")
    with pytest.raises(UsageError, match=r"column='a': .* without columns"):
        rows_of(path, column="a")


@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".jsonl"])
def test_a_line_that_is_too_long_costs_its_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    monkeypatch.setattr(lines, "_PIECE", 64)
    texts = ["a", "x" * 900, "y" * 1001, "z" * 5000, "b"]
    if ending == ".jsonl":
        texts = [f'"{text}"' for text in texts]
    header = "text\n" if ending in (".csv", ".tsv") else ""
    path = written(tmp_path / f"in{ending}", header + "\n".join(texts))
    expected = ["a", "x" * 900, "<too-large>", "<too-large>", "b"]
    assert texts_of(path) == expected
    for count in range(6):
        assert texts_of(path, skip=count) == expected[count:]
    wrong = next(row for row in rows_of(path) if isinstance(row, RowError))
    assert f"line {4 if header else 3} is longer than" in str(wrong)


def test_a_first_line_that_is_too_long_names_no_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    with pytest.raises(InputError, match="does not name its columns: line 1 is longer than"):
        rows_of(written(tmp_path / "in.csv", "x" * 2000 + "\na\n"))


def test_what_is_added_to_a_file_after_it_was_opened_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "in.txt", "a\nb")
    with open_rows(path, needs_pair=False) as rows:
        with path.open("a") as file:
            file.write("c\nd\n")
        assert [row.text for row in rows if isinstance(row, Row)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[" * 100_000, "invalid-json"),
        ('{"text":' * 100_000, "invalid-json"),
        ("1" * 5000, "invalid-json"),
        ('{"text": ' + "9" * 5000 + "}", "invalid-text"),
        ('{"text": 1e999}', "invalid-text"),
        ('{"text": NaN}', "invalid-text"),
        (r'{"text": "\ud800"}', "invalid-text"),
        (r'{"\ud800": "a"}', "missing-text"),
        ('{"text": {"text": "a"}}', "invalid-text"),
        ("null", "invalid-json"),
        ("\0", "invalid-json"),
    ],
)
def test_json_that_no_text_can_be_had_from(tmp_path: Path, line: str, kind: str) -> None:
    data = f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n'
    assert texts_of(written(tmp_path / "in.jsonl", data)) == ["a", f"<{kind}>", "b"]
