"""Convolutions over one token as linear layers: the same function, and no transposition left between."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.exporters.int8.pointwise import ConvolutionsToRows
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import find_linears
from bertonnx.runtime.rows import Array
from bertonnx.runtime.session.session import import_onnxruntime
from tests.graphs import changed

WIDTH = 64
RNG = np.random.default_rng(0)


def _conv(name: str, source: str, groups: int = 1) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    weight = RNG.normal(size=(WIDTH, WIDTH // groups, 1)).astype(np.float32) / 8
    bias = RNG.normal(size=WIDTH).astype(np.float32)
    node = helper.make_node(
        "Conv",
        [source, f"{name}_weight", f"{name}_bias"],
        [name],
        kernel_shape=[1],
        group=groups,
    )
    tensors = [
        numpy_helper.from_array(weight, f"{name}_weight"),
        numpy_helper.from_array(bias, f"{name}_bias"),
    ]
    return [node], tensors


def _swap(source: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [output], perm=[0, 2, 1])


def _model(
    nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], outputs: tuple[str, ...] = ("out",)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "tokens", WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _block(inner: int, outer: int) -> onnx.ModelProto:
    """Return a feed-forward block as SqueezeBERT has it, its layers in so many groups."""
    first, second = _conv("raised", "channels", inner), _conv("lowered", "active", outer)
    nodes = [
        _swap("rows", "channels"),
        *first[0],
        helper.make_node("Gelu", ["raised"], ["active"], domain="com.microsoft"),
        *second[0],
        helper.make_node("Add", ["lowered", "channels"], ["sum"]),
        _swap("sum", "out"),
    ]
    return _model(nodes, [*first[1], *second[1]])


def _run(model: onnx.ModelProto, batch: int = 3, tokens: int = 11) -> list[Array]:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).normal(size=(batch, tokens, WIDTH)).astype(np.float32)
    results: list[Array] = session.run(None, {"rows": rows})
    return results


def _converted(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    converted, counts = changed(model, ConvolutionsToRows(), ConvolutionsToRows())
    assert counts == [count, 0]
    return converted


def _same(model: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    for expected, actual in zip(_run(model), _run(converted), strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("inner", "outer"), [(1, 1), (4, 4), (2, 4), (4, 1), (1, 4)])
def test_a_block_is_the_same_function_without_transpositions(inner: int, outer: int) -> None:
    model = _block(inner, outer)
    converted = _converted(model, 2)
    _same(model, converted)
    operators = _operators(converted)
    assert operators["MatMul"] == inner + outer
    assert not operators["Conv"] + operators["Transpose"]
    assert sum(len(shared.linears) for shared in find_linears(Graph(converted))) == inner + outer


def test_gelu_is_what_a_group_reads_where_the_groups_are_the_same() -> None:
    """So that INT8 knows how far below zero the inputs can go."""
    converted = _converted(_block(4, 4), 2)
    graph = Graph(converted)
    sources = [shared.source for shared in find_linears(graph)]
    assert sum(graph.producer(source, "Gelu") is not None for source in sources) == 4


def test_layers_of_one_input_share_its_parts() -> None:
    parts = [_conv(name, "channels", 4) for name in ("query", "key")]
    nodes = [
        _swap("rows", "channels"),
        *parts[0][0],
        *parts[1][0],
        _swap("query", "out"),
        _swap("key", "two"),
    ]
    model = _model(nodes, [*parts[0][1], *parts[1][1]], ("out", "two"))
    converted = _converted(model, 2)
    _same(model, converted)
    assert [len(shared.linears) for shared in find_linears(Graph(converted))] == [2, 2, 2, 2]


def test_what_reads_channels_still_gets_them() -> None:
    nodes, tensors = _conv("out", "channels", 2)
    model = _model([_swap("rows", "channels"), *nodes], tensors)
    converted = _converted(model, 1)
    _same(model, converted)
    assert _operators(converted)["Transpose"] == 1


def test_a_bias_that_is_added_by_channel_becomes_one_of_rows() -> None:
    nodes, tensors = _conv("product", "channels")
    tensors.append(numpy_helper.from_array(RNG.normal(size=(WIDTH, 1)).astype(np.float32), "offset"))
    add = helper.make_node("Add", ["product", "offset"], ["sum"])
    model = _model([_swap("rows", "channels"), *nodes, add, _swap("sum", "out")], tensors)
    converted = _converted(model, 1)
    _same(model, converted)
    assert not _operators(converted)["Transpose"]


def test_attention_takes_and_gives_rows() -> None:
    """Heads come out of channels and go back into them, as after attention fusion."""
    first, second = _conv("query", "channels", 4), _conv("attended", "context")
    shapes = {"apart": [0, 4, 16, -1], "merge": [0, 0, -1], "split": [0, 0, 4, 16], "together": [0, 64, -1]}
    nodes = [
        _swap("rows", "channels"),
        *first[0],
        helper.make_node("Reshape", ["query", "apart"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["tokens_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["tokens_first", "merge"], ["merged"]),
        helper.make_node("Tanh", ["merged"], ["attention"]),
        helper.make_node("Reshape", ["attention", "split"], ["back"]),
        helper.make_node("Transpose", ["back"], ["tokens_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["tokens_last", "together"], ["context"]),
        *second[0],
        _swap("attended", "out"),
    ]
    tensors = [numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items()]
    model = _model(nodes, [*first[1], *second[1], *tensors])
    converted = _converted(model, 2)
    _same(model, converted)
    assert not _operators(converted)["Transpose"]


@pytest.mark.parametrize("groups", [8, WIDTH])
def test_small_groups_stay_convolutions(groups: int) -> None:
    nodes, tensors = _conv("conv", "channels", groups)
    model = _model([_swap("rows", "channels"), *nodes, _swap("conv", "out")], tensors)
    assert _operators(_converted(model, 0))["Conv"] == 1


@pytest.mark.parametrize(("name", "value"), [("pads", [1, 1]), ("strides", [2])])
def test_a_convolution_that_moves_over_tokens_stays(name: str, value: list[int]) -> None:
    nodes, tensors = _conv("conv", "channels")
    nodes[0].attribute.append(helper.make_attribute(name, value))
    model = _model([_swap("rows", "channels"), *nodes, _swap("conv", "out")], tensors)
    assert _operators(_converted(model, 0))["Conv"] == 1


def test_a_convolution_over_what_nothing_transposed_gets_its_own() -> None:
    nodes, tensors = _conv("conv", "channels")
    cosine = helper.make_node("Cos", ["swapped"], ["channels"])
    model = _model([_swap("rows", "swapped"), cosine, *nodes, _swap("conv", "out")], tensors)
    converted = _converted(model, 1)
    _same(model, converted)
    assert _operators(converted)["Transpose"] == 2
