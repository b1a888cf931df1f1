"""ONNX Runtime's own graph steps, on a real (tiny) graph."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.errors import GraphError
from bertonnx.exporters.onnxgraph import clean, files
from bertonnx.exporters.onnxgraph.clean import Clean, FuseElementwise
from bertonnx.exporters.onnxgraph.files import weight_bytes, without_large_weights
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.onnxgraph.step import BrokenContractError, run
from bertonnx.exporters.steps.trace import trace
from bertonnx.runtime.session.session import import_onnxruntime
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


def test_large_weights_stay_where_they_are(traced: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither step writes, reads or copies them: gigabytes would be held twice."""
    model = onnx.ModelProto()
    model.CopyFrom(traced)
    graph, written = Graph(model), list[int]()

    def noted(model: onnx.ModelProto, path: Path) -> Path | None:
        written.append(weight_bytes(model))
        return files.save_proto(model, path)

    monkeypatch.setattr(clean, "save_proto", noted)
    run([Clean(), FuseElementwise(), Clean()], graph)
    assert graph.model is model
    assert graph.steps == ["clean", "elementwise", "clean"]
    assert len(written) == 2
    assert max(written) < weight_bytes(model) / 10


def test_what_only_large_weights_make_is_folded() -> None:
    """ONNX Runtime is shown the large weights where it has something to do with them."""
    table = np.arange(160 * 160, dtype=np.float32).reshape(160, 160)
    model = _small(
        [
            helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
            helper.make_node("Gather", ["turned", "x"], ["rows"]),
            helper.make_node("Mul", ["rows", "w"], ["out"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    cleaned, _ = changed(model, Clean())
    assert [node.op_type for node in cleaned.graph.node] == ["Gather", "Mul"]
    assert [value.name for value in cleaned.graph.input] == ["x"]
    rows = run_graph(cleaned, {"x": np.array([1, 2])}, ["out"])["out"]
    np.testing.assert_array_equal(rows, 2 * table.T[1:3])


def test_the_same_graph_comes_out_whatever_counts_as_large(
    traced: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (Clean(), FuseElementwise(), Clean())
    found, _ = changed(traced, *steps)
    monkeypatch.setattr(files, "_LARGE", 1 << 60)
    whole, _ = changed(traced, *steps)
    # Which of several equal constants stays is ONNX Runtime's choice, and so is its name.
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in whole.graph.node]
    assert len(found.graph.initializer) == len(whole.graph.initializer)
    first, second = (run_graph(model, FEEDS, ["last_hidden_state"]) for model in (found, whole))
    np.testing.assert_array_equal(first["last_hidden_state"], second["last_hidden_state"])


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
    monkeypatch.setattr(Graph, "adopt", Graph.take)
    with pytest.raises(GraphError, match=r"elementwise, after none, .*the weights .* have no numbers"):
        changed(model, FuseElementwise())


def test_shapes_are_inferred_once_and_fusion_finds_the_same(
    traced: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = changed(traced, Clean())
    import_onnxruntime("transformers.onnx_model_bert")
    # By this name, without its package's, it imports it.
    helper_class = importlib.import_module("shape_infer_helper").SymbolicShapeInferenceHelper
    inferred, own = list[int](), helper_class.__init__

    def counted(self: object, model: onnx.ModelProto, *others: object) -> None:
        inferred.append(len(model.graph.node))
        own(self, model, *others)

    monkeypatch.setattr(helper_class, "__init__", counted)
    once, _ = changed(model, FuseElementwise())
    assert len(inferred) == 1
    monkeypatch.setattr(clean, "_Shapes", lambda optimizer: optimizer.infer_runtime_shape)
    anew, _ = changed(model, FuseElementwise())
    assert len(inferred) == 4
    assert once.SerializeToString(deterministic=True) == anew.SerializeToString(deterministic=True)


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
