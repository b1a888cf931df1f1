"""The INT8 graph: what becomes of each layer, how near it stays, and that no row sees another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.exporters.int8.biases import SpareBiases
from bertonnx.exporters.int8.calibration import observe
from bertonnx.exporters.int8.layers import RoundWeights, layers_of
from bertonnx.exporters.int8.pairsafe import saturates
from bertonnx.exporters.int8.quantize import quantize_model
from bertonnx.exporters.int8.rowwise import PutRowwise
from bertonnx.exporters.int8.smoothing import Smooth
from bertonnx.exporters.int8.tables import QuantizeTables
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import find_linears
from bertonnx.runtime.rows import Array, Piece
from bertonnx.runtime.session.session import import_onnxruntime
from tests.graphs import changed
from tests.tokenizers_zoo import wordpiece

VOCABULARY, WIDTH = 1100, 32
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
TABLE[:, 5] *= 20  # an outlier channel, as real models have
TABLE[7] = 0.0
WEIGHTS = {
    "up": RNG.normal(size=(WIDTH, 64)).astype(np.float32) * 0.2,
    "side": RNG.normal(size=(WIDTH, 48)).astype(np.float32) * 0.2,
    "down": RNG.normal(size=(64, WIDTH)).astype(np.float32) * 0.2,
    "head": RNG.normal(size=(WIDTH, 3)).astype(np.float32),
}
BIASES = {
    f"{name}_bias": RNG.normal(size=weight.shape[1]).astype(np.float32) for name, weight in WEIGHTS.items()
}


def _layer(name: str, source: str, output: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", [source, name], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", f"{name}_bias"], [output]),
    ]


def _model(activation: str = "Gelu") -> onnx.ModelProto:
    """Return a model of four layers, two of which share their input; `activation` feeds the third."""
    domain = "com.microsoft" if "Gelu" in activation else ""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
        *_layer("up", "hidden", "raised"),
        *_layer("side", "hidden", "aside"),
        helper.make_node(activation, ["raised"], ["active"], domain=domain),
        *_layer("down", "active", "lowered"),
        *_layer("head", "lowered", "logits"),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("logits", "aside", "lowered")
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])]
    weights = {"table": TABLE, **WEIGHTS, **BIASES}
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _pieces() -> list[Piece]:
    encoding = wordpiece().encode("a")
    rows = [RNG.integers(0, VOCABULARY, length) for length in (5, 9, 30, 80, 200)]
    return [Piece(ids, np.zeros_like(ids), encoding) for ids in rows]


PIECES = _pieces()


def _session(model: onnx.ModelProto, threads: int = 1) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(model: onnx.ModelProto, ids: npt.NDArray[np.int64], output: str = "logits") -> Array:
    result: Array = _session(model).run([output], {"input_ids": ids})[0]
    return result


def _ids(batch: int = 4, tokens: int = 16) -> npt.NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, VOCABULARY, (batch, tokens))


def _weight_types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _products(model: onnx.ModelProto) -> Sequence[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]


@pytest.mark.parametrize("activation", ["Gelu", "FastGelu", "Relu", "Tanh"])
def test_outputs_stay_near(activation: str) -> None:
    model = _model(activation)
    int8 = quantize_model(model, PIECES, target="auto").model
    for output in ("logits", "aside", "lowered"):
        expected, actual = _run(model, _ids(), output), _run(int8, _ids(), output)
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).mean() < 0.02 * np.abs(expected).mean()


def test_the_model_given_is_not_changed() -> None:
    model = _model()
    before = model.SerializeToString(deterministic=True)
    quantize_model(model, PIECES, target="auto")
    assert model.SerializeToString(deterministic=True) == before


def test_layers_that_share_an_input_share_its_quantizer() -> None:
    made = quantize_model(_model(), PIECES, target="auto")
    operators = Counter(node.op_type for node in made.model.graph.node)
    assert operators["MatMulIntegerToFloat"] == made.figures.layers == 3
    assert operators["QuantizeLinear"] == 2
    assert operators["MatMul"] == 1  # the head of three classes


def test_weights_and_word_table_are_int8_and_nothing_float_is_left_of_them() -> None:
    made = quantize_model(_model(), PIECES, target="auto")
    types = _weight_types(made.model)
    assert types["table/int8"] == TensorProto.INT8
    assert not set(types) & {"table", "up", "side", "down"}
    assert types["head"] == TensorProto.FLOAT
    assert made.figures.weights_bytes < 0.32 * made.figures.weights_bytes_fp32


@pytest.mark.parametrize(
    ("target", "safe"), [("auto", True), ("avx2", True), ("vnni", False), ("arm64", False)]
)
def test_the_target_decides_on_pair_safety(target: str, safe: bool) -> None:
    made = quantize_model(_model(), PIECES, target=target)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.model.graph.initializer}
    assert made.figures.pair_safe is safe
    assert any(saturates(arrays[node.input[1]]) for node in _products(made.model)) is not safe


def test_a_row_is_the_same_alone_in_any_batch_and_with_any_threads() -> None:
    int8 = quantize_model(_model(), PIECES, target="auto").model
    ids = _ids(12, 20)
    ids[3] = 7  # rows of zeros
    one, two = _session(int8), _session(int8, threads=2)
    together = one.run(["lowered"], {"input_ids": ids})[0]
    order = np.random.default_rng(1).permutation(len(ids))
    shuffled = two.run(["lowered"], {"input_ids": ids[order]})[0]
    np.testing.assert_array_equal(shuffled, together[order])
    for i in range(len(ids)):
        np.testing.assert_array_equal(one.run(["lowered"], {"input_ids": ids[i : i + 1]})[0][0], together[i])


def test_a_row_of_zeros_gives_the_bias() -> None:
    int8 = quantize_model(_model(), PIECES, target="auto").model
    aside = _run(int8, np.full((1, 3), 7), "aside")
    assert np.isfinite(aside).all()
    # The bias corrects the mean of what rounding the weights lost, so it is not the same to the bit.
    np.testing.assert_allclose(aside[0], np.tile(BIASES["side_bias"], (3, 1)), atol=0.05)


def test_smoothing_makes_the_layers_behind_an_outlier_better() -> None:
    model = _model()
    expected = _run(model, _ids(), "aside")

    def error(*, smoothed: bool) -> float:
        graph = Graph(model)
        shared = find_linears(graph)
        layers = layers_of(graph, shared, observe(model, [group.source for group in shared], PIECES))
        steps = [RoundWeights(layers, pair_safe=True), SpareBiases(layers), PutRowwise(layers)]
        copy, _ = changed(model, *([Smooth(layers)] if smoothed else []), *steps)
        return float(np.abs(_run(copy, _ids(), "aside") - expected).mean())

    assert error(smoothed=True) < 0.6 * error(smoothed=False)


def test_gelu_uses_all_steps() -> None:
    """Around 128, GELU's rows would use half of the steps, so that the error would be about twice."""
    int8 = quantize_model(_model(), PIECES, target="vnni").model
    active = _run_inside(int8, "active").astype(np.float64)
    rows = _run_inside(int8, "active/int8").reshape(active.shape).astype(np.float64)
    assert np.median(rows.max(axis=-1)) > 215
    zero, step = (_run_inside(int8, f"active/{name}").astype(np.float64) for name in ("zero", "scales"))
    np.testing.assert_allclose(zero * step, (zero * step).mean(), rtol=1e-6)
    around = np.abs(active).max(axis=-1, keepdims=True) / 127
    symmetric = np.rint(active / around) * around
    shifted = (rows - zero) * step
    assert np.square(shifted - active).mean() < 0.4 * np.square(symmetric - active).mean()


