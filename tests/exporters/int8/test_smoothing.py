"""Smoothing: the same function, with outliers moved from activations into weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bertonnx.errors import GraphError
from bertonnx.exporters.int8.calibration import Statistics
from bertonnx.exporters.int8.layers import Layer, Rounded, layers_of
from bertonnx.exporters.int8.smoothing import ALPHA, Smooth, smoothing_factors
from bertonnx.exporters.onnxgraph.attentions import OPERATOR
from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph
from bertonnx.exporters.onnxgraph.linear import find_linears
from bertonnx.exporters.onnxgraph.step import BrokenContractError, run
from bertonnx.runtime.rows import Array
from tests.graphs import assert_index_true


def _statistics(sample: Array) -> Statistics:
    return Statistics(np.abs(sample).max(axis=0), sample.mean(axis=0), np.square(sample).mean(axis=0), sample)


def _with_outliers(rng: np.random.Generator) -> Array:
    sample = rng.normal(size=(200, 32)).astype(np.float32)
    sample[:, [3, 17]] *= 30
    return sample


def test_the_formula() -> None:
    factors = smoothing_factors(np.array([4.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32), 0.5)
    assert factors == pytest.approx([2**0.5, 2**-0.5])
    assert factors.dtype == np.float32


def test_alpha_0_looks_at_weights_alone_and_alpha_1_at_activations() -> None:
    largest, weights = np.array([8.0, 2.0], np.float32), np.array([1.0, 4.0], np.float32)
    assert smoothing_factors(largest, weights, 1.0) == pytest.approx([2.0, 0.5])
    assert smoothing_factors(largest, weights, 0.0) == pytest.approx([2.0, 0.5])
    assert smoothing_factors(largest, np.ones(2, np.float32), 0.0) == pytest.approx([1.0, 1.0])


def test_a_channel_that_is_never_used_stays_finite() -> None:
    factors = smoothing_factors(np.array([0.0, 1.0], np.float32), np.array([0.0, 1.0], np.float32), 0.5)
    assert np.all(np.isfinite(factors))
    assert np.all(factors > 0)


def _factors(sample: Array, weight: Array) -> Array:
    return smoothing_factors(np.abs(sample).max(axis=0), np.abs(weight).max(axis=1), ALPHA)


def test_outliers_are_divided() -> None:
    sample = _with_outliers(np.random.default_rng(0))
    weight = np.random.default_rng(1).normal(size=(32, 24)).astype(np.float32)
    factors = _factors(sample, weight)
    assert factors[[3, 17]].min() > 2 * np.delete(factors, [3, 17]).max()


def test_the_quantized_product_gets_better() -> None:
    rng = np.random.default_rng(2)
    sample, weight = _with_outliers(rng), rng.normal(size=(32, 24)).astype(np.float32)
    exact = sample.astype(np.float64) @ weight

    def error(factors: Array) -> float:
        rows, columns = sample / factors, weight * factors[:, None]
        row_step = np.abs(rows).max(axis=1, keepdims=True) / 127
        column_step = np.abs(columns).max(axis=0) / 127
        product = (np.rint(rows / row_step) * row_step) @ (np.rint(columns / column_step) * column_step)
        return float(np.square(product - exact).mean())

    assert error(_factors(sample, weight)) < 0.5 * error(np.ones(32, np.float32))


def test_divided_statistics_are_those_of_the_divided_sample() -> None:
    sample = _with_outliers(np.random.default_rng(3))
    factors = np.linspace(0.5, 2, 32).astype(np.float32)
    divided, direct = _statistics(sample).divided(factors), _statistics(sample / factors)
    for name in ("largest", "mean", "square", "sample"):
        np.testing.assert_allclose(getattr(divided, name), getattr(direct, name), rtol=1e-4, atol=1e-6)


# What becomes of a graph and its layers -----------------------------------------------------------------

WIDTH = 16
CHANCE = np.random.default_rng(9)
INPUTS = CHANCE.normal(size=(50, WIDTH)).astype(np.float32) * np.linspace(0.1, 8, WIDTH, dtype=np.float32)
WEIGHTS = {
    name: CHANCE.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("query", "key", "value", "out")
}
BIASES = {name: CHANCE.normal(size=WIDTH).astype(np.float32) for name in WEIGHTS}


def _empty(outputs: tuple[str, ...]) -> Graph:
    graph = helper.make_graph(
        [],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def _linear(graph: Graph, name: str, source: str) -> None:
    weight = graph.add_constant(WEIGHTS[name], np.float32, f"{name}_weight")
    product = graph.add("MatMul", [source, weight], f"{name}_product")
    bias = graph.add_constant(BIASES[name], np.float32, f"{name}_bias")
    graph.add("Add", [product, bias], name, output=name)


def _normed(gain: Array, offset: Array, *, outputs: tuple[str, ...] = (), reader: str = "") -> Graph:
    """Return a normalization that two layers read, and that may be read by something else."""
    graph = _empty(("query", "key", *outputs, *((reader,) if reader else ())))
    constants = [graph.add_constant(value, np.float32, "norm_constant") for value in (gain, offset)]
    graph.add("LayerNormalization", ["x", *constants], "normed", output="normed")
    _linear(graph, "query", "normed")
    _linear(graph, "key", "normed")
    if reader:
        graph.add("Neg", ["normed"], reader, output=reader)
    return graph


def _layers(graph: Graph) -> list[Layer]:
    shared = find_linears(graph)
    return layers_of(graph, shared, {group.source: _statistics(INPUTS) for group in shared})


def _expected(*names: str) -> Array:
    """Return max|x|^0.6 / max|w|^0.4 of each channel, over its geometric mean."""
    weight = np.max([np.abs(WEIGHTS[name]).max(axis=1) for name in names], axis=0)
    raw = np.abs(INPUTS).max(axis=0).astype(np.float64) ** 0.6 / weight.astype(np.float64) ** 0.4
    factors: Array = (raw / np.exp(np.log(raw).mean())).astype(np.float32)
    return factors


def _constants(graph: Graph, value: str) -> list[Array]:
    node = graph.producer(value)
    assert node is not None
    arrays = [graph.constant(name) for name in node.input[1:]]
    return [array.astype(np.float32) for array in arrays if array is not None]


GAIN = np.linspace(0.5, 1.5, WIDTH, dtype=np.float32)
OFFSET = np.linspace(-1, 1, WIDTH, dtype=np.float32)


def test_layers_of_one_input_share_its_factors_and_their_norm_takes_the_division() -> None:
    graph = _normed(GAIN, OFFSET)
    (layer,) = _layers(graph)
    assert run([Smooth([layer])], graph) == {"smoothing": 1}
    factors = _expected("query", "key")
    assert layer.alpha == ALPHA == 0.6
    assert layer.multiplier is None
    for name in ("query", "key"):
        np.testing.assert_allclose(layer.weights[name], WEIGHTS[name] * factors[:, None], rtol=1e-5)
        np.testing.assert_array_equal(layer.biases[name], BIASES[name])
    for found, before in zip(_constants(graph, "normed"), (GAIN, OFFSET), strict=True):
        np.testing.assert_allclose(found, before / factors, rtol=1e-5)
    np.testing.assert_allclose(layer.statistics.largest, np.abs(INPUTS).max(axis=0) / factors, rtol=1e-5)
    np.testing.assert_allclose(layer.statistics.sample, INPUTS / factors, rtol=1e-5)
    assert_index_true(graph)


@pytest.mark.parametrize(
    "graph",
    [
        _normed(GAIN, OFFSET, reader="other"),  # something else would read divided numbers
        _normed(GAIN, OFFSET, outputs=("normed",)),  # and so would who reads the output
        _normed(np.ones(1, np.float32), OFFSET),  # one gain for all channels cannot hold a factor for each
        _normed(GAIN, np.ones(1, np.float32)),
    ],
    ids=["read by another", "an output", "one gain", "one offset"],
)
def test_where_a_norm_cannot_divide_the_input_is_multiplied(graph: Graph) -> None:
    before = _constants(graph, "normed")
    (layer,) = _layers(graph)
    assert run([Smooth([layer])], graph) == {"smoothing": 1}
    assert layer.multiplier is not None
    np.testing.assert_allclose(layer.multiplier, 1 / _expected("query", "key"), rtol=1e-5)
    for found, expected in zip(_constants(graph, "normed"), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def _attended(*, twice: bool = False, wider: bool = False) -> Graph:
    """Return queries, keys and values of one input, their attention, and the layer that reads it."""
    graph = _empty(("out", *(("also",) if twice else ())))
    for name in ("query", "key", "value"):
        _linear(graph, name, "x")
    inputs = ["query", "key", "value"]
    context = graph.add(OPERATOR, inputs, "context", domain=MS_DOMAIN, attributes={"num_heads": 2})
    if wider:
        context = graph.add("Identity", [context], "handed on")
    _linear(graph, "out", context)
    if twice:
        graph.add("Neg", ["value"], "also", output="also")
    return graph


def test_the_layer_of_the_values_takes_the_division_of_attention() -> None:
    graph = _attended()
    shared, projection = _layers(graph)
    assert run([Smooth([shared, projection])], graph) == {"smoothing": 2}
    own, factors = _expected("query", "key", "value"), _expected("out")
    assert projection.multiplier is None
    np.testing.assert_allclose(projection.weights["out"], WEIGHTS["out"] * factors[:, None], rtol=1e-5)
    values = WEIGHTS["value"] * own[:, None] / factors
    np.testing.assert_allclose(shared.weights["value"], values, rtol=1e-5)
    bias = shared.biases["value"]
    assert bias is not None
    np.testing.assert_allclose(bias, BIASES["value"] / factors, rtol=1e-5)
    np.testing.assert_allclose(shared.weights["key"], WEIGHTS["key"] * own[:, None], rtol=1e-5)
    assert shared.multiplier is not None
    np.testing.assert_allclose(shared.multiplier, 1 / own, rtol=1e-5)


@pytest.mark.parametrize(
    "graph", [_attended(twice=True), _attended(wider=True)], ids=["read twice", "handed on"]
)
def test_values_that_something_else_reads_are_not_divided(graph: Graph) -> None:
    shared, projection = _layers(graph)
    run([Smooth([shared, projection])], graph)
    np.testing.assert_array_equal(shared.biases["value"], BIASES["value"])
    np.testing.assert_allclose(
        shared.weights["value"], WEIGHTS["value"] * _expected("query", "key", "value")[:, None], rtol=1e-5
    )
    assert projection.multiplier is not None
    np.testing.assert_allclose(projection.multiplier, 1 / _expected("out"), rtol=1e-5)


@pytest.mark.parametrize("activation", ["Gelu", "Relu"])
def test_what_is_bounded_from_below_is_left_alone(activation: str) -> None:
    graph = _empty(("out",))
    graph.add(activation, ["x"], "active", output="active", domain=MS_DOMAIN if activation == "Gelu" else "")
    _linear(graph, "out", "active")
    (layer,) = _layers(graph)
    assert run([Smooth([layer])], graph) == {"smoothing": 0}
    assert (layer.alpha, layer.multiplier) == (None, None)
    np.testing.assert_array_equal(layer.weights["out"], WEIGHTS["out"])


def test_channels_that_are_never_used_count_as_a_hundred_thousandth() -> None:
    """Of (0, 1) and weights (1, 1), logs are 0.5 * (ln 1e-5, 0): factors 1e-5 to the +-1/4 around 1."""
    factors = smoothing_factors(np.array([0.0, 1.0], np.float32), np.ones(2, np.float32), 0.5)
    assert factors == pytest.approx([1e-5**0.25, 1e-5**-0.25])
    factors = smoothing_factors(np.ones(2, np.float32), np.array([0.0, 1.0], np.float32), 0.5)
    assert factors == pytest.approx([1e-5**-0.25, 1e-5**0.25])


def test_smoothing_comes_before_rounding_and_knows_its_layers() -> None:
    graph = _normed(GAIN, OFFSET)
    (layer,) = _layers(graph)
    layer.rounded["query"] = Rounded(np.ones((WIDTH, WIDTH), np.int8), np.ones(WIDTH, np.float32))
    with pytest.raises(
        GraphError, match=r"smoothing, after none, .*: weights are rounded already; .*quantize"
    ):
        run([Smooth([layer])], graph)
    (strange,) = _layers(_normed(GAIN, OFFSET))
    node = graph.producer("query")
    assert isinstance(node, onnx.NodeProto)
    graph.rename_output(node, 0, "renamed")
    with pytest.raises(GraphError, match="no node makes query, the output of a linear layer"):
        run([Smooth([strange])], graph)


def test_a_channel_that_would_become_infinite_is_refused() -> None:
    graph = _normed(GAIN, OFFSET, reader="other")
    (layer,) = _layers(graph)
    layer.statistics.largest[3] = np.inf
    with (
        pytest.raises(GraphError, match="a channel of normed cannot be multiplied"),
        np.errstate(all="ignore"),
    ):
        run([Smooth([layer])], graph)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, np.inf, np.nan])
def test_every_channel_needs_a_multiplier_that_can_be_taken_back(multiplier: float) -> None:
    graph = _normed(GAIN, OFFSET)
    (layer,) = _layers(graph)
    layer.multiplier = np.ones(WIDTH, np.float32)
    Smooth([layer]).ensures(graph)
    layer.multiplier[3] = multiplier
    with pytest.raises(BrokenContractError, match="a channel of normed cannot be multiplied"):
        Smooth([layer]).ensures(graph)
