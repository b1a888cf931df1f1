"""The float32 twin of an INT8 file: the same numbers where nothing saturates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

import bertonnx
from bertonnx.exporters.int8.float_twin import float_twin
from bertonnx.exporters.onnxgraph.probe import run_graph
from tests.tiny import save_tiny


def test_the_twin_computes_what_the_file_computes(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint")
    path = bertonnx.export(source, tmp_path / "int8.onnx", quantize=True, min_agreement=0.0).path
    model = onnx.load(path)
    before = model.SerializeToString()
    twin = float_twin(model)
    assert model.SerializeToString() == before
    operators = {node.op_type for node in twin.graph.node}
    assert "MatMulIntegerToFloat" not in operators
    ids = np.random.default_rng(0).integers(5, 800, (3, 14))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    expected, actual = (run_graph(graph, feeds, ["logits"])["logits"] for graph in (model, twin))
    # A last bit can move a number to the next step of a quantizer: seldom, and by one step.
    assert np.median(np.abs(actual - expected)) < 1e-4
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


def test_weights_that_would_saturate_do_not_there(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint")
    path = bertonnx.export(source, tmp_path / "int8.onnx", quantize=True, min_agreement=0.0).path
    model = onnx.load(path)
    largest = onnx.numpy_helper.from_array
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims[0] < 1000:
            # 2 x 255 x 127 is past what 16 bits hold.
            tensor.CopyFrom(largest(np.full(list(tensor.dims), 127, np.int8), tensor.name))
    node = next(node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat")
    scales = next(item for item in model.graph.initializer if item.name == node.input[3])
    product = node.output[0]
    ids = np.random.default_rng(0).integers(5, 800, (1, 6))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    values = run_graph(model, feeds, [node.input[0]])
    rows = values[node.input[0]].astype(np.int64) - 128
    exact = (rows.sum(axis=-1, keepdims=True) * 127) * onnx.numpy_helper.to_array(scales)
    twin = run_graph(float_twin(model), feeds, [product])[product]
    np.testing.assert_allclose(twin, exact, rtol=1e-6)