def _run_inside(model: onnx.ModelProto, value: str) -> npt.NDArray[Any]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.ValueInfoProto(name=value))
    result: npt.NDArray[Any] = _session(copy).run([value], {"input_ids": _ids()})[0]
    return result


def test_a_huge_activation_is_cut_and_nothing_else_breaks() -> None:
    model = _model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "up_bias")
    raised = BIASES["up_bias"].copy()
    raised[0] = 30.0
    bias.CopyFrom(numpy_helper.from_array(raised, "up_bias"))
    expected = _run(model, _ids(), "lowered")
    actual = _run(quantize_model(model, PIECES, target="auto").model, _ids(), "lowered")
    assert np.abs(actual - expected).mean() < 0.05 * np.abs(expected).mean()


def test_tables_keep_a_scale_for_each_row() -> None:
    model, counts = changed(_model(), QuantizeTables(), QuantizeTables())
    assert counts == [1, 0]
    hidden = _run_inside(model, "hidden")
    expected = TABLE[_ids()]
    step = np.abs(expected).max(axis=-1, keepdims=True) / 127
    assert np.all(np.abs(hidden - expected) <= 0.5001 * step)


def test_a_norm_that_only_layers_read_takes_the_division() -> None:
    model = _model()
    norm = helper.make_node("LayerNormalization", ["table_rows", "gain", "offset"], ["hidden"])
    model.graph.node[0].output[0] = "table_rows"
    model.graph.node.insert(1, norm)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(WIDTH, np.float32), "gain"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(WIDTH, np.float32), "offset"))
    made = quantize_model(model, PIECES, target="auto")
    assert not any("factors" in name for name in _weight_types(made.model))
    expected, actual = _run(model, _ids(), "aside"), _run(made.model, _ids(), "aside")
    assert np.abs(actual - expected).mean() < 0.02 * np.abs(expected).mean()
