"""Labelled files: which columns are taken, and what kind of labels they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from bertonnx.errors import InputError, UsageError
from bertonnx.runtime.evaluation.labelled import Columns, Labelled, read_labelled


def read(tmp_path: Path, name: str, text: str, columns: Columns = Columns(), **more: Any) -> Labelled:  # noqa: B008
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_labelled(path, columns, **more)


def test_columns_are_found_by_their_names_whatever_blanks_and_capitals(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "id, Review , Label\n1,good,pos\n2,bad,neg\n")
    assert (found.texts, found.labels) == (["good", "bad"], ["pos", "neg"])
    assert found.columns == {"label": " Label", "text": " Review "}


def test_a_column_is_asked_for_where_nothing_says_which(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"which column of .* holds the label\? its columns are: a, b, c"):
        read(tmp_path, "a.csv", "a,b,c\nx,y,z\n")
    found = read(tmp_path, "b.csv", "a,b,c\nx,y,z\n", Columns(column="b", label_column="c"))
    assert (found.texts, found.labels) == (["y"], ["z"])
    with pytest.raises(InputError, match="no column 'd'; its columns are: a, b, c"):
        read(tmp_path, "c.csv", "a,b,c\nx,y,z\n", Columns(label_column="d"))


def test_a_table_without_a_header_is_read_from_its_first_line(tmp_path: Path) -> None:
    rows = "".join(f"text number {n}\t{n % 2}\n" for n in range(10))
    found = read(tmp_path, "a.tsv", rows)
    assert len(found) == 10
    assert found.texts[0] == "text number 0"
    assert found.names == ("0", "1")
    # With one, it is none of the rows.
    assert len(read(tmp_path, "b.tsv", "text\tlabel\n" + rows)) == 10


@pytest.mark.parametrize(
    ("labels", "kind", "read_as"),
    [
        (["a", "b"], "single_label_classification", ["a", "b"]),
        ([1, 0], "single_label_classification", ["1", "0"]),
        ([1.0, 2.0], "single_label_classification", ["1", "2"]),
        ([True, False], "single_label_classification", ["True", "False"]),
        ([0.5, 2], "regression", [0.5, 2.0]),
        (list(range(60)), "regression", [float(n) for n in range(60)]),
        ([["a", "b"], []], "multi_label_classification", [("a", "b"), ()]),
    ],
)
def test_the_kind_of_labels(tmp_path: Path, labels: list[Any], kind: str, read_as: list[Any]) -> None:
    rows = [json.dumps({"text": f"t{n}", "label": label}) for n, label in enumerate(labels)]
    found = read(tmp_path, "a.jsonl", "\n".join(rows))
    assert found.kind == kind
    assert found.labels == read_as
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [f"t{n}" for n in range(len(labels))], "label": labels}),
        tmp_path / "a.parquet",
    )
    again = read_labelled(tmp_path / "a.parquet", Columns())
    # A column of Parquet has one type, so that whole numbers among others have a fraction there.
    assert (again.kind, again.labels) == (kind, read_as)


def test_several_columns_are_labels_that_may_hold(tmp_path: Path) -> None:
    text = "text,toxic,rude\na,0,1\nb,1,1\nc,0,0\n"
    found = read(tmp_path, "a.csv", text, Columns(label_column="toxic,rude"))
    assert found.kind == "multi_label_classification"
    assert found.labels == [("rude",), ("toxic", "rude"), ()]
    with pytest.raises(InputError, match="the column 'rude' holds '7'"):
        read(tmp_path, "b.csv", "text,toxic,rude\na,0,7\n", Columns(label_column="toxic,rude"))


def test_a_kind_that_was_asked_for(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "text,label\na,1\nb,2\n", Columns(problem_type="regression"))
    assert found.labels == [1.0, 2.0]
    with pytest.raises(InputError, match=r"the label 'x' of .*b\.csv is no number, and an amount a text is"):
        read(tmp_path, "b.csv", "text,label\na,x\n", Columns(problem_type="regression"))
    single = Columns(problem_type="single_label_classification")
    with pytest.raises(InputError, match=r"the labels of .* are lists, and one label a text is wanted"):
        read(tmp_path, "b.jsonl", '{"text": "a", "label": ["x"]}', single)
    with pytest.raises(UsageError, match="problem_type='ranking' is unknown"):
        Columns(problem_type="ranking")


def test_a_whole_number_is_one_label_however_a_table_writes_it(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "text,label\na,1.0\nb,1\nc,2.00\nd,01\ne,1e0\nf,-1.0\n")
    assert found.labels == ["1", "1", "2", "01", "1e0", "-1"]
    decimals = pyarrow.array([1, 2]).cast(pyarrow.decimal128(20, 1))
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["a", "b"], "label": decimals}), tmp_path / "a.parquet"
    )
    assert read_labelled(tmp_path / "a.parquet", Columns()).labels == ["1", "2"]
    # Versions, say.
    single = Columns(problem_type="single_label_classification")
    found = read(tmp_path, "b.csv", "text,label\na,2.0\nb,2.1\n", single)
    assert found.labels == ["2.0", "2.1"]


def test_rows_without_what_they_need_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": None, "label": "x"}, {"text": " ", "label": "x"}]
    rows += [{"text": "b", "label": None}, {"text": "c"}, {"text": 7, "label": "x"}]
    found = read(tmp_path, "a.jsonl", "\n".join([*map(json.dumps, rows), "{"]))
    assert found.texts == ["a"]
    assert found.left_out == {
        "without a text": 2,
        "with an empty text": 1,
        "without a label": 2,
        "that could not be read": 1,
    }
    with pytest.raises(InputError, match=r"no row of .* has a text and a label: 2 without a label"):
        read(tmp_path, "b.csv", "text,label\na,\nb,\n")


def test_gaps_among_numbers_are_no_labels(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "text,label\na,1.5\nb,NA\nc, nan \nd,2.5\n")
    assert (found.kind, found.labels, found.left_out) == ("regression", [1.5, 2.5], {"without a label": 2})
    # Among words it may well be one.
    found = read(tmp_path, "b.csv", "text,label\na,no\nb,NA\n")
    assert found.labels == ["no", "NA"]
    assert "1 rows have the label 'NA', which is taken for one" in str(found.messages[-1])
    gaps = ("N/A", "#N/A", "<NA>", "null", "None", "inf", "-Infinity")
    found = read(tmp_path, "c.csv", "text,label\na,1\nb,2\n" + "".join(f"c,{gap}\n" for gap in gaps))
    assert (found.labels, found.left_out) == (["1", "2"], {"without a label": len(gaps)})
    rows = [
        {"text": "a", "label": 1.5},
        {"text": "b", "label": float("inf")},
        {"text": "c", "label": float("nan")},
    ]
    assert read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))).labels == [1.5]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"a": 1}, r"has the label \"\{'a': 1\}\"; give words, numbers, or lists"),
        ([["a"]], r"has the label \"\['a'\]\"; give words"),
        (["b"], r"some labels of .* are lists, such as \"\['b'\]\", and some are not"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, label: Any, said: str) -> None:
    rows = [{"text": "a", "label": label}, {"text": "b", "label": ["x"] if said.startswith("has") else "x"}]
    with pytest.raises(InputError, match=said):
        read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows if said.startswith("some") else [rows[0]])))


def test_labels_are_on_one_line_and_halves_of_characters_are_no_text(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": " two\nlines\x1b[31m "}, {"text": "\ud800", "label": "x"}]
    found = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert found.labels == ["two lines [31m"]
    assert found.left_out == {"with a text that is not valid Unicode": 1}


def test_other_marks_between_columns_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"are parted by ';', and those of a \.csv file are by ','"):
        read(tmp_path, "a.csv", "text;label\na, b;x\n")
    (tmp_path / "b.csv").write_bytes("text,label\ncafé,x\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"no row of .*: 1 that could not be read, the first: .*UTF-8"):
        read_labelled(tmp_path / "b.csv", Columns())


def test_several_columns_that_say_nothing_or_are_named_twice(tmp_path: Path) -> None:
    text = "text,toxic,rude\na,0,0\nb,1,0\n"
    found = read(tmp_path, "a.csv", text, Columns(label_column="toxic,rude"))
    assert found.names == ("toxic",)
    assert str(found.messages[-1]) == "no row has these labels: rude"
    assert read(tmp_path, "a.csv", text, Columns(label_column="toxic,toxic")).columns["label"] == "toxic"


def test_rows_of_no_group_have_none(tmp_path: Path) -> None:
    rows = [{"text": t, "label": "x", "who": who} for t, who in (("a", 1), ("b", None), ("c", " "))]
    found = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)), Columns(group_column="who"))
    assert found.groups == ["1", "", ""]


def test_pairs(tmp_path: Path) -> None:
    text = "premise,hypothesis,label\na,b,x\n"
    found = read(tmp_path, "a.csv", text, needs_pair=True)
    assert (found.texts, found.pairs) == (["a"], ["b"])
    with pytest.raises(InputError, match=r"which column of .* holds the text"):
        read(tmp_path, "b.csv", "one,two,label\na,b,x\n", needs_pair=True)


@pytest.mark.parametrize("name", ["a.npy", "a", "a.xlsx"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="does not say how to read labelled texts"):
        read(tmp_path, name, "x")
    with pytest.raises(InputError, match="there is no file"):
        read_labelled(tmp_path / "none.csv", Columns())
    with pytest.raises(InputError, match="holds no rows"):
        read(tmp_path, "empty.csv", "text,label\n")


@pytest.mark.parametrize(
    ("label", "said"),
    [
        # Each was another exception, or a file whose figures were NaN.
        (10**400, "is too large for a model, which computes in float32; divide all labels by one number"),
        (-1e300, r"the label -1e\+300 of .* is too large"),
        ("\ud800", "has the label .* give words, numbers, or lists of them"),
        (["\ud800"], "has the label .* give words, numbers, or lists of them"),
    ],
)
def test_labels_that_no_model_can_hold(tmp_path: Path, label: object, said: str) -> None:
    other: object = ["a"] if isinstance(label, list) else "a" if isinstance(label, str) else 0.5
    lines = [json.dumps({"text": str(n), "label": one}) + "\n" for n, one in enumerate((other, label))]
    with pytest.raises(InputError, match=said):
        read(tmp_path, "a.jsonl", "".join(lines))


def test_a_label_of_many_brackets_is_a_word(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "text,label\na," + "[" * 50_000 + "\nb,c\n")
    assert found.names == ("[" * 50_000, "c")
