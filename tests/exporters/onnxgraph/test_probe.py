"""Looking into a graph: values and types, and the model stays as it was."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.exporters.onnxgraph import files, probe
from bertonnx.exporters.onnxgraph.files import weight_bytes
from bertonnx.exporters.onnxgraph.probe import float_values, open_values, run_graph, shapes_of
from bertonnx.runtime.session.bare import BareSession, open_bare

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
FEEDS = {"input_ids": np.array([[1, 3], [0, 2]]), "attention_mask": np.ones((2, 2), dtype=np.int64)}


@pytest.fixture
def model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["halves"], to=TensorProto.FLOAT16),
        helper.make_node("Shape", ["rows"], ["shape"]),
        helper.make_node("Neg", ["rows"], ["negative"]),
        helper.make_node("Identity", ["negative"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(TABLE, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_values_have_their_own_types_and_what_is_not_an_input_is_left_out(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    values = run_graph(model, FEEDS, ["shape", "halves", "out", "shape"])
    assert list(values) == ["shape", "halves", "out"]
    assert values["shape"].tolist() == [2, 2, 3]
    assert values["halves"].dtype == np.float16
    np.testing.assert_array_equal(values["out"], -TABLE[FEEDS["input_ids"]])
    assert model.SerializeToString() == before


def test_shapes_are_those_of_a_run_without_the_numbers_of_large_weights(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.SerializeToString()
    values = ["shape", "rows", "out"]
    expected = {name: array.shape for name, array in run_graph(model, FEEDS, values).items()}
    monkeypatch.setattr(files, "_LARGE", 0)
    shown = list[str]()

    def opened(model: bytes, *, weights: Mapping[str, object]) -> BareSession:
        shown.extend(weights)
        return open_bare(model)

    monkeypatch.setattr(probe, "open_bare", opened)
    assert shapes_of(model, FEEDS, values) == expected == {"shape": (3,), "rows": (2, 2, 3), "out": (2, 2, 3)}
    assert not shown
    assert model.SerializeToString() == before


def test_large_weights_are_read_where_they_are(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.SerializeToString()
    expected = run_graph(model, FEEDS, ["halves", "out"])
    monkeypatch.setattr(files, "_LARGE", 0)
    shell, lent = files.with_lent_weights(model)
    assert list(lent) == ["table"]
    assert weight_bytes(shell) == 0
    session = open_values(model, ["out", "halves", "out"])
    del model.graph.initializer[:]  # nobody else holds the numbers then
    for _ in range(2):
        found = dict(zip(session.outputs, session.run(session.outputs, FEEDS), strict=True))
        assert list(found) == ["out", "halves"]
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    # What the values do not need is not lent, and not computed.
    model = onnx.ModelProto.FromString(before)
    assert open_values(model, ["shape"]).outputs == ("shape",)


def test_float_values(model: onnx.ModelProto) -> None:
    """Outputs are float32 whatever happens inside, and are not asked for."""
    assert float_values(model) == ["rows", "negative"]


def test_outputs_come_back_where_opening_fails(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "NoSuchOperator"
    before = model.SerializeToString()
    with pytest.raises(Exception, match="NoSuchOperator"):
        open_values(model, ["negative"])
    assert model.SerializeToString() == before
