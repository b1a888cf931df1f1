"""Texts of several lengths in one batch get the bits that each of them gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bertonnx
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.modelfile.mapped import without_weights
from bertonnx.runtime.modelfile.mixing import Graph, UnknownGraphError
from bertonnx.runtime.modelfile.ragged import groups_of, one_group, ragged_form
from bertonnx.runtime.modelfile.wire import GRAPH, extents
from bertonnx.runtime.rows import by_text
from bertonnx.runtime.session.ort_session import OrtSession
from tests.cells import Cells
from tests.runtime.modelfile.test_device_form import session_of
from tests.tiny import save_tiny

Arrays = list[npt.NDArray[np.float32]]

LENGTHS = [3, 3, 5, 8, 13, 13, 13, 21, 34]

KNOWN = ("bert", "distilbert", "roberta", "electra", "big_bird", "rembert")
"""Families whose positions come from other operators each; the last two look up twice what no text says."""

UNKNOWN = ("mpnet", "albert", "modernbert", "convbert")
"""Families whose attention, or what is around it, is not known to be of one text alone."""


def forms(path: Path) -> tuple[OrtSession, OrtSession]:
    """Return a file's graph, and its other form."""
    model = without_weights(path)
    form = ragged_form(model)
    assert form is not None
    plain, ragged = (OrtSession(session_of(graph, path.parent), "cpu") for graph in (model, form))
    assert (plain.ragged, ragged.ragged) == (False, True)
    assert plain.inputs == ragged.inputs
    return plain, ragged


def feeds(session: OrtSession, ids: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    made = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids % 2}
    return {name: made[name] for name in session.inputs}


def the_same_bits(path: Path, task: str) -> None:
    plain, ragged = forms(path)
    dice = np.random.default_rng(0)
    texts = [dice.integers(5, 100, length) for length in LENGTHS]
    alone = [plain.run(plain.outputs, feeds(plain, text[None])) for text in texts]
    together = ragged.run_together(ragged.outputs, feeds(ragged, np.concatenate(texts)[None]), LENGTHS)
    for place, name in enumerate(plain.outputs):
        found = by_text(together[place], task_named(task).outputs[name], LENGTHS)
        assert len(found) == len(texts)
        for one, other in zip(alone, found, strict=True):
            assert np.abs(other).max() > 0
            assert np.array_equal(one[place][0], other), name
    # One group is a batch as any other.
    for shape in ((4, 9), (1, 1)):
        batch = feeds(plain, dice.integers(5, 100, shape))
        answers = (session.run(session.outputs, batch) for session in (plain, ragged))
        assert all(np.array_equal(one, other) for one, other in zip(*answers, strict=True))
    masked = feeds(plain, dice.integers(5, 100, (2, 7)))
    masked["attention_mask"][0, 4:] = 0
    answers = (session.run(session.outputs, masked) for session in (plain, ragged))
    assert all(np.array_equal(one, other) for one, other in zip(*answers, strict=True))


@pytest.mark.parametrize("family", KNOWN)
def test_families(family: str, cell: Cells) -> None:
    the_same_bits(cell(family, "feature-extraction").report.path, "feature-extraction")


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "fill-mask"])
def test_tasks(task: str, exported: dict[str, Path]) -> None:
    the_same_bits(exported[task], task)


def test_a_text_without_tokens(exported: dict[str, Path]) -> None:
    plain, ragged = forms(exported["feature-extraction"])
    empty = feeds(plain, np.zeros((2, 0), np.int64))
    answers = (session.run(session.outputs, empty) for session in (plain, ragged))
    for one, other in zip(*answers, strict=True):
        assert one.shape == other.shape
        assert np.array_equal(one, other, equal_nan=True)


