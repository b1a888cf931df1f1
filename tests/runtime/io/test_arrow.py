"""Parquet and Arrow IPC, read and written, and record batches in memory."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import InputError, MissingDependencyError, RowError, UsageError
from bertonnx.runtime.io.arrow import ROWS_WRITTEN, predict_batch, schema_of
from bertonnx.runtime.io.columns import Result
from bertonnx.runtime.io.writers import open_writer
from bertonnx.runtime.rows import Row
from tests.fake_predictor import FakePredictor, card, result_of
from tests.results import CARDS, results_of, same_item, write
from tests.tables import rows_of, texts_of, written

# Reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather", "stream.arrow"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_arrow_and_parquet(tmp_path: Path, ending: str, kind: Any) -> None:
    path = tmp_path / f"in{ending}"
    data = pa.table({"n": [1, 2, 3], "text": pa.array(["a", None, "é\0"]).cast(kind)})
    if ending == ".parquet":
        pq.write_table(data, path)
    elif ending == ".feather":
        pyarrow.feather.write_feather(data, str(path))
    else:
        opened = pa.ipc.new_stream if ending.startswith("stream") else pa.ipc.new_file
        with opened(path, data.schema) as out:
            out.write_table(data)
    assert texts_of(path) == ["a", "<missing-text>", "é\0"]


def test_a_column_of_numbers_is_refused_and_one_of_nulls_is_not(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a"], "n": [1], "none": pa.nulls(1)}), path)
    with pytest.raises(InputError, match=r"the column 'n' of .* holds int64, and text is needed"):
        rows_of(path, column="n")
    assert texts_of(path, column="none") == ["<missing-text>"]


def test_invalid_utf8_in_an_arrow_column(tmp_path: Path) -> None:
    path = tmp_path / "in.arrow"
    raw = pa.array([b"a", b"\xff", None, b"b"], pa.binary())
    data = pa.table({"text": pa.Array.from_buffers(pa.string(), 4, raw.buffers())})
    with pa.ipc.new_file(path, data.schema) as out:
        out.write_table(data)
    assert texts_of(path) == ["a", "<invalid-text>", "<missing-text>", "b"]


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("data", [b"", b"PAR1 no, text", b"\xff\xff\xff\xff"])
def test_what_is_not_parquet_or_arrow(tmp_path: Path, ending: str, data: bytes) -> None:
    with pytest.raises(InputError, match="cannot be read as"):
        rows_of(written(tmp_path / f"in{ending}", data))


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    texts = [f"{i} {random.random()}" for i in range(5000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000, use_dictionary=False)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = b"\xff" * 4000
    with pytest.raises(InputError, match="cannot be read on as Parquet"):
        rows_of(written(path, bytes(data)))


def test_without_pyarrow_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "bertonnx\[arrow\]"'):
        rows_of(written(tmp_path / "in.parquet", b"x"))


# Writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("name", CARDS)
def test_arrow_tables(tmp_path: Path, name: str, ending: str) -> None:
    results: list[Result] = [r for r in results_of(name) if not isinstance(r, RowError)]
    results.insert(2, RowError("runtime", "no"))
    path = write(tmp_path / f"out{ending}", name, results)
    data = pq.read_table(path) if ending == ".parquet" else pa.ipc.open_file(path).read_all()
    fields = {"embedding", "label", "labels", "score", "entities", "answer", "start", "end", "masks"}
    for index, (row, result) in enumerate(zip(data.to_pylist(), results, strict=True)):
        assert row["row"] == index
        if isinstance(result, RowError):
            assert (row["error_type"], row["error_message"], row["truncated"]) == ("runtime", "no", False)
            assert {row[k] for k in fields & set(row)} == {None}
        else:
            assert row["truncated"] == bool(result.get("truncated"))
            assert row["error_type"] is None
            for field in fields & set(result):
                assert same_item(row[field], result[field])
            for label, score in result.get("scores", {}).items():
                assert same_item(row[f"score_{label}"], score)


def test_arrow_types(tmp_path: Path) -> None:
    schema = pq.read_schema(
        write(tmp_path / "out.parquet", "feature-extraction", results_of("feature-extraction"))
    )
    assert schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert (schema.field("row").type, schema.field("truncated").type) == (pa.int64(), pa.bool_())
    entities = (
        pq.read_schema(write(tmp_path / "e.parquet", "token-classification", [])).field("entities").type
    )
    assert entities.value_type.field("score").type == pa.float32()


def test_row_groups_have_a_fixed_size(tmp_path: Path) -> None:
    results: list[Result] = [{"score": 0.5}] * (2 * ROWS_WRITTEN + 3)
    path = write(tmp_path / "out.parquet", "regression", results)
    meta = pq.read_metadata(path)
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [ROWS_WRITTEN, ROWS_WRITTEN, 3]


# Record batches --------------------------------------------------------------------------------


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
    assert result.schema == schema_of(model.card)
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
    with pytest.raises(InputError, match="which column of the record batch holds the text"):
        predict_batch(model, pa.record_batch({"a": ["a"], "b": ["b"], "n": [1]}))
    with pytest.raises(InputError, match="the model reads pairs"):
        predict_batch(FakePredictor(pairs=True), pa.record_batch({"text": ["a"]}))


# What is there and is finished ---------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("name", ["regression", "token-classification"])
def test_a_finished_table_of_other_columns_is_not_gone_on_with(
    tmp_path: Path, name: str, ending: str
) -> None:
    path = write(tmp_path / f"out{ending}", name, results_of(name))
    with pytest.raises(UsageError, match="was not written by this command; run without --resume"):
        open_writer(path, card=CARDS["feature-extraction"]).finished()
    assert open_writer(path, card=CARDS[name]).finished() is not None


def test_a_finished_table_of_another_width_or_top_k(tmp_path: Path) -> None:
    path = write(tmp_path / "out.parquet", "feature-extraction", results_of("feature-extraction"))
    with pytest.raises(UsageError, match="was not written by this command"):
        open_writer(path, card=card("feature-extraction", width=9)).finished()
    path = write(tmp_path / "out.arrow", "question-answering", results_of("question-answering"))
    with pytest.raises(UsageError, match="was not written by this command"):
        open_writer(path, card=CARDS["question-answering"], top_k=2).finished()


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("data", [b"x", b"PAR1 no, text", b"\xff" * 100, b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_what_is_no_table_is_not_gone_on_with(tmp_path: Path, ending: str, data: bytes) -> None:
    path = written(tmp_path / f"out{ending}", data)
    with pytest.raises(UsageError, match="was not written by this command; run without --resume"):
        open_writer(path, card=CARDS["regression"]).finished()
