"""Biases that move: the same function with fewer additions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bertonnx
from bertonnx.exporters.onnxgraph.biases import Matrix, spare_biases
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import Linear, find_linears
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.biases import SpareBiases
from tests.tiny import save_tiny

OUTPUT = {"feature-extraction": "last_hidden_state", "text-classification": "logits"}


def _exported(folder: Path, family: str, task: str) -> onnx.ModelProto:
    """Return a tiny model whose biases, zero in a new checkpoint, are as large as its weights."""
    source = save_tiny(folder / family, family, task)
    with mock.patch.object(SpareBiases, "apply", return_value=0):
        model = onnx.load(bertonnx.export(source, folder / "model.onnx").path)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim == 1 and array.size >= 16:
            values = array + rng.normal(size=array.shape).astype(np.float32) * 0.3
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def _spared(
    model: onnx.ModelProto, bears: Callable[[str, Matrix], bool] = lambda *_: True
) -> tuple[onnx.ModelProto, dict[str, Matrix | None]]:
    """Return a copy whose float layers add what `spare_biases` leaves to add."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    shared = find_linears(graph)
    linears = {linear.output: linear for group in shared for linear in group.linears}
    left = spare_biases(
        graph,
        shared,
        lambda name: _constant(graph, linears[name].weight),
        {name: _constant(graph, linear.bias) for name, linear in linears.items()},
        bears=bears,
    )
    for name, bias in left.items():
        _set(graph, linears[name], np.zeros(1) if bias is None else bias)
    graph.finish()
    return copy, left


def _constant(graph: Graph, name: str) -> Matrix:
    array = graph.constant(name)
    assert array is not None
    return array.astype(np.float64)


def _set(graph: Graph, linear: Linear, bias: Matrix) -> None:
    node = graph.producer(linear.output, "Add")
    assert node is not None
    node.input[list(node.input).index(linear.bias)] = graph.add_constant(bias, np.float32, "left")


def _feeds(batch: int, tokens: int, padded: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(tokens).integers(5, 800, (batch, tokens))
    mask = np.ones_like(ids)
    if padded:
        mask[-1, -padded:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("task", sorted(OUTPUT))
@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet", "roformer", "albert", "electra"])
def test_the_function_stays_the_same(family: str, task: str, tmp_path: Path) -> None:
    model = _exported(tmp_path, family, task)
    spared, left = _spared(model)
    assert any(bias is None for bias in left.values()), "nothing was spared"
    for feeds in (_feeds(2, 12), _feeds(3, 9, padded=4)):
        known = {value.name: feeds[value.name] for value in model.graph.input}
        expected = run_graph(model, known, [OUTPUT[task]])[OUTPUT[task]]
        actual = run_graph(spared, known, [OUTPUT[task]])[OUTPUT[task]]
        real = known["attention_mask"][..., None] if task == "feature-extraction" else 1
        np.testing.assert_allclose(actual * real, expected * real, rtol=0, atol=2e-4)


def test_a_layer_of_bert_adds_three_biases_of_six(tmp_path: Path) -> None:
    _, left = _spared(_exported(tmp_path, "bert", "feature-extraction"))
    layers = len(left) // 6
    assert layers >= 2
    # Keys, values, and what the feed-forward puts out: the first norm after attention adds that.
    assert sum(bias is None for bias in left.values()) == 3 * layers


def test_an_input_that_bears_no_addition_gets_none(tmp_path: Path) -> None:
    model = _exported(tmp_path, "bert", "feature-extraction")
    asked = []

    def bears(name: str, added: Matrix) -> bool:
        asked.append((name, added.shape))
        return False

    _, left = _spared(model, bears)
    assert sum(bias is None for bias in left.values()) == 2 * (len(left) // 6)
    assert asked
    assert all(name in left and shape == (32,) for name, shape in asked)


def test_a_norm_that_something_else_reads_keeps_its_bias(tmp_path: Path) -> None:
    model = _exported(tmp_path, "bert", "feature-extraction")
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    # Every normalization an output: moving a bias there would change what its readers outside see.
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in norms
        if name not in {output.name for output in model.graph.output}
    )
    spared, left = _spared(model)
    assert sum(bias is None for bias in left.values()) == 2 * (len(left) // 6)
    feeds = _feeds(2, 8)
    expected, actual = run_graph(model, feeds, norms), run_graph(spared, feeds, norms)
    for name in norms:
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=2e-4)


def test_layers_without_biases_get_none(tmp_path: Path) -> None:
    model = _exported(tmp_path, "bert", "feature-extraction")
    graph = Graph(model)
    shared = find_linears(graph)
    linears = {linear.output: linear for group in shared for linear in group.linears}
    # What reads the norms that could take a bias adds nothing itself, nor do output projections.
    bare = {name for name in linears if "intermediate" in name or "attention/output" in name}
    biases = {name: _constant(graph, linear.bias) for name, linear in linears.items() if name not in bare}
    left = spare_biases(graph, shared, lambda name: _constant(graph, linears[name].weight), biases)
    assert left.keys() == linears.keys()
    assert all(left[name] is None for name in bare)
    # Where no other bias could hold them, they stay: keys alone go.
    gone = [name for name in biases if left[name] is None]
    assert len(gone) == len(linears) // 6
    assert all("key" in name for name in gone)
