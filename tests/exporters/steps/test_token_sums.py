"""Sums over a text's tokens as products: the same numbers, and bits that the batch does not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bertonnx
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.token_sums import TokenSums
from tests.checkpoints import edit_json
from tests.graphs import changed
from tests.tiny import missing_code, save_tiny

WIDTH = 48


def graph(
    *,
    axis: int = 1,
    keepdims: int = 0,
    mask: str = "attention_mask",
    swapped: bool = False,
    early: bool = False,
) -> onnx.ModelProto:
    """Return the sum of masked vectors as PyTorch traces it."""
    source = "cast" if early else mask
    nodes = [
        helper.make_node("Cast", [mask], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", [source, "last"], ["column"]),
        helper.make_node("Cast", ["column"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["rows", "x"] if swapped else ["x", "rows"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axis"], ["sum"], keepdims=keepdims),
    ]
    constants = {"last": np.array([-1]), "axis": np.array([axis])}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", WIDTH])]
    if mask == "attention_mask":
        inputs.append(helper.make_tensor_value_info(mask, TensorProto.INT64, ["batch", "tokens"]))
    else:
        nodes.insert(0, helper.make_node("ReduceMax", ["x", "last"], [mask], keepdims=0))
    made = helper.make_graph(
        nodes,
        "sums",
        inputs,
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def feeds(rows: int) -> dict[str, Any]:
    source = np.random.default_rng(0)
    x = source.standard_normal((rows, 37, WIDTH)).astype(np.float32)
    mask = np.ones((rows, 37), dtype=np.int64)
    mask[-1, 20:] = 0
    return {"x": x, "attention_mask": mask}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_masked_sum_becomes_a_product(keepdims: int, *, swapped: bool, early: bool) -> None:
    before = graph(keepdims=keepdims, swapped=swapped, early=early)
    after, counts = changed(before, TokenSums(), TokenSums())
    assert counts == [1, 0]
    operators = [node.op_type for node in after.graph.node]
    assert "MatMul" in operators
    assert "ReduceSum" not in operators
    given = feeds(3)
    wanted = (given["x"] * given["attention_mask"][..., None]).sum(axis=1, keepdims=bool(keepdims))
    found = run_graph(after, given, ["sum"])["sum"]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_its_bits_do_not_depend_on_the_batch() -> None:
    model, _ = changed(graph(), TokenSums())
    given = feeds(9)
    together = run_graph(model, given, ["sum"])["sum"]
    for row in range(9):
        alone = run_graph(model, {name: array[row : row + 1] for name, array in given.items()}, ["sum"])[
            "sum"
        ]
        assert np.array_equal(together[row], alone[0])


@pytest.mark.parametrize("other", [{"axis": 2}, {"mask": "own"}])
def test_other_sums_are_left(other: dict[str, Any]) -> None:
    _, counts = changed(graph(**other), TokenSums())
    assert counts == [0]


# EuroBERT sums logits ("late") or vectors ("mean"), and ModernBERT vectors.
@pytest.mark.parametrize(
    ("family", "pooling"), [("modernbert", "mean"), ("eurobert", "late"), ("eurobert", "mean")]
)
def test_a_head_that_sums_tokens_gives_each_text_its_own_bits(
    family: str, pooling: str, tmp_path: Path
) -> None:
    if missing_code(family):
        pytest.skip(missing_code(family))
    source = save_tiny(tmp_path / "checkpoint", family)
    edit_json(source / "config.json", classifier_pooling=pooling)
    # The export compares with PyTorch, so what is left to see is that the batch changes nothing.
    path = bertonnx.export(source, tmp_path / "model.onnx").path
    texts = [" ".join(["the cat sat on the mat"] * count) for count in (1, 2, 3, 1, 2, 3)]
    texts += [f"a dog {word} here" for word in ("ran", "sat", "slept", "was", "is", "saw")]
    with bertonnx.load(path) as model:
        together = model.classify(texts)
        assert [model.classify([text])[0] for text in texts] == together
