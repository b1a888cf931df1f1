"""The contract of graph steps: what runs when, and what a failure says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bertonnx.exporters
from bertonnx.errors import GraphError, MissingDependencyError
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import BrokenContractError, Step, need, run
from bertonnx.wording import COMMAND_LINE, Message, Option, R

FLOAT = TensorProto.FLOAT


def _graph() -> Graph:
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Abs", ["n"], ["out"]),
    ]
    ends = [helper.make_tensor_value_info(name, FLOAT, None) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


@dataclass(frozen=True, eq=False)
class _Does(Step):
    """A step that does what it is given."""

    name = "does"
    change: Callable[[Graph], object] = lambda _: None
    before: Callable[[Graph], object] = lambda _: None
    after: Callable[[Graph], object] = lambda _: None
    count: int = 0

    def requires(self, graph: Graph) -> None:
        self.before(graph)

    def apply(self, graph: Graph) -> int:
        self.change(graph)
        return self.count

    def ensures(self, graph: Graph) -> None:
        self.after(graph)


class _Other(_Does):
    name = "other"
    remedy = Message("export without {option}", option=Option("quantize"))


def test_steps_run_in_order_between_their_checks_and_are_counted_by_name() -> None:
    seen: list[str] = []

    def notes(what: str) -> Callable[[Graph], object]:
        return lambda _: seen.append(what)

    graph = _graph()
    steps = [
        _Does(notes("apply 1"), notes("requires 1"), notes("ensures 1"), count=2),
        _Other(notes("apply 2"), count=0),
        _Does(notes("apply 3"), count=3),
    ]
    assert run(steps, graph) == {"does": 5, "other": 0}
    assert seen == ["requires 1", "apply 1", "ensures 1", "apply 2", "apply 3"]
    assert graph.steps == ["does", "other", "does"]


def _unmet(_: Graph) -> None:
    need(True, "never said")
    need(False, "there is no bias")


@pytest.mark.parametrize("fails", [_Other(before=_unmet), _Other(_unmet), _Other(after=_unmet)])
def test_a_failure_names_the_step_those_before_it_and_what_to_type(fails: Step) -> None:
    graph = _graph()
    run([_Does(), _Does()], graph)
    with pytest.raises(GraphError) as caught:
        run([_Does(), fails], graph)
    assert caught.value.worded(COMMAND_LINE) == (
        "the graph step other, after does, does, does, failed on this model: there is no bias; no file was "
        "written. To go on, export without --quantize, and please report the model"
    )
    assert isinstance(caught.value.__cause__, BrokenContractError)


def test_the_first_step_fails_after_none_and_an_error_without_words_is_named() -> None:
    with pytest.raises(GraphError) as caught:
        run([_Does(lambda _: next(iter(())))], _graph())
    assert caught.value.worded(R) == (
        "the graph step does, after none, failed on this model: StopIteration; no file was written. To go "
        'on, export with optimize = "none", and please report the model'
    )


@pytest.mark.parametrize("error", [MissingDependencyError("install it"), OSError(28, "No space left")])
def test_what_is_not_the_models_fault_is_raised_as_it_is(error: Exception) -> None:
    def fails(_: Graph) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run([_Does(fails)], _graph())
    assert caught.value is error


def _out_of_order(graph: Graph) -> None:
    graph.set_input(graph.nodes[0], 0, graph.add("Exp", ["x"], "late"))


def _unknown(graph: Graph) -> None:
    graph.set_input(graph.nodes[1], 0, "nowhere")


def _twice(graph: Graph) -> None:
    graph.add("Exp", ["n"], "again", output="x")


def _nothing_makes_the_output(graph: Graph) -> None:
    graph.remove(graph.nodes[1])


def _beside_the_index(graph: Graph) -> None:
    graph.nodes[1].input[0] = "x"


def _made_beside_the_index(graph: Graph) -> None:
    graph.proto.node.append(helper.make_node("Constant", [], ["c"], value_float=1.0))


def _renamed(graph: Graph) -> None:
    graph.proto.input[0].name = "y"
    graph.set_input(graph.nodes[0], 0, "y")


def _half(graph: Graph) -> None:
    graph.proto.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_out_of_order, "Neg reads late, which nothing before it makes"),
        (_unknown, "Abs reads nowhere, which nothing before it makes"),
        (_twice, "x is made twice"),
        (_nothing_makes_the_output, "nothing makes the output out"),
        (_beside_the_index, "the index does not know that Abs reads x"),
        (_made_beside_the_index, "the index does not know that Constant makes c"),
        (_renamed, "the inputs and outputs are others now"),
        (_half, "the inputs and outputs are others now"),
    ],
)
def test_a_graph_that_a_step_broke_is_refused(change: Callable[[Graph], None], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        run([_Does(change)], _graph())


def test_a_reader_that_the_index_knows_and_is_none_is_found() -> None:
    graph = _graph()
    graph.nodes[1].input.append("x")
    graph = Graph(graph.model)
    del graph.nodes[1].input[1]
    assert list(graph.faults()) == ["the index knows 2 readers of x, and there are 1"]


def test_taking_another_model_lets_the_one_before_go() -> None:
    graph = _graph()
    graph.add_constant([1.0], np.float32, "one")
    other = _graph().model
    other.graph.node[0].op_type = "Exp"
    graph.take(other)
    assert graph.model is other
    assert graph.producer("n", "Exp") is not None
    # What was added to the one before is not there, and must be added again.
    assert graph.constant(graph.add_constant([1.0], np.float32, "one")) is not None
    assert list(graph.faults()) == []


def _steps() -> list[type[Step]]:
    found: list[type[Step]] = []
    for module in pkgutil.walk_packages(bertonnx.exporters.__path__, "bertonnx.exporters."):
        for _, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(value, Step) and value.__module__ == module.name and value is not Step:
                found.append(value)
    return found


def test_every_step_has_a_name_of_its_own_and_says_what_it_requires_and_ensures() -> None:
    steps = _steps()
    assert len(steps) >= 14
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        words = " ".join((step.__doc__ or "").split())
        assert "Requires: " in words, step
        assert "Ensures: " in words, step


def test_a_model_of_nothing_but_an_input_is_sound() -> None:
    graph = helper.make_graph([], "g", [], [])
    assert list(Graph(onnx.ModelProto(graph=graph)).faults()) == []