def test_int8(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", task="text-classification")
    report = bertonnx.export(source, tmp_path / "int8.onnx", quantize=True, min_agreement=0.0)
    the_same_bits(report.path, "text-classification")


@pytest.mark.parametrize("family", UNKNOWN)
def test_what_is_not_known_stays_as_it_is(family: str, cell: Cells) -> None:
    path = cell(family, "feature-extraction").report.path
    assert ragged_form(without_weights(path)) is None
    with bertonnx.load(path, provider="cpu") as model:
        assert len(model.predict(["one", "two more", "and three more"])) == 3


def test_halves_are_for_a_gpu(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", task="feature-extraction")
    path = bertonnx.export(source, tmp_path / "model.onnx", precision="fp16").path
    assert ragged_form(without_weights(path)) is None


def test_groups_are_texts_of_one_length_side_by_side() -> None:
    assert groups_of([2, 2, 5, 7]).tolist() == [[0, 4, 2, 2, 0], [4, 9, 1, 5, 0], [9, 16, 1, 7, 0]]
    assert groups_of([4, 4, 4]).tolist() == one_group(3, 4).tolist() == [[0, 12, 3, 4, 0]]


def kinds(nodes: list[onnx.NodeProto], **fixed: npt.NDArray[np.generic]) -> dict[str, str]:
    """Return of what kind each value is in a graph whose tokens' vectors, 16 wide, are called `x`."""
    table = numpy_helper.from_array(np.ones((9, 16), np.float32), "table")
    more = [numpy_helper.from_array(array, name) for name, array in fixed.items()]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["x"]), *nodes], "g", [ids], [], [table, *more]
    )
    model = helper.make_model(graph).SerializeToString()
    (span,) = (content for number, _, content in extents(model, (0, len(model))) if number == GRAPH)
    read = Graph(model, span)
    return {name: read.kind(name.encode()).of for node in nodes for name in node.output}


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "kind"),
    [
        ("Relu", ["x"], {}, "tokens"),
        ("Add", ["x", "vector"], {}, "tokens"),
        ("Add", ["x", "one_token"], {}, "tokens"),
        ("Add", ["x", "tokens"], {}, "other"),  # other numbers for other places
        ("Mul", ["x", "x"], {}, "tokens"),
        ("Tanh", ["x"], {}, "tokens"),
        ("Tanh", ["narrow"], {}, "other"),  # computed for several tokens at once
        ("MatMul", ["x", "weight"], {}, "tokens"),
        ("MatMul", ["weight", "x"], {}, "other"),
        ("LayerNormalization", ["x", "vector"], {}, "tokens"),
        ("LayerNormalization", ["x", "vector"], {"axis": 1}, "other"),
        ("Softmax", ["x"], {}, "tokens"),
        ("Softmax", ["x"], {"axis": 1}, "other"),
        ("ReduceMax", ["x", "last"], {}, "tokens"),
        ("ReduceMax", ["x", "last"], {"keepdims": 0}, "other"),
        ("ReduceMax", ["x", "middle"], {}, "other"),
        ("Reshape", ["x", "rows"], {}, "rows"),
        ("Reshape", ["x", "pairs"], {}, "other"),
        ("CumSum", ["x", "last"], {}, "other"),
        ("Transpose", ["x"], {"perm": [1, 0, 2]}, "other"),
        ("Madeup", ["x"], {}, "other"),
        ("Reshape", ["x"], {}, "other"),  # damaged
        ("MatMul", ["x"], {}, "other"),
        ("Gather", ["table", "input_ids", "x"], {}, "other"),
    ],
)
def test_what_mixes_tokens(op: str, inputs: list[str], attributes: dict[str, Any], kind: str) -> None:
    floats = {
        "vector": np.ones(16, np.float32),
        "one_token": np.ones((1, 1, 16), np.float32),
        "tokens": np.ones((1, 5, 16), np.float32),
        "weight": np.ones((16, 16), np.float32),
        "three": np.ones((16, 3), np.float32),
    }
    shapes = {"last": [-1], "middle": [1], "rows": [-1, 16], "pairs": [-1, 32]}
    fixed: dict[str, Any] = {**floats}
    fixed |= {name: np.array(value, np.int64) for name, value in shapes.items()}
    narrow = helper.make_node("MatMul", ["x", "three"], ["narrow"])
    found = kinds([narrow, helper.make_node(op, inputs, ["y"], **attributes)], **fixed)
    assert found == {"narrow": "tokens", "y": kind}


@pytest.mark.parametrize("name", ["groups", "ragged/count", "group/row"])
def test_a_graph_that_has_such_names_itself(name: str, exported: dict[str, Path]) -> None:
    model = onnx.load_from_string(without_weights(exported["feature-extraction"]))
    assert ragged_form(model.SerializeToString()) is not None
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), name))
    assert ragged_form(model.SerializeToString()) is None


def test_nodes_out_of_order(exported: dict[str, Path]) -> None:
    model = onnx.load_from_string(without_weights(exported["feature-extraction"]))
    last = model.graph.node.pop()
    model.graph.node.insert(0, last)
    assert ragged_form(model.SerializeToString()) is None


def test_branches_in_branches() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(30):
        branch = helper.make_graph([node], "branch", [], [value])
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        with_one = node.SerializeToString()
        if len(with_one) > 1 << 16:
            break
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 3])
    model = helper.make_model(helper.make_graph([node], "g", [ids], [value]))
    assert ragged_form(model.SerializeToString()) is None


def test_an_input_that_no_encoder_has() -> None:
    value = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["pixel_values"], ["y"])], "g", [value], [value])
    model = helper.make_model(graph).SerializeToString()
    assert ragged_form(model) is None
    (span,) = (content for number, _, content in extents(model, (0, len(model))) if number == GRAPH)
    with pytest.raises(UnknownGraphError):
        Graph(model, span)
