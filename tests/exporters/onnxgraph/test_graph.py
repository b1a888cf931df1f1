"""Reading and editing a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph, reads
from bertonnx.exporters.onnxgraph.ort_steps import clean, run_graph

FLOAT = TensorProto.FLOAT


def _model(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("out",)) -> onnx.ModelProto:
    weights = {"w": np.array([2.0], dtype=np.float32), "unused": np.ones(3, dtype=np.float32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _chain() -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["f", "w"], ["m"]),
            helper.make_node("Neg", ["m"], ["dead"]),
            helper.make_node("Add", ["m", "f"], ["out"]),
        ]
    )


def _run(model: onnx.ModelProto, value: str = "out") -> list[float]:
    result: list[float] = run_graph(model, {"x": np.array([1, 2], dtype=np.int64)}, [value])[value].tolist()
    return result


def test_who_makes_and_who_reads() -> None:
    graph = Graph(_chain())
    node = graph.producer("m")
    assert node is not None
    assert node.op_type == "Mul"
    assert graph.producer("m", "Add") is None
    assert graph.producer("x") is None
    assert [reader.op_type for reader in graph.readers("m")] == ["Neg", "Add"]
    assert graph.only_reader("m", "Add") is None
    assert graph.only_reader("x", "Cast") is not None
    assert graph.only_reader("x", "Add") is None
    assert graph.is_output("out")
    assert (graph.scalar("w"), graph.scalar("unused"), graph.scalar("m")) == (2.0, None, None)


def test_small_constants_are_added_once() -> None:
    graph = Graph(_chain())
    one = graph.add_constant([1], np.int64, "one")
    assert graph.add_constant([1], np.int64, "again") == one
    assert graph.add_constant([1], np.float32, "float") != one
    assert graph.add_constant(1, np.int64, "scalar") != one
    assert len({graph.fresh("w"), graph.fresh("w"), "w"}) == 3


def test_adding_a_node_of_onnx_runtime_imports_its_domain_once() -> None:
    graph = Graph(_chain())
    for _ in range(2):
        graph.add("Gelu", ["m"], "g", domain=MS_DOMAIN)
    assert [entry.domain for entry in graph.model.opset_import] == ["", MS_DOMAIN]


def test_finish_drops_what_nothing_reads_and_orders_the_rest() -> None:
    model = _chain()
    model.graph.node.reverse()
    Graph(model).finish()
    assert [node.op_type for node in model.graph.node] == ["Cast", "Mul", "Add"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert _run(model) == [3.0, 6.0]


def test_replace_moves_readers_and_keeps_the_name_of_an_output() -> None:
    model = _chain()
    graph = Graph(model)
    negative = graph.add("Neg", ["f"], "negative")
    graph.replace("m", negative)
    graph.replace("out", graph.add("Abs", ["f"], "absolute"))
    graph.finish()
    assert [output.name for output in model.graph.output] == ["out"]
    assert _run(model) == [1.0, 2.0]


def test_remove() -> None:
    graph = Graph(_chain())
    node = graph.producer("dead")
    assert node is not None
    graph.remove(node)
    assert graph.producer("dead") is None
    assert [reader.op_type for reader in graph.readers("m")] == ["Add"]


def test_extract_is_the_smallest_part_and_a_copy() -> None:
    model = _chain()
    before = model.SerializeToString()
    part = Graph(model).extract(["f"])
    assert [node.op_type for node in part.graph.node] == ["Cast"]
    assert list(part.graph.initializer) == []
    assert _run(part, "f") == [1.0, 2.0]
    assert model.SerializeToString() == before


def test_a_branch_reads_from_outside() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["m"], ["n"]), helper.make_node("Abs", ["n"], ["a"])],
        "branch",
        [],
        [helper.make_tensor_value_info("a", FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["out"], then_branch=inner, else_branch=inner)
    assert reads(node) == ["c", "m"]


@pytest.mark.parametrize("value", ["m", "f"])
def test_asking_for_a_value_inside_leaves_the_model_as_it_was(value: str) -> None:
    model = _chain()
    before = model.SerializeToString()
    assert len(_run(model, value)) == 2
    assert model.SerializeToString() == before


def test_clean_folds_and_keeps_the_answers() -> None:
    model = _model(
        [
            helper.make_node("Neg", ["w"], ["folded"]),
            helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
            helper.make_node("Identity", ["f"], ["i"]),
            helper.make_node("Mul", ["i", "folded"], ["out"]),
        ]
    )
    cleaned = clean(model)
    assert [node.op_type for node in cleaned.graph.node] == ["Cast", "Mul"]
    assert _run(cleaned) == _run(model) == [-2.0, -4.0]
