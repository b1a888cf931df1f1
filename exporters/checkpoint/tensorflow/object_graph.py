"""The graph of objects in a checkpoint of TensorFlow 2: which variable each key holds.

Source: tensorflow/core/protobuf/trackable_object_graph.proto. Keys are paths of attributes, such as
`model/layer_with_weights-4/_attention_layer/...`, and differ from class to class; full names are what the
variables were called when they were made.
"""

from __future__ import annotations

from collections.abc import Iterator

from bertonnx.runtime.modelfile.wire import Span, fields

__all__ = ["full_names"]

_NODES, _ATTRIBUTES = 1, 2
_FULL_NAME, _KEY = 2, 3


def full_names(graph: bytes) -> dict[str, str]:
    """Return key -> full name, of the variables that have one.

    Raises:
        ValueError: the graph is damaged.
    """
    names = {}
    for node in _contents(graph, (0, len(graph)), _NODES):
        for attribute in _contents(graph, node, _ATTRIBUTES):
            texts = {number: graph[start:end].decode() for number, (start, end) in fields(graph, attribute)}
            if texts.get(_FULL_NAME) and texts.get(_KEY):
                names[texts[_KEY]] = texts[_FULL_NAME]
    return names


def _contents(data: bytes, span: Span, wanted: int) -> Iterator[Span]:
    return (content for number, content in fields(data, span) if number == wanted)
