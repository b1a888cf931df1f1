"""Activations in the graph against PyTorch's own classes, made as a checkpoint's are: by name alone."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.verify.reference import activated
from bertonnx.models.activations import ACTIVATIONS, Activation, by_class, by_name
from bertonnx.models.registry import resolve
from bertonnx.runtime.session.session import import_onnxruntime

VALUES = np.concatenate(
    [np.linspace(-12, 12, 97), [-100.0, -0.5, 0.5, 3.0, 6.0, 30.0, 100.0], [0.0, -1e-6, 1e-6]]
).astype(np.float32)
TABLE = np.stack([VALUES, VALUES[::-1]])


def _graph(row: Activation) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "n"]) for name in ("x", "y")]
    proto = helper.make_graph([], "activation", values[:1], values[1:])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    graph = Graph(model)
    graph.add("Identity", [resolve(row.graph)(graph, "x", "activated")], "y", output="y")
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("row", ACTIVATIONS, ids=lambda row: row.name)
def test_the_graph_gives_what_pytorch_gives(row: Activation) -> None:
    model = _graph(row).SerializeToString()
    session = import_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,) = session.run(["y"], {"x": TABLE})
    expected = activated(row.name, torch.from_numpy(TABLE)).numpy()
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)
    (alone,) = session.run(["y"], {"x": TABLE[:1]})
    np.testing.assert_array_equal(got[:1], alone)


@pytest.mark.parametrize("row", ACTIVATIONS, ids=lambda row: row.name)
@pytest.mark.filterwarnings("ignore:Implicit dimension")
def test_the_reference_is_the_class_itself(row: Activation) -> None:
    made = getattr(torch.nn, row.torch)(**row.settings)
    path = f"{type(made).__module__}.{type(made).__name__}"
    if not row.settings:
        assert by_class(path) is row
    value = torch.from_numpy(TABLE)
    torch.testing.assert_close(activated(row.name, value), made(value), rtol=0, atol=0)


def test_rows_are_found_by_names_and_classes() -> None:
    assert by_name("Identity") is by_name("NONE") is by_class("torch.nn.modules.linear.Identity")
    assert by_name("torch.nn.Sigmoid") is ACTIVATIONS["sigmoid"]
    assert by_class("torch.nn.GELU") is by_class("transformers.activations.GELUActivation")
    assert by_class("transformers.activations.NewGELUActivation") is ACTIVATIONS["gelu_tanh"]
    for path in ("torch.nn.PReLU", "torch.nn.functional.gelu", "own.Sigmoid", "torch.Sigmoid", "Sigmoid"):
        assert by_class(path) is None


def test_classes_of_transformers_compute_the_same() -> None:
    activations = importlib.import_module("transformers.activations")
    value = torch.from_numpy(TABLE)
    for row in ACTIVATIONS:
        for other in row.others:
            made = getattr(activations, other.rpartition(".")[2], None)
            if made is not None:  # versions 4 and 5 have different names for one of them
                torch.testing.assert_close(activated(row.name, value), made()(value), rtol=1e-5, atol=1e-5)
