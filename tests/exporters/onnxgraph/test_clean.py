"""ONNX Runtime's own graph steps, on a real (tiny) graph."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.errors import GraphError
from bertonnx.exporters.onnxgraph import clean
from bertonnx.exporters.onnxgraph.clean import Clean, FuseElementwise
from bertonnx.exporters.onnxgraph.files import without_large_weights
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.onnxgraph.step import BrokenContractError, run
from bertonnx.exporters.steps.trace import trace
from tests.checkpoints import read
from tests.graphs import changed
from tests.tiny import save_tiny

IDS = np.arange(5, 17).reshape(2, 6)
FEEDS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}
FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    # Wide enough that its matrices count as large weights.
    folder = save_tiny(
        tmp_path_factory.mktemp("steps"), task="feature-extraction", hidden_size=160, intermediate_size=160
    )
    return trace(read(folder))


def _small(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("out", FLOAT, None)],
        [numpy_helper.from_array(np.array([2.0], dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_clean_folds_and_keeps_the_answers() -> None:
    one = numpy_helper.from_array(np.array([1.0], dtype=np.float32))
    model = _small(
        [
            helper.make_node("Constant", [], ["one"], value=one),
            helper.make_node("Add", ["w", "one"], ["folded"]),
            helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
            helper.make_node("Identity", ["f"], ["i"]),
            helper.make_node("Mul", ["i", "folded"], ["out"]),
        ]
    )
    cleaned, counts = changed(model, Clean(), Clean())
    assert [node.op_type for node in cleaned.graph.node] == ["Cast", "Mul"]
    # Of five nodes, three are gone, and the product reads other values.
    assert counts == [4, 0]
    for graph in (model, cleaned):
        assert run_graph(graph, {"x": np.array([1, 2])}, ["out"])["out"].tolist() == [3.0, 6.0]


def test_each_step_keeps_the_answers(traced: onnx.ModelProto, capfd: pytest.CaptureFixture[str]) -> None:
    before = run_graph(traced, FEEDS, ["last_hidden_state"])["last_hidden_state"]
    cleaned, _ = changed(traced, Clean())
    fused, counts = changed(cleaned, FuseElementwise(), FuseElementwise())
    # Two GELUs of five nodes each; PyTorch has written layer normalization as one node already.
    assert counts == [10, 0]
    for model in (cleaned, fused):
        after = run_graph(model, FEEDS, ["last_hidden_state"])["last_hidden_state"]
        np.testing.assert_allclose(after, before, atol=1e-4)
    operators = [node.op_type for node in fused.graph.node]
    assert operators.count("LayerNormalization") == 5
    assert operators.count("Gelu") == 2
    assert not {"Erf", "SkipLayerNormalization", "BiasGelu", "EmbedLayerNormalization"} & set(operators)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0


def test_the_graph_lets_the_model_before_go(traced: onnx.ModelProto) -> None:
    graph = Graph(traced)
    run([Clean(), FuseElementwise()], graph)
    assert graph.model is not traced
    assert graph.steps == ["clean", "elementwise"]


def test_fusion_gives_back_every_weight(traced: onnx.ModelProto) -> None:
    model, _ = changed(traced, Clean())
    weights = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    shell = without_large_weights(model)
    assert sum(not tensor.raw_data for tensor in shell.graph.initializer) >= 12
    fused, _ = changed(model, FuseElementwise())
    assert all(tensor.raw_data for tensor in fused.graph.initializer)
    assert all(
        tensor.raw_data == weights[tensor.name]
        for tensor in fused.graph.initializer
        if tensor.name in weights
    )


def test_a_weight_that_lost_its_numbers_is_no_file(
    traced: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = changed(traced, Clean())
    monkeypatch.setattr(clean, "restore_weights", lambda *_: None)
    with pytest.raises(GraphError, match=r"elementwise, after none, .*the weights .* have no numbers"):
        changed(model, FuseElementwise())


def test_fusion_asks_for_a_clean_graph(traced: onnx.ModelProto) -> None:
    assert any(node.op_type == "Constant" for node in traced.graph.node)
    with pytest.raises(GraphError, match=r"elementwise, after none, .*: a constant is no weight"):
        changed(traced, FuseElementwise())
    with pytest.raises(BrokenContractError, match="a constant is no weight"):
        Clean().ensures(Graph(traced))


def test_a_model_that_onnx_runtime_cannot_load_is_named_by_step() -> None:
    model = _small([helper.make_node("NoSuchOperator", ["x"], ["out"])])
    with pytest.raises(GraphError, match=r"the graph step clean, after none, failed .*NoSuchOperator"):
        changed(model, Clean())
