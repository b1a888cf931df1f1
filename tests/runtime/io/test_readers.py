"""Inputs: every format, and everything that can be wrong with one."""

from __future__ import annotations

import csv
import io
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.runtime.io import readers
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.rows import Row
from tests.tables import rows_of, table, texts_of, written

TABLES = [".csv", ".tsv", ".jsonl", ".parquet", ".arrow"]


# Lines ---------------------------------------------------------------------------------------


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


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    long = "word " * 2_000_000
    assert texts_of(written(tmp_path / "in.txt", f"a\n{long}\nb\n")) == ["a", long, "b"]
    assert texts_of(written(tmp_path / "in.csv", f'text,n\n"{long}\n",1\nb,2\n')) == [long + "\n", "b"]


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


def test_bytes_for_a_progress_bar(tmp_path: Path) -> None:
    for ending in [".txt", *TABLES]:
        columns = {"text": [f"text {i}" for i in range(100)]}
        path = tmp_path / f"in{ending}"
        path = table(path, columns) if ending != ".txt" else written(path, "a\n" * 100)
        with open_rows(path, needs_pair=False) as source:
            assert source.bytes_total == path.stat().st_size
            steps = [source.bytes_done for _ in source]
        assert steps == sorted(steps), ending
        assert 0 <= steps[0] <= steps[-1], ending
        assert source.bytes_done == path.stat().st_size, ending


# JSON lines ----------------------------------------------------------------------------------


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
    with pytest.raises(InputError, match=r"its columns are: body, id; say --column NAME$"):
        rows_of(path)


def test_json_pairs(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", '{"question": "q", "context": "c"}\n{"question": "q"}\n')
    first, second = rows_of(path, needs_pair=True)
    assert first == Row("q", "c")
    assert isinstance(second, RowError)
    assert (second.kind, str(second)) == ("missing-pair", "line 2: the field 'context' is missing")
    with pytest.raises(InputError, match="are no JSON objects"):
        rows_of(written(tmp_path / "bare.jsonl", '"a"\n'), needs_pair=True)


# Tables --------------------------------------------------------------------------------------


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
        "\x00" * (sys.version_info >= (3, 11)),
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
    monkeypatch.setattr(readers, "LONGEST_RECORD", 1000)
    lines = "".join(f"row {i},1\n" for i in range(500))
    path = written(tmp_path / "in.csv", f'text,n\n"open,1\n{lines}"fine\n{"x" * 900}",1\n')
    assert texts_of(path) == ["<malformed-row>", *(f"row {i}" for i in range(500)), "fine\n" + "x" * 900]


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
        ({}, r"which column of .* holds the text\? its columns are: a, b, c; say --column NAME"),
        ({"column": "nope"}, r"has no column 'nope'; its columns are: a, b, c"),
        ({"column": "a", "pair_column": "nope"}, r"has no column 'nope'; its columns are: a, b, c"),
        (
            {"needs_pair": True},
            r"reads pairs.* its columns are: a, b, c; say --column NAME --pair-column NAME",
        ),
        ({"needs_pair": True, "column": "a"}, r"reads pairs.*say --column NAME --pair-column NAME"),
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


# What can be wrong with the file ---------------------------------------------------------------


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is a folder; give one file, or: cat .*/\*\.txt \| bertonnx run MODEL -"
    ):
        rows_of(tmp_path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*in\.txt"):
        rows_of(tmp_path / "in.txt")


@pytest.mark.parametrize("name", ["in", "in.docx", "in.txt.gz"])
def test_an_ending_that_says_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.txt \.csv \.tsv \.jsonl \.ndjson \.parquet \.arrow \.feather"):
        rows_of(written(tmp_path / name, "a\n"))


def test_endings_in_capitals(tmp_path: Path) -> None:
    assert texts_of(written(tmp_path / "IN.TXT", "a\n")) == ["a"]


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
    with pytest.raises(UsageError, match=r"--column a: .* without columns"):
        rows_of(path, column="a")


# Going on, standard input, memory ---------------------------------------------------------------


@pytest.mark.parametrize("ending", [".txt", *TABLES])
def test_skip_is_the_rest_of_the_rows(tmp_path: Path, ending: str) -> None:
    texts = [f"{'two' + chr(10) if ending == '.csv' and i % 3 == 0 else ''}row {i}" for i in range(10)]
    path = tmp_path / f"in{ending}"
    path = (
        written(path, "".join(f"{t}\n" for t in texts)) if ending == ".txt" else table(path, {"text": texts})
    )
    for count in range(13):
        with open_rows(path, needs_pair=False, skip=count) as source:
            assert source.skipped == min(count, 10)
            assert [row.text for row in source if isinstance(row, Row)] == texts[count:]


def test_skip_counts_rows_with_errors(tmp_path: Path) -> None:
    data = 'text,n\n"open,1\n"b",2\nc\n\n"d\ne",3\nf,4\n"g,5\n'
    path = written(tmp_path / "in.csv", data)
    whole = texts_of(path)
    assert whole == ["<malformed-row>", "b", "<ragged-row>", "<ragged-row>", "d\ne", "f", "<malformed-row>"]
    for count in range(9):
        assert texts_of(path, skip=count) == whole[count:]


def read_stdin(data: bytes, **options: Any) -> str:
    program = (
        "from bertonnx.runtime.io.readers import open_rows\n"
        f"for row in open_rows('-', **{options!r}): print(ascii(getattr(row, 'text', row)))"
    )
    run = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False)
    return run.stdout.decode() + run.stderr.decode().strip().rpartition("\n")[2]


def test_standard_input() -> None:
    assert read_stdin(b"\xef\xbb\xbfa\n{}\n\n", needs_pair=False) == "'a'\n'{}'\n''\n"
    assert read_stdin(b'{"t": "a"}\n', needs_pair=False, column="t") == "'a'\n"
    assert "say --column and --pair-column to read JSON lines" in read_stdin(b"", needs_pair=True)
    assert "add --pair-column" in read_stdin(b"", needs_pair=True, column="t")
    assert "put this before it: iconv -f UTF-16" in read_stdin("a".encode("utf-16"), needs_pair=False)


@pytest.mark.parametrize("ending", [".txt", *TABLES])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, ending: str) -> None:
    """200,000 rows of 100 bytes are 20 MB; a reader that holds on to them shows."""
    texts = [f"{i} " + "x" * 100 for i in range(200_000)]
    path = tmp_path / f"in{ending}"
    if ending == ".txt":
        written(path, "".join(f"{t}\n" for t in texts))
    elif ending == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    elif ending == ".arrow":
        with pa.ipc.new_file(path, pa.schema([("text", pa.string())])) as out:
            out.write_batch(pa.record_batch({"text": texts}))
    else:
        table(path, {"text": texts})
    program = (
        "import pyarrow, tracemalloc\n"
        "from bertonnx.runtime.io.readers import open_rows\n"
        "tracemalloc.start()\n"
        f"n = sum(1 for _ in open_rows({str(path)!r}, needs_pair=False))\n"
        "print(n, tracemalloc.get_traced_memory()[1] + pyarrow.default_memory_pool().max_memory())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    count, peak = map(int, run.stdout.split())
    assert count == 200_000
    assert peak < 12_000_000, "bytes at the peak"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("good text\nbad text\n".encode(encoding))
    with (
        pytest.raises(InputError, match=r"is UTF-16[LB]E, and UTF-8 is read; convert it with: iconv"),
        open_rows(path, needs_pair=False) as rows,
    ):
        list(rows)
