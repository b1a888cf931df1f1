"""Inputs of records: CSV and TSV."""

from __future__ import annotations

import csv
import io
import random
import re
from pathlib import Path

import pytest

from bertonnx.errors import InputError, RowError
from bertonnx.runtime.io import tables
from bertonnx.runtime.io.lines import Lines
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.rows import Row
from bertonnx.wording import COMMAND_LINE
from tests.tables import rows_of, texts_of, written


def test_csv_as_the_csv_module_reads_it(tmp_path: Path) -> None:
    """Random tables, written by the csv module and read by both."""
    random.seed(7)
    pieces = [
        "a",
        "é🙂",
        ",",
        "\t",
        '"',
        '""',
        "\n",
        "\r\n",
        " ",
        "'",
        "\\",
        "\x00",
    ]
    for ending, delimiter, quoting in [(".csv", ",", csv.QUOTE_MINIMAL), (".csv", ",", csv.QUOTE_ALL)] * 30:
        cells = [
            ["".join(random.choices(pieces, k=random.randint(0, 6))) for _ in range(2)] for _ in range(20)
        ]
        target = io.StringIO()
        csv.writer(target, delimiter=delimiter, quoting=quoting).writerows([["text", "other"], *cells])  # type: ignore[arg-type]
        path = written(tmp_path / f"in{ending}", target.getvalue())
        expected = list(csv.reader(io.StringIO(target.getvalue(), newline="")))[1:]
        assert [
            [row.text, row.pair] for row in rows_of(path, pair_column="other") if isinstance(row, Row)
        ] == expected
        assert expected == cells


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", []),
        ("text,n\n", []),
        ("text\na\n\n  \nb\n", ["a", "", "  ", "b"]),
        ("text,n\na,1\nb\nc,1,2\n\nd,2\n", ["a", "<ragged-row>", "<ragged-row>", "<ragged-row>", "d"]),
        ("text,n\r\na,1\r\n", ["a"]),
        ("text,n\na\rb,1\n", ["a\rb"]),
        ("text,n\na\x00b,1\n", ["a\x00b"]),
        ('text,n\n5" pipe,1\n', ['5" pipe']),
        ('text,n\n"two\r\nlines\n",1\n', ["two\r\nlines\n"]),
        ('text,n\n"say "hi" now",1\nb,2\n', ["<malformed-row>", "b"]),
        ('text,n\n"never closed,1\nb,2\nc,3\n', ["<malformed-row>", "b", "c"]),
        ('text,n\n"open,1\n"b",2\nc,3\n', ["<malformed-row>", "b", "c"]),
        ("\ufefftext,n\na,1\n", ["a"]),
    ],
)
def test_csv(tmp_path: Path, data: str, expected: list[str]) -> None:
    assert texts_of(written(tmp_path / "in.csv", data)) == expected


def test_invalid_utf8_costs_the_record_not_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", b'text,n\na,1\nb\xff,2\n"c\xfe\nd",3\ne,4\n\xff,\n')
    assert texts_of(path) == ["a", "<invalid-text>", "<invalid-text>", "e", "<invalid-text>"]
    other = written(tmp_path / "other.csv", b"text,n\na,\xff\n")
    assert texts_of(other) == ["a"], "a column that is not read cannot harm"


def test_row_errors_of_a_table_say_the_line(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", 'text,n\n"a\nb",1\nc\n"d\n')
    assert [str(row) for row in rows_of(path)[1:]] == [
        "the record on line 4 has 1 fields, and the first line has 2",
        "the record on line 5 cannot be split: the quote is never closed",
    ]


def test_a_quote_that_is_never_closed_is_given_up_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LONGEST_RECORD", 1000)
    lines = "".join(f"row {i},1\n" for i in range(500))
    path = written(tmp_path / "in.csv", f'text,n\n"open,1\n{lines}"fine\n{"x" * 900}",1\n')
    assert texts_of(path) == ["<malformed-row>", *(f"row {i}" for i in range(500)), "fine\n" + "x" * 900]


def test_empty_lines_in_an_open_quote_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_RECORD", 1000)
    taken = []
    real = Lines.read

    def read(self: Lines) -> bytes | None:
        taken.append(1)
        return real(self)

    path = written(tmp_path / "in.csv", 'text\n"open\n' + "\n" * 500)
    with open_rows(path, needs_pair=False) as rows:
        monkeypatch.setattr(Lines, "read", read)
        assert isinstance(next(iter(rows)), RowError)
        assert len(taken) < 20


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('text\tn\n"whole field"\t1\n', ["whole field"]),
        ('text\tn\n"a ""b"" c"\t1\n', ['a "b" c']),
        ('text\tn\n" said he , " and went\t1\n', ['" said he , " and went']),
        ('text\tn\n" opens and never closes\t1\nb "\t2\n', ['" opens and never closes', 'b "']),
        ('text\tn\n"two\nlines"\t1\n', ["two\nlines"]),
        ("text\tn\na,b\t1\nc\n", ["a,b", "<ragged-row>"]),
        ('text\n"\n"a\n', ['"', '"a']),
    ],
)
def test_tsv_takes_quotes_for_quotes_only_where_they_enclose_a_field(
    tmp_path: Path, data: str, expected: list[str]
) -> None:
    assert texts_of(written(tmp_path / "in.tsv", data)) == expected


@pytest.mark.parametrize("name", ["in.csv", "in.tsv"])
def test_lines_that_end_in_cr_alone_are_not_all_one_header(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"end in CR alone.* convert it with: tr '\\r' '\\n' < "):
        rows_of(written(tmp_path / name, b"text\rone\rtwo\r"))
    assert texts_of(written(tmp_path / name, b'"te\rxt"\r\none\ra\r\n')) == ["one\ra"]


def test_skip_counts_rows_with_errors(tmp_path: Path) -> None:
    data = 'text,n\n"open,1\n"b",2\nc\n\n"d\ne",3\nf,4\n"g,5\n'
    path = written(tmp_path / "in.csv", data)
    whole = texts_of(path)
    assert whole == ["<malformed-row>", "b", "<ragged-row>", "<ragged-row>", "d\ne", "f", "<malformed-row>"]
    for count in range(9):
        assert texts_of(path, skip=count) == whole[count:]


@pytest.mark.parametrize(
    ("name", "header", "said"),
    [
        (
            "in.csv",
            "text;label",
            "semicolons between them; save it with commas between fields, or .* --column",
        ),
        ("in.csv", "text\tlabel", "tabs between them"),
        ("in.tsv", "text,label", "commas between them; save it with tabs between fields"),
    ],
)
def test_a_table_with_another_separator_is_not_one_column(
    tmp_path: Path, name: str, header: str, said: str
) -> None:
    path = written(tmp_path / name, f"{header}\nx\n")
    with pytest.raises(InputError) as caught:
        texts_of(path)
    assert re.search(said, caught.value.worded(COMMAND_LINE))
    assert texts_of(path, column=header) == ["x"]


@pytest.mark.parametrize("header", ["Comments; please be honest", "text;", "a\nb", '"Well, well"'])
def test_one_column_may_be_called_anything_else(tmp_path: Path, header: str) -> None:
    assert texts_of(written(tmp_path / "in.csv", f"{header}\nx\n"))[-1] == "x"
