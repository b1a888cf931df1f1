"""What tests of graphs share."""

from __future__ import annotations

from bertonnx.exporters.onnxgraph.graph import Graph, reads

__all__ = ["assert_index_true"]


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
