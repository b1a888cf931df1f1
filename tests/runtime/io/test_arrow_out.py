"""Parquet and Arrow IPC, written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import RowError, UsageError
from bertonnx.runtime.io.arrow_out import ROWS_WRITTEN
from bertonnx.runtime.io.columns import Result
from tests.fake_predictor import card
from tests.results import CARDS, results_of, same_item, write, writer_of
from tests.tables import written


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


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("name", ["regression", "token-classification"])
def test_a_finished_table_of_other_columns_is_not_gone_on_with(
    tmp_path: Path, name: str, ending: str
) -> None:
    path = write(tmp_path / f"out{ending}", name, results_of(name))
    with pytest.raises(UsageError, match="was not written by this command; run without resume"):
        writer_of(path, CARDS["feature-extraction"]).finished()
    assert writer_of(path, CARDS[name]).finished() is not None


def test_a_finished_table_of_another_width_or_top_k(tmp_path: Path) -> None:
    path = write(tmp_path / "out.parquet", "feature-extraction", results_of("feature-extraction"))
    with pytest.raises(UsageError, match="was not written by this command"):
        writer_of(path, card("feature-extraction", width=9)).finished()
    path = write(tmp_path / "out.arrow", "question-answering", results_of("question-answering"))
    with pytest.raises(UsageError, match="was not written by this command"):
        writer_of(path, CARDS["question-answering"], top_k=2).finished()


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("data", [b"x", b"PAR1 no, text", b"\xff" * 100, b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_what_is_no_table_is_not_gone_on_with(tmp_path: Path, ending: str, data: bytes) -> None:
    path = written(tmp_path / f"out{ending}", data)
    with pytest.raises(UsageError, match="was not written by this command; run without resume"):
        writer_of(path, CARDS["regression"]).finished()
