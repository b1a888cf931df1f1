"""Embedding tables in INT8: which they are, and what their rows become."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.errors import GraphError
from bertonnx.exporters.int8.tables import QuantizeTables
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.onnxgraph.step import run
from bertonnx.runtime.rows import Array
from tests.graphs import changed

IDS = np.array([[0, 1], [2, 999]])


def _model(table: np.ndarray, op_type: str = "Gather") -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node(op_type, ["table", "input_ids"], ["rows"]),
            helper.make_node("Cast", ["rows"], ["out"], to=TensorProto.FLOAT),
        ],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _table(rows: int = 1000, width: int = 3) -> Array:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def test_each_row_has_a_scale_of_its_own_however_small() -> None:
    table = _table()
    table[0] = [1e-20, -2.54e-20, 2e-22]
    table[1] = 0.0
    table[2] = [254.0, -100.0, 3.0]
    model, counts = changed(_model(table), QuantizeTables(), QuantizeTables())
    assert counts == [1, 0]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert weights.keys() == {"table/int8", "table/scales"}
    np.testing.assert_allclose(weights["table/scales"][[0, 2], 0], [2e-22, 2.0], rtol=1e-6)
    assert weights["table/int8"][:3].tolist() == [[50, -127, 1], [0, 0, 0], [127, -50, 2]]
    assert np.isfinite(weights["table/scales"]).all()
    rows = run_graph(model, {"input_ids": IDS}, ["out"])["out"]
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(rows - table[IDS]) <= 0.5001 * step[IDS])
    np.testing.assert_allclose(rows[1, 0], [254.0, -100.0, 4.0])


@pytest.mark.parametrize(
    ("table", "count"),
    [
        (_table(1000), 1),
        (_table(999), 0),
        (_table().astype(np.float16), 0),
        (_table(width=1), 0),
        (_table(width=2), 1),
        (_table()[:, 0], 0),
        (_table(3000).reshape(1000, 3, 3), 0),
    ],
    ids=["1000 rows", "999 rows", "halves", "a column", "two columns", "a vector", "three dimensions"],
)
def test_only_large_tables_of_float32_are_stored_so(table: np.ndarray, count: int) -> None:
    assert changed(_model(table), QuantizeTables())[1] == [count]


def test_a_table_that_is_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QuantizeTables, "apply", lambda *_: 0)
    with pytest.raises(GraphError, match=r"tables, after none, .* a table is float32 still"):
        run([QuantizeTables()], Graph(_model(_table())))


def test_what_is_looked_up_elsewise_is_no_table() -> None:
    table = _table()
    assert changed(_model(table, "GatherND"), QuantizeTables())[1] == [0]
