"""Record batches in memory: texts in, predictions out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.feather
import pytest

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.runtime.io import arrow_batch
from bertonnx.runtime.io.arrow_batch import batch_schema, predict_batch
from bertonnx.runtime.io.arrow_out import schema_of
from bertonnx.runtime.options import BatchOptions, DecodeOptions, RunOptions
from bertonnx.runtime.rows import Row
from tests.fake_predictor import FakePredictor, result_of
from tests.results import CARDS, same_item


@pytest.mark.parametrize("name", CARDS)
def test_record_batch_in_record_batch_out(name: str) -> None:
    model = FakePredictor()
    model.card = CARDS[name]
    batch = pa.record_batch(
        {"n": [1, 2, 3, 4], "text": ["a", None, "FAIL", "LONG"], "pair": ["p", "q", "r", "s"]}
    )
    if name == "question-answering":
        batch = batch.rename_columns(["n", "question", "context"])
    result = predict_batch(model, batch)
    assert result.schema == schema_of(model.card, DecodeOptions())
    rows = result.to_pylist()
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert [row["error_type"] for row in rows] == [None, "missing-text", "runtime", None]
    assert [row["truncated"] for row in rows] == [False, False, False, True]
    for place, text, pair in ((0, "a", "p"), (3, "LONG", "s")):
        for field, value in result_of(model.card, Row(text, pair)).items():
            assert field not in rows[place] or same_item(rows[place][field], value)


def test_which_columns_of_a_record_batch_are_read() -> None:
    model = FakePredictor(pairs=False)
    only = predict_batch(model, pa.record_batch({"n": [1], "body": ["a"]}))
    both = predict_batch(model, pa.record_batch({"text": ["a"], "pair": ["b"]}))
    assert only.equals(both), "a model of single texts does not read a pair"
    empty = predict_batch(model, pa.record_batch({"text": pa.array([], pa.string())}))
    assert (empty.num_rows, empty.schema) == (0, only.schema)
    two = pa.record_batch({"a": ["x"], "b": ["a"], "n": [1]})
    with pytest.raises(
        InputError, match=r"which column of the record batch holds the text\?.* say column='NAME'"
    ):
        predict_batch(model, two)
    assert predict_batch(model, two, columns=RunOptions(column="b")).equals(only)
    with pytest.raises(InputError, match="the record batch has no column 'c'"):
        predict_batch(model, two, columns=RunOptions(column="c"))
    with pytest.raises(InputError, match="the model reads pairs"):
        predict_batch(FakePredictor(pairs=True), pa.record_batch({"text": ["a"]}))


KEPT = pa.table(
    {
        "id": pa.array([10, 11, 12], pa.int8()),
        "text": ["a", None, "FAIL"],
        "when": pa.array([1, None, 3], pa.timestamp("us", "Europe/Paris")),
        "deep": [{"x": [1, None]}, None, {"x": []}],
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    }
).replace_schema_metadata({"made": "elsewhere"})


@pytest.mark.parametrize("name", CARDS)
def test_columns_are_kept_and_the_schema_is_known_before(name: str) -> None:
    model = FakePredictor()
    model.card = CARDS[name]
    table = KEPT.append_column("pair", pa.array(["p", "q", "r"]))
    columns = RunOptions(column="text", pair_column="pair" if model.card.takes_pair else None)
    for batch in (table.to_batches()[0], table):
        for plain in (False, True):
            options = BatchOptions(keep=True, plain=plain, first_row=7)
            result = predict_batch(model, batch, DecodeOptions(), columns, options)
            assert type(result) is type(batch)
            assert result.schema.equals(
                batch_schema(model.card, batch.schema, DecodeOptions(), options), check_metadata=True
            )
            assert result.schema.metadata == {b"made": b"elsewhere"}
            assert result.select(batch.schema.names).equals(batch)
            alone = predict_batch(model, batch, DecodeOptions(), columns)
            assert result.column("row").to_pylist() == [7, 8, 9]
            for column in alone.schema.names[1:]:
                assert result.column(column).to_pylist() == alone.column(column).to_pylist()


def test_a_plain_vector_is_a_list() -> None:
    model = FakePredictor("feature-extraction")
    batch = pa.record_batch({"text": ["a", "FAIL", "b"]})
    vectors = predict_batch(model, batch).column("embedding")
    assert vectors.type == pa.list_(pa.float32(), 8)
    plain = predict_batch(model, batch, options=BatchOptions(plain=True)).column("embedding")
    assert plain.type == pa.list_(pa.float32())
    assert plain.to_pylist() == vectors.to_pylist()
    assert plain.to_pylist()[1] is None


def test_row_numbers() -> None:
    model, batch = FakePredictor(), pa.record_batch({"text": ["a", "b"]})
    options = BatchOptions(first_row=2**40)
    assert predict_batch(model, batch, options=options).column("row").to_pylist() == [2**40, 2**40 + 1]
    none = predict_batch(model, batch, options=BatchOptions(first_row=None))
    assert none.schema == batch_schema(model.card, options=BatchOptions(first_row=None))
    assert none.schema.names == predict_batch(model, batch).schema.names[1:]
    with pytest.raises(UsageError, match="first_row=-1 is too small"):
        BatchOptions(first_row=-1)


def test_a_clash_of_names_says_what_mends_it() -> None:
    model = FakePredictor()
    batch = pa.record_batch({"row": ["a"], "label": ["x"]})
    columns = RunOptions(column="row")
    with pytest.raises(InputError, match=r"the columns row, label are there already.*prefix='bert_'"):
        predict_batch(model, batch, columns=columns, options=BatchOptions(keep=True))
    kept = predict_batch(model, batch, columns=columns, options=BatchOptions(keep=True, prefix="bert_"))
    assert kept.schema.names[:4] == ["row", "label", "bert_row", "bert_label"]
    assert kept.schema.names[-1] == "bert_error_message"
    assert predict_batch(model, batch, columns=columns).schema.names[:2] == ["row", "label"]


def test_columns_of_one_name_are_kept_where_they_hold_no_text() -> None:
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array(["a"]), pa.array([2])], ["n", "text", "n"])
    kept = predict_batch(FakePredictor(), twice, options=BatchOptions(keep=True))
    assert [kept.column(place).to_pylist() for place in range(3)] == [[1], ["a"], [2]]
    texts = pa.RecordBatch.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    with pytest.raises(InputError, match="has more than one column 'text'"):
        predict_batch(FakePredictor(), texts, columns=RunOptions(column="text"))


def test_a_column_that_holds_no_text_is_named() -> None:
    batch = pa.record_batch({"text": ["a"], "n": [1], "deep": [{"text": "a"}]})
    with pytest.raises(InputError, match="column 'n' of the record batch holds int64, and text is needed"):
        predict_batch(FakePredictor(), batch, columns=RunOptions(column="n"))
    with pytest.raises(InputError, match=r"column 'deep' of the record batch holds struct<text: string>"):
        predict_batch(FakePredictor(), batch, columns=RunOptions(column="deep"))


def test_a_failed_row_can_end_it() -> None:
    batch = pa.record_batch({"text": ["a", "b", "FAIL"]})
    with pytest.raises(RowError, match=r"row 102: cannot do") as caught:
        predict_batch(
            FakePredictor(),
            batch,
            columns=RunOptions(on_error="fail"),
            options=BatchOptions(first_row=100),
        )
    assert (caught.value.kind, caught.value.facts["row"]) == ("runtime", 102)


TEXTS = ["a", None, "b", "a"]


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.chunked_array([TEXTS[:1], [], TEXTS[1:]], pa.string()),
        pa.chunked_array([pa.array(TEXTS[:2]).dictionary_encode(), pa.array(TEXTS[2:]).dictionary_encode()]),
        pa.concat_arrays([pa.array(["no", *TEXTS, "no"])]).slice(1, 4),
    ],
    ids=["large", "view", "dictionary", "chunks", "dictionaries", "slice"],
)
def test_every_layout_of_texts(texts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_batch, "ROWS_AT_ONCE", 3)
    table = pa.table({"text": texts, "n": [0, 1, 2, 3]})
    expected = predict_batch(FakePredictor(), pa.record_batch({"text": TEXTS}))
    assert predict_batch(FakePredictor(), table).combine_chunks().to_batches() == [expected]
    kept = predict_batch(FakePredictor(), table, options=BatchOptions(keep=True))
    assert kept.select(["text", "n"]).equals(table)
    if not isinstance(texts, pa.ChunkedArray):
        batch = pa.record_batch({"text": texts})
        assert predict_batch(FakePredictor(), batch).equals(expected)


@pytest.mark.parametrize("kind", [pa.string(), pa.null(), pa.large_string()])
def test_nothing_but_nulls_and_nothing_at_all(kind: Any) -> None:
    nulls = pa.record_batch({"text": pa.nulls(3, kind)})
    result = predict_batch(FakePredictor(), nulls, options=BatchOptions(keep=True))
    assert result.column("error_type").to_pylist() == ["missing-text"] * 3
    assert result.column("score").null_count == 3
    for empty in (nulls.slice(3), pa.table({"text": pa.chunked_array([], kind)})):
        none = predict_batch(FakePredictor(), empty, options=BatchOptions(keep=True))
        assert (none.num_rows, none.schema) == (0, result.schema)


def test_a_text_that_is_not_utf_8_is_its_row_s_error_and_is_kept_as_it_is() -> None:
    raw = pa.array([b"good", b"\xff\xfe", b"fine"])
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    batch = pa.RecordBatch.from_arrays([texts], ["text"])
    result = predict_batch(FakePredictor(), batch, options=BatchOptions(keep=True))
    assert result.column("error_type").to_pylist() == [None, "invalid-text", None]
    assert result.column("text").buffers()[2].equals(texts.buffers()[2])


def test_a_batch_without_texts_says_what_its_columns_hold() -> None:
    batch = pa.record_batch({"text": [1], "other": [b"a"]})
    with pytest.raises(InputError, match="holds text; text holds int64; other holds binary"):
        predict_batch(FakePredictor(pairs=False), batch)
    with pytest.raises(InputError, match=r"no column of the record batch holds text$"):
        predict_batch(FakePredictor(pairs=False), pa.table({}))


@pytest.mark.parametrize("given", [["a"], {"text": ["a"]}, None, pa.array(["a"])])
def test_what_is_no_batch_is_refused_in_plain_words(given: object) -> None:
    with pytest.raises(
        UsageError, match=r"what is given must be a RecordBatch or Table of pyarrow, and is \w+; "
    ):
        predict_batch(FakePredictor(pairs=False), given)
