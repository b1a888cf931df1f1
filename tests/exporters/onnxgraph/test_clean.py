"""ONNX Runtime's own graph steps, on a real (tiny) graph."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from bertonnx.exporters.checkpoint.checkpoint import load as load_checkpoint
from bertonnx.exporters.checkpoint.folder import resolve
from bertonnx.exporters.onnxgraph.clean import clean, fuse_elementwise
from bertonnx.exporters.onnxgraph.files import without_large_weights
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.trace import trace
from tests.tiny import save_tiny

IDS = np.arange(5, 17).reshape(2, 6)
FEEDS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    # Wide enough that its matrices count as large weights.
    folder = save_tiny(
        tmp_path_factory.mktemp("steps"), task="feature-extraction", hidden_size=160, intermediate_size=160
    )
    return trace(load_checkpoint(resolve(folder)))


def test_each_step_keeps_the_answers(traced: onnx.ModelProto, capfd: pytest.CaptureFixture[str]) -> None:
    before = run_graph(traced, FEEDS, ["last_hidden_state"])["last_hidden_state"]
    cleaned = clean(traced)
    fused = fuse_elementwise(cleaned)
    for model in (cleaned, fused):
        after = run_graph(model, FEEDS, ["last_hidden_state"])["last_hidden_state"]
        np.testing.assert_allclose(after, before, atol=1e-4)
    operators = [node.op_type for node in fused.graph.node]
    assert operators.count("LayerNormalization") == 5
    assert operators.count("Gelu") == 2
    assert not {"Erf", "SkipLayerNormalization", "BiasGelu", "EmbedLayerNormalization"} & set(operators)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0


def test_fusion_gives_back_every_weight(traced: onnx.ModelProto) -> None:
    model = clean(traced)
    weights = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    shell = without_large_weights(model)
    assert sum(not tensor.raw_data for tensor in shell.graph.initializer) >= 12
    fused = fuse_elementwise(model)
    assert all(tensor.raw_data for tensor in fused.graph.initializer)
    assert all(
        tensor.raw_data == weights[tensor.name]
        for tensor in fused.graph.initializer
        if tensor.name in weights
    )
