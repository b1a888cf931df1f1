"""Fusing attention: graphs that must fuse, with the same numbers, and graphs that must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.attention import FuseAttention
from bertonnx.exporters.steps.unmasked import Unmask
from tests.graphs import changed

HEADS, SIZE = 3, 4
WIDTH = HEADS * SIZE
CHANCE = np.random.default_rng(11)
IDS = CHANCE.integers(0, 20, (2, 7))
FULL = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
MASK = np.array([[1] * 7, [1] * 4 + [0] * 3], dtype=np.int64)
PADDED = FULL | {"attention_mask": MASK}


def _layer(scale: str = "after", bias: str = "mask", broken: str = "") -> onnx.ModelProto:
    """Spell one layer out: `scale` on q, k or after; `bias` by mask, where, relative, text or none."""
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in FULL]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", "s", WIDTH])
    model = helper.make_model(
        helper.make_graph([], "g", ends, [out]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    graph = Graph(model)
    table = graph.add_constant(CHANCE_TABLE, np.float32, "table")
    hidden = graph.add("Gather", [table, "input_ids"], "hidden")
    split = graph.add_constant([0, 0, HEADS, SIZE], np.int64, "split")

    def heads(name: str, order: list[int]) -> str:
        product = graph.add("MatMul", [hidden, graph.add_constant(WEIGHTS[name], np.float32, name)], name)
        return graph.add(
            "Transpose", [graph.add("Reshape", [product, split], name)], name, attributes={"perm": order}
        )

    number = graph.add_constant(0.5, np.float32, "number")
    query, key, value = heads("q", [0, 2, 1, 3]), heads("k", [0, 2, 3, 1]), heads("v", [0, 2, 1, 3])
    if scale == "query":
        query = graph.add("Mul", [query, number], "scaled")
    if scale == "key":
        key = graph.add("Div", [key, graph.add_constant(2.0, np.float32, "two")], "scaled")
    scores = graph.add("MatMul", [query, key], "scores")
    if scale == "after":
        scores = graph.add("Mul", [scores, number], "scaled")
    scores = _biased(graph, scores, bias, broken)
    weights = graph.add("Softmax", [scores], "weights", attributes={"axis": -1})
    if broken == "weights read twice":
        graph.add("Neg", [weights], "negative")
        model.graph.output.append(helper.make_tensor_value_info("negative", TensorProto.FLOAT, None))
    if broken == "between":
        weights = graph.add("Mul", [weights, number], "between")
    context = graph.add("MatMul", [weights, value], "context")
    tokens = graph.add("Transpose", [context], "tokens", attributes={"perm": [0, 2, 1, 3]})
    merge = graph.add_constant([0, 0, WIDTH], np.int64, "merge")
    graph.add("Reshape", [tokens, merge], "out", output="out")
    return model


CHANCE_TABLE = CHANCE.normal(size=(20, WIDTH))
WEIGHTS = {name: CHANCE.normal(size=(WIDTH, WIDTH)) for name in "qkv"}


def _biased(graph: Graph, scores: str, bias: str, broken: str) -> str:
    axes = graph.add_constant([1, 2], np.int64, "axes")
    float_mask = graph.add("Cast", ["attention_mask"], "float_mask", attributes={"to": TensorProto.FLOAT})
    wide = graph.add("Unsqueeze", [float_mask, axes], "wide")
    one, low = (graph.add_constant(x, np.float32, "c") for x in (1.0, -3e38))
    additive = graph.add("Mul", [graph.add("Sub", [one, wide], "inverted"), low], "additive")
    if bias == "where":
        fill = graph.add_constant(-5.0 if broken == "weak fill" else -3e38, np.float32, "fill")
        kept = graph.add("Cast", [wide], "kept", attributes={"to": TensorProto.BOOL})
        return graph.add("Where", [kept, scores, fill], "masked")
    if bias == "none":
        return scores
    scores = graph.add("Add", [scores, additive], "masked")
    if bias == "relative":
        square = graph.add_constant(RELATIVE, np.float32, "relative")
        scores = graph.add("Add", [scores, square], "placed")
    if bias == "text":
        ids = graph.add("Cast", ["input_ids"], "float_ids", attributes={"to": TensorProto.FLOAT})
        zero = graph.add_constant(7.0, np.float32, "seven")
        far = graph.add(
            "Max", [graph.add("Sub", [ids, zero], "over"), graph.add_constant(0.0, np.float32, "z")], "m"
        )
        scores = graph.add("Add", [scores, graph.add("Unsqueeze", [far, axes], "wide_text")], "read")
    return scores


RELATIVE = CHANCE.normal(size=(1, HEADS, 7, 7))


def _answers(model: onnx.ModelProto, feeds: dict[str, npt.NDArray[np.int64]]) -> Any:
    return run_graph(model, feeds, ["out"])["out"]


def _operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


FUSABLE = [
    (scale, bias)
    for scale in ("query", "key", "after")
    for bias in ("mask", "where", "relative", "text", "none")
]


@pytest.mark.parametrize(("scale", "bias"), FUSABLE)
def test_attention_in_any_spelling_becomes_one_node(scale: str, bias: str) -> None:
    whole = _layer(scale, bias)
    expected = [_answers(whole, feeds) for feeds in (FULL, PADDED)]
    model, counts = changed(whole, FuseAttention(FULL), FuseAttention(FULL))
    assert counts == [1, 0]
    assert _operators(model).count("MultiHeadAttention") == 1
    assert "Softmax" not in _operators(model)
    (node,) = (node for node in model.graph.node if node.op_type == "MultiHeadAttention")
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    assert attributes == {"num_heads": HEADS, "scale": 0.5}
    for feeds, before in zip((FULL, PADDED), expected, strict=True):
        np.testing.assert_allclose(_answers(model, feeds), before, atol=2e-5)


def test_heads_are_not_split_and_merged_around_the_operator() -> None:
    model, _ = changed(_layer(), FuseAttention(FULL))
    graph = Graph(model)
    (node,) = (node for node in model.graph.node if node.op_type == "MultiHeadAttention")
    for name in node.input[:3]:
        assert graph.producer(name, "MatMul") is not None
    assert [reader.op_type for reader in graph.readers(node.output[0])] == ["Identity"]


@pytest.mark.parametrize(
    ("broken", "bias"),
    [("weights read twice", "mask"), ("between", "mask"), ("weak fill", "where")],
)
def test_what_the_operator_does_not_compute_stays_as_it_is(broken: str, bias: str) -> None:
    model = _layer("after", bias, broken)
    assert changed(model, FuseAttention(FULL))[1] == [0]


def _unmasked(bias: str) -> tuple[onnx.ModelProto, int, list[Any]]:
    whole = _layer("after", bias)
    expected = [_answers(whole, feeds) for feeds in (FULL, PADDED)]
    model, counts = changed(whole, FuseAttention(FULL), Unmask(7), Unmask(7))
    assert counts[0] == 1
    assert counts[2] == 0
    return model, counts[1], expected


@pytest.mark.parametrize("bias", ["mask", "where"])
def test_a_padding_mask_gets_a_second_way_without_it(bias: str) -> None:
    model, count, expected = _unmasked(bias)
    assert count == 1
    (node,) = (
        node for node in model.graph.node if node.name.endswith("/If") and "padded" not in node.output[0]
    )
    branches = {item.name: [len(inner.input) for inner in item.g.node] for item in node.attribute}
    assert branches == {"then_branch": [3], "else_branch": [6]}
    for feeds, before in zip((FULL, PADDED), expected, strict=True):
        np.testing.assert_allclose(_answers(model, feeds), before, atol=2e-5)


@pytest.mark.parametrize("bias", ["text"])
def test_a_bias_that_is_more_than_padding_is_left_alone(bias: str) -> None:
    model, count, expected = _unmasked(bias)
    assert count == 0
    assert "If" not in _operators(model)
    for feeds, before in zip((FULL, PADDED), expected, strict=True):
        np.testing.assert_allclose(_answers(model, feeds), before, atol=2e-5)
