"""GELU that adds the bias before it: where it may, and how near it stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.exporters.int8.biased_gelu import BiasGelus
from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN
from bertonnx.exporters.onnxgraph.probe import run_graph
from tests.graphs import changed

WIDTH = 24
RNG = np.random.default_rng(0)
BIAS = RNG.normal(size=WIDTH).astype(np.float32)
IDS = RNG.integers(0, 50, (3, 7))


def _model(
    gelu: str = "Gelu", *, outputs: tuple[str, ...] = ("rows",), bias: str = "bias"
) -> onnx.ModelProto:
    """Return table -> bias -> GELU -> quantizer, with GELU's own output exposed where `outputs` has it."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["product"]),
        helper.make_node("Add", ["product", bias], ["raised"]),
        helper.make_node(gelu, ["raised"], ["active"], domain=MS_DOMAIN),
        helper.make_node("ReduceMax", ["active", "last"], ["most"], keepdims=1),
        helper.make_node("Reshape", ["active", "flat"], ["active_rows"]),
        helper.make_node("QuantizeLinear", ["active_rows", "step", "zero"], ["rows"]),
    ]
    constants = {
        "table": RNG.normal(size=(50, WIDTH)).astype(np.float32) * 3,
        "bias": BIAS,
        "table_of_biases": np.tile(BIAS, (7, 1)),
        "last": np.array([-1]),
        "flat": np.array([-1, WIDTH]),
        "step": np.float32(0.02),
        "zero": np.uint8(9),
    }
    kinds = {"rows": TensorProto.UINT8, "active": TensorProto.FLOAT, "raised": TensorProto.FLOAT}
    graph = helper.make_graph(
        nodes,
        "gelu",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info(name, kinds[name], None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MS_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _biased(model: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    biased, counts = changed(model, BiasGelus(), BiasGelus())
    assert counts[1] == 0
    return counts[0], biased


@pytest.mark.parametrize("gelu", ["Gelu", "FastGelu"])
def test_the_quantized_rows_stay_within_a_step(gelu: str) -> None:
    model = _model(gelu)
    found, biased = _biased(model)
    assert found == 1
    assert [node.op_type for node in biased.graph.node].count("Add") == 0
    expected = run_graph(model, {"input_ids": IDS}, ["rows"])["rows"].astype(int)
    actual = run_graph(biased, {"input_ids": IDS}, ["rows"])["rows"].astype(int)
    assert np.abs(actual - expected).max() <= 1
    assert (actual != expected).mean() < 0.02
    assert len(np.unique(expected)) > 50


@pytest.mark.parametrize(
    ("outputs", "bias"),
    [
        (("rows", "active"), "bias"),  # something else sees GELU itself
        (("rows", "raised"), "bias"),  # or what goes into it
        (("rows",), "table_of_biases"),  # a bias for each place is none that the operator takes
    ],
)
def test_what_must_stay_exact_stays_as_it_is(outputs: tuple[str, ...], bias: str) -> None:
    model = _model(outputs=outputs, bias=bias)
    found, biased = _biased(model)
    assert found == 0
    kinds = sorted(node.op_type for node in biased.graph.node)
    assert kinds == sorted(node.op_type for node in model.graph.node if node.output[0] != "most")


def test_a_gelu_that_adds_a_bias_already_keeps_it() -> None:
    model = _model("FastGelu")
    next(node for node in model.graph.node if node.op_type == "FastGelu").input.append("bias")
    assert changed(model, BiasGelus())[1] == [0]


def test_the_bias_may_stand_first() -> None:
    model = _model()
    add = next(node for node in model.graph.node if node.op_type == "Add")
    add.input[:] = reversed(add.input)
    biased, counts = changed(model, BiasGelus())
    assert counts == [1]
    (gelu,) = (node for node in biased.graph.node if node.op_type == "FastGelu")
    assert list(gelu.input) == ["product", "bias"]
