"""What tests of graphs share."""

from __future__ import annotations

import onnx

from bertonnx.exporters.onnxgraph.graph import Graph, reads
from bertonnx.exporters.onnxgraph.step import Step, run

__all__ = ["assert_index_true", "changed"]


def changed(model: onnx.ModelProto, *steps: Step) -> tuple[onnx.ModelProto, list[int]]:
    """Return a copy of a model after steps, each run as in an export, and how many places each changed.

    The contract is checked as `run` checks it, and what it does not see beside it: where nothing changed, the
    nodes that an output needs are those that there were, and the model that was given is as it was.
    """
    before = model.SerializeToString(deterministic=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    counts = []
    for step in steps:
        nodes = _live(graph.model)
        count = run([step], graph)[step.name]
        assert count >= 0
        assert_index_true(graph)
        if count == 0:
            assert _live(graph.model) == nodes, f"{step.name} says that it changed nothing"
        counts.append(count)
    assert model.SerializeToString(deterministic=True) == before
    return graph.model, counts


def _live(model: onnx.ModelProto) -> list[bytes]:
    """Return the nodes that an output needs, in an order of their own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    graph.finish()
    return sorted(node.SerializeToString(deterministic=True) for node in graph.nodes)


def assert_index_true(graph: Graph) -> None:
    """Compare what a graph says of who makes and who reads a value with what its nodes say."""
    made: dict[str, int] = {}
    read: dict[str, list[int]] = {}
    for node in graph.nodes:
        made |= {value: id(node) for value in node.output if value}
        for value in reads(node):
            read.setdefault(value, []).append(id(node))
    weights = {tensor.name for tensor in graph.proto.initializer}
    asked = {*made, *read, *weights, *graph._producers, *graph._readers}
    for value in asked:
        maker = graph.producer(value)
        assert (None if maker is None else id(maker)) == made.get(value), f"who makes {value}"
        assert sorted(map(id, graph.readers(value))) == sorted(read.get(value, [])), f"who reads {value}"
    assert set(graph._initializers) == weights
    assert {*made, *weights} <= graph._names
