"""Fewer additions in fp32 files: which, what of, and that the answers stay."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModel

import bertonnx
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.biases import SpareBiases
from tests.tiny import save_tiny

LAYERS = 2


def _checkpoint(folder: Path, family: str, *, scale: float = 0.3) -> Path:
    """Save a tiny checkpoint whose biases, zero in a new one, are random numbers of a size."""
    source = save_tiny(folder / family, family, "feature-extraction")
    model = AutoModel.from_pretrained(source)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter) * scale)
    model.save_pretrained(source)
    return source


def _additions(model: onnx.ModelProto) -> int:
    """Count the additions of a bias."""
    vectors = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 1}
    return sum(node.op_type == "Add" and bool(vectors & set(node.input)) for node in model.graph.node)


@pytest.mark.parametrize(
    ("family", "fewer"),
    # RoFormer turns its keys before attention reads them. ALBERT's six layers read contexts through a
    # reshape, so that keys and values keep their biases; all others before a residual go but the first,
    # whose residual no norm makes.
    [("bert", 6), ("distilbert", 6), ("mpnet", 6), ("electra", 6), ("roformer", 4), ("albert", 11)],
)
def test_fp32_files_add_half_as_often_and_answer_as_before(family: str, fewer: int, tmp_path: Path) -> None:
    source = _checkpoint(tmp_path, family)
    spared = bertonnx.export(source, tmp_path / "spared.onnx").path
    with mock.patch.object(SpareBiases, "apply", return_value=0):
        whole = bertonnx.export(source, tmp_path / "whole.onnx").path
    assert _additions(onnx.load(whole)) - _additions(onnx.load(spared)) == fewer
    texts = ["one text", "another, which is longer than the first", "a"]
    with bertonnx.load(spared, provider="cpu") as ours, bertonnx.load(whole, provider="cpu") as other:
        np.testing.assert_allclose(ours.embed(texts), other.embed(texts), rtol=0, atol=2e-6)


def test_an_addition_larger_than_what_it_would_come_with_stays(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path, "bert", scale=3.0)
    spared = onnx.load(bertonnx.export(source, tmp_path / "spared.onnx").path)
    with mock.patch.object(SpareBiases, "apply", return_value=0):
        whole = onnx.load(bertonnx.export(source, tmp_path / "whole.onnx").path)
    # Keys and values only.
    assert _additions(whole) - _additions(spared) == 2 * LAYERS


def test_int8_is_made_of_a_graph_with_all_biases(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path, "bert")
    with mock.patch.object(SpareBiases, "apply", side_effect=AssertionError):
        bertonnx.export(source, tmp_path / "model.onnx", quantize=True, min_agreement=0)


def test_a_change_of_keys_and_values_is_seen_in_no_other_place(tmp_path: Path) -> None:
    """The step on a graph in which keys are an output: their bias stays, and what they are with it."""
    source = _checkpoint(tmp_path, "bert")
    with mock.patch.object(SpareBiases, "apply", return_value=0):
        model = onnx.load(bertonnx.export(source, tmp_path / "whole.onnx").path)
    key = next(node.output[0] for node in model.graph.node if node.output[0].endswith("key/Add_output_0"))
    model.graph.output.append(onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, None))
    ids = np.random.default_rng(0).integers(5, 200, (2, 9))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    before = run_graph(model, feeds, [key, "sentence_embedding"])
    assert SpareBiases().apply(Graph(model)) == 3 * LAYERS - 1
    after = run_graph(model, feeds, [key, "sentence_embedding"])
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=0, atol=2e-6)
