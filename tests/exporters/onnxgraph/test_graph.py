"""Reading and editing a graph."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.exporters.onnxgraph.graph import MS_DOMAIN, Graph, branches, reads
from bertonnx.exporters.onnxgraph.probe import run_graph
from tests.graphs import assert_index_true

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


def _if(branch: list[onnx.NodeProto], *, condition: str = "c", output: str = "out") -> onnx.NodeProto:
    """Return an `If` whose ways both are `branch`; its last node makes what comes out."""
    end = helper.make_tensor_value_info(branch[-1].output[0], FLOAT, None)
    graph = helper.make_graph(branch, "way", [], [end])
    return helper.make_node("If", [condition], [output], then_branch=graph, else_branch=graph)


def _branched(branch: list[onnx.NodeProto]) -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["f", "w"], ["m"]),
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["c"], to=TensorProto.BOOL),
            _if(branch),
        ]
    )


def test_replace_reaches_into_branches() -> None:
    model = _branched([helper.make_node("Neg", ["m"], ["n"])])
    assert _run(model) == [-2.0, -4.0]
    graph = Graph(model)
    graph.replace("m", graph.add("Abs", ["f"], "absolute"))
    assert graph.readers("m") == []
    assert [node.op_type for node in graph.readers("absolute")] == ["If"]
    graph.finish()
    assert "Mul" not in [node.op_type for node in model.graph.node]
    assert _run(model) == [-1.0, -2.0]
    assert_index_true(graph)


def test_replace_reaches_into_branches_of_branches() -> None:
    inner = _if([helper.make_node("Add", ["m", "f"], ["deep"])], output="nested")
    model = _branched([inner, helper.make_node("Neg", ["nested"], ["n"])])
    assert _run(model) == [-3.0, -6.0]
    graph = Graph(model)
    graph.replace("m", graph.add("Exp", ["w"], "constant"))
    graph.finish()
    assert _run(model) == pytest.approx([-(np.exp(2.0) + x) for x in (1, 2)])
    assert_index_true(graph)


def test_a_branch_that_makes_the_name_itself_keeps_its_own() -> None:
    """ONNX forbids it; a graph that does it anyway must not change its meaning."""
    own = [helper.make_node("Abs", ["f"], ["m"]), helper.make_node("Neg", ["m"], ["n"])]
    graph = Graph(_model([helper.make_node("Mul", ["x", "w"], ["m"]), _if(own), _reader("m", "also")]))
    assert [node.op_type for node in graph.readers("m")] == ["Sqrt"]
    graph.replace("m", "x")
    (branch, _) = branches(graph.nodes[1])
    assert [list(node.input) for node in branch.node] == [["f"], ["m"]]
    assert list(graph.nodes[2].input) == ["x"]
    assert_index_true(graph)


def _reader(value: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Sqrt", [value], [output])


def test_a_branch_that_has_the_new_name_for_a_value_of_its_own_reads_the_one_outside() -> None:
    taken = [helper.make_node("Abs", ["f"], ["new"]), helper.make_node("Add", ["m", "new"], ["n"])]
    model = _branched(taken)
    graph = Graph(model)
    graph.add("Neg", ["f"], "new", output="new")
    graph.replace("m", "new")
    graph.finish()
    (branch, _) = branches(next(node for node in graph.nodes if node.op_type == "If"))
    assert [list(node.input) for node in branch.node] == [["f"], ["new/outside", "new"]]
    assert_index_true(graph)


def test_a_branch_that_hands_an_outer_value_on_reads_it() -> None:
    node = _if([helper.make_node("Neg", ["f"], ["n"])])
    for branch in branches(node):
        branch.output[0].name = "m"
    assert reads(node) == ["c", "f", "m"]
    graph = Graph(_model([helper.make_node("Mul", ["x", "w"], ["m"]), node]))
    graph.replace("m", "x")
    assert reads(node) == ["c", "f", "m"], "the graph holds copies"
    assert reads(graph.nodes[1]) == ["c", "f", "x"]
    assert_index_true(graph)


def test_what_the_body_of_a_loop_gets_is_its_own() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "m"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("i", "go", "state")],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("on", "next")],
    )
    node = helper.make_node("Loop", ["count", "", "start"], ["end"], body=body)
    assert reads(node) == ["count", "start", "m"]


def test_replace_for_a_reader_of_both() -> None:
    graph = Graph(_chain())
    graph.replace("m", "f")
    assert [node.op_type for node in graph.readers("f")] == ["Mul", "Add", "Neg"]
    assert graph.readers("m") == []
    assert_index_true(graph)


def test_replace_one_output_of_a_node_of_several() -> None:
    model = _model(
        [
            helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
            helper.make_node("Split", ["f"], ["first", "out"], num_outputs=2),
        ]
    )
    graph = Graph(model)
    graph.replace("out", graph.add("Neg", ["first"], "negative"))
    assert [list(node.output) for node in graph.nodes[:2]] == [["f"], ["first", "out/replaced"]]
    assert graph.producer("out/replaced", "Split") is not None
    assert _run(model) == [-1.0]
    assert_index_true(graph)


def test_an_output_that_no_node_makes_cannot_be_replaced() -> None:
    graph = Graph(_model([helper.make_node("Cast", ["x"], ["f"], to=FLOAT)], ("w",)))
    with pytest.raises(ValueError, match="w is an output of the graph, and no node makes it"):
        graph.replace("w", "f")


def test_names_inside_branches_are_taken() -> None:
    graph = Graph(_branched([helper.make_node("Neg", ["m"], ["n"])]))
    assert graph.fresh("n") == "n_1"


def test_a_cycle_is_named_rather_than_followed_for_ever() -> None:
    graph = Graph(_chain())
    cast = graph.producer("f")
    assert cast is not None
    graph.set_input(cast, 0, "m")
    with pytest.raises(ValueError, match=r"the graph has a cycle: [fm] is made from itself"):
        graph.finish()


def test_set_input() -> None:
    graph = Graph(_chain())
    add = graph.producer("out")
    assert add is not None
    graph.set_input(add, 0, "f")
    assert list(add.input) == ["f", "f"]
    assert [node.op_type for node in graph.readers("m")] == ["Neg"]
    assert [node.op_type for node in graph.readers("f")] == ["Mul", "Add"]
    graph.set_input(add, 0, "w")
    assert [node.op_type for node in graph.readers("f")] == ["Mul", "Add"]
    assert [node.op_type for node in graph.readers("w")] == ["Mul", "Add"]
    assert_index_true(graph)


@pytest.mark.parametrize("seed", range(40))
def test_the_index_is_true_after_any_edits(seed: int) -> None:
    chance = np.random.default_rng(seed)
    graph = Graph(_random_model(chance))
    for _ in range(30):
        _edit(graph, chance)
        assert_index_true(graph)


def _random_model(chance: np.random.Generator) -> onnx.ModelProto:
    """Return a graph of 12 nodes, each of which reads earlier values; some are branched, twice deep."""
    values, nodes = ["x", "w"], []
    for number in range(12):
        name = f"v{number}"
        first, second = (str(value) for value in chance.choice(values, 2))
        node = helper.make_node("Add", [first, second], [name])
        if number % 4 == 3:
            inner = [helper.make_node("Neg", [second], [f"{name}/n"])]
            if number % 8 == 7:  # a branch in the branch; and one that has a name of the outside for its own
                inner = [_if(inner, condition=first, output=f"{name}/deep"), _reader("v0", "v1")]
            node = _if([*inner, _reader(first, f"{name}/end")], condition=second, output=name)
        nodes.append(node)
        values.append(name)
    return _model(nodes, ("v11", "v5"))


def _edit(graph: Graph, chance: np.random.Generator) -> None:
    """Change something at random; what comes of it need not make sense, nor run."""
    made = [value for node in graph.nodes for value in node.output]
    old, new = (str(value) for value in chance.choice(made, 2))
    node = graph.nodes[int(chance.integers(len(graph.nodes)))]
    match int(chance.integers(6)):
        case 0:
            graph.replace(old, new)
        case 1:
            graph.add("Mul", [old, graph.add_constant([1.0], np.float32, "one")], "made")
        case 2 if len(graph.nodes) > 6 and not any(graph.is_output(value) for value in node.output):
            graph.remove(node)
        case 3:
            graph.set_input(node, 0, new)
        case 4:
            graph.redirect(node, old, new)
        case _:
            # Of a graph with a cycle there is no order; edits before this one may have made one.
            with contextlib.suppress(ValueError):
                graph.finish()


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
