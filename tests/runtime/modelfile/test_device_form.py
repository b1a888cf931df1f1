"""A graph in the form for a GPU answers the same, with fewer additions."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bertonnx
from bertonnx.runtime.modelfile.device_form import device_form
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.mapped import without_weights
from bertonnx.runtime.modelfile.unpadded import assume_unpadded
from bertonnx.runtime.session.session import import_onnxruntime
from tests.cells import Cells
from tests.tiny import save_tiny

FAMILIES = ("bert", "albert", "distilbert", "mpnet", "roberta", "roformer")


def session_of(model: bytes, folder: Path) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


def run(session: Any, texts: int, tokens: int) -> list[npt.NDArray[np.float32]]:
    ids = np.random.default_rng(tokens).integers(5, 100, (texts, tokens))
    made = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
    found: list[npt.NDArray[np.float32]] = session.run(
        None, {item.name: made[item.name] for item in session.get_inputs()}
    )
    return found


def with_biases(path: Path) -> None:
    """Give a file, whose checkpoint was made with biases of zero, others."""
    model, dice = onnx.load(str(path)), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if (
            len(tensor.dims) == 1
            and tensor.dims[0] > 1
            and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        ):
            before = numpy_helper.to_array(tensor)
            noise = dice.normal(scale=0.3, size=before.shape).astype(before.dtype)
            tensor.CopyFrom(numpy_helper.from_array(before + noise, tensor.name))
    onnx.save(model, str(path))


@pytest.fixture(scope="module", params=FAMILIES)
def biased(request: pytest.FixtureRequest, cell: Cells, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    shutil.copyfile(cell(request.param, "feature-extraction").report.path, path)
    with_biases(path)
    return path


def test_the_same_answers_with_fewer_additions(biased: Path) -> None:
    model = without_weights(biased)
    model = assume_unpadded(model) or model
    with held(biased) as file:
        changed = device_form(model, file.data)
    assert changed is not None
    before, after = operators(model), operators(changed)
    assert after["Add"] <= before["Add"] - 6
    assert after["SkipLayerNormalization"] >= 3
    first, second = (session_of(graph, biased.parent) for graph in (model, changed))
    for texts, tokens in ((1, 5), (3, 17)):
        for one, other in zip(run(first, texts, tokens), run(second, texts, tokens), strict=True):
            assert np.abs(one).max() > 0.1
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5)


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", task="feature-extraction")
    path = bertonnx.export(source, tmp_path / "model.onnx", precision="fp16").path
    with_biases(path)
    model = onnx.load(str(path)).SerializeToString()
    changed = device_form(assume_unpadded(model) or model, b"")
    assert changed is not None
    tensors = {t.name: t for t in onnx.load_from_string(changed).graph.initializer}
    moved = [t for name, t in tensors.items() if name.endswith("/with value bias")]
    assert len(moved) == 2
    assert {t.data_type for t in moved} == {TensorProto.FLOAT16}


def attention(**changes: Any) -> bytes:
    """Return one attention between products, with changes: what reads a sum besides, or what a bias is."""
    width, dice = 8, np.random.default_rng(0)
    weights = {f"w{part}": dice.normal(size=(width, width)) for part in "qkvo"}
    weights |= {f"b{part}": dice.normal(size=width) for part in "qkvo"} | changes.get("weights", {})
    nodes = []
    for part in "qkv":
        nodes.append(helper.make_node("MatMul", ["x", f"w{part}"], [f"m{part}"]))
        nodes.append(helper.make_node("Add", [f"m{part}", f"b{part}"], [part]))
    nodes.append(
        helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["a"], domain="com.microsoft", num_heads=2)
    )
    nodes += [helper.make_node("MatMul", ["a", "wo"], ["mo"]), helper.make_node("Add", ["bo", "mo"], ["y"])]
    nodes += changes.get("nodes", [])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "attention",
        [value("x", TensorProto.FLOAT, ["texts", "tokens", width])],
        [value(name, TensorProto.FLOAT, None) for name in ("y", *changes.get("outputs", ()))],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


def answers(model: bytes) -> list[npt.NDArray[np.float32]]:
    x = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)
    found: list[npt.NDArray[np.float32]] = session_of(model, Path()).run(None, {"x": x})
    return found


def test_both_biases_go() -> None:
    model = attention()
    changed = device_form(model, b"")
    assert changed is not None
    assert operators(changed)["Add"] == 2
    np.testing.assert_allclose(answers(changed)[0], answers(model)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "additions"),
    [
        # What somebody else reads stays as it is.
        ({"nodes": [helper.make_node("Neg", ["k"], ["z"])], "outputs": ["z"]}, 3),
        ({"nodes": [helper.make_node("Neg", ["v"], ["z"])], "outputs": ["z"]}, 3),
        ({"outputs": ["k"]}, 3),
        ({"nodes": [helper.make_node("Neg", ["a"], ["z"])], "outputs": ["z"]}, 3),
        ({"nodes": [helper.make_node("Neg", ["mo"], ["z"])], "outputs": ["z"]}, 3),
        # One that differs from token to token is no bias.
        ({"weights": {"bk": np.ones((5, 8))}}, 3),
        ({"weights": {"bv": np.ones((5, 8))}}, 3),
    ],
)
def test_what_others_need_stays(changes: dict[str, Any], additions: int) -> None:
    model = attention(**changes)
    changed = device_form(model, b"")
    assert changed is not None
    assert operators(changed)["Add"] == additions
    for one, other in zip(answers(model), answers(changed), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_a_graph_without_attention_is_left_alone() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    assert device_form(helper.make_model(graph).SerializeToString(), b"") is None
