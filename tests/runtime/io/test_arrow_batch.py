"""Record batches in memory: texts in, predictions out."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.feather
import pytest

from bertonnx.errors import InputError
from bertonnx.runtime.io.arrow_batch import predict_batch
from bertonnx.runtime.io.arrow_out import schema_of
from bertonnx.runtime.options import DecodeOptions, RunOptions
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
