"""Spare the addition of a bias where another place can take it; what the model computes stays the same.

- What is added to all keys adds the same to all of a query's products, and the softmax takes it off.
- What is added to all values comes out of attention as it went in, since probabilities sum to 1: the
  output projection's bias can hold it.
- What is added before a residual can come with the residual, where a layer normalization makes it:
  from its own bias. Linear layers that read the normalization too take it off in theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from bertonnx.exporters.onnxgraph.attentions import attention_inputs
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import Linear, Shared

__all__ = ["Matrix", "spare_biases"]

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Residual:
    """A layer whose bias a normalization can add: `layer.output + norm.output[0]`.

    Attributes:
        layer: the layer.
        norm: makes the other summand.
        readers: linear layers that read the norm as well.
    """

    layer: Linear
    norm: onnx.NodeProto
    readers: tuple[Linear, ...]


def spare_biases(
    graph: Graph,
    shared: Sequence[Shared],
    weight: Callable[[str], Matrix],
    biases: Mapping[str, Matrix],
    *,
    bears: Callable[[str, Matrix], bool] = lambda *_: True,
) -> dict[str, Matrix | None]:
    """Move biases, changing the normalizations that take some in place; return what is left to add.

    Args:
        graph: the graph to change.
        shared: all its linear layers.
        weight: returns what a layer multiplies its input with, (width, features), by its output.
        biases: what it adds, (features,), by its output; of one that adds nothing, none.
        bears: says whether the input of a layer, given by its output, may hold an addition (width,) more.

    Returns:
        the bias of each layer by its output; None where nothing is to be added, as wherever nothing was.
    """
    linears = {linear.output: linear for group in shared for linear in group.linears}
    left = {name: biases.get(name) for name in linears}
    keys = {key for key, _, _ in _attentions(graph, shared, linears)}
    values = {value: layer for _, value, layer in _attentions(graph, shared, linears) if value in linears}
    for residual in list(_residuals(graph, shared)):
        # An output projection's bias holds the values', which its norm's other readers would change again.
        if residual.layer in values.values():
            continue
        moved = left[residual.layer.output]
        correctable = all(left[each.output] is not None or each.output in keys for each in residual.readers)
        if moved is None or not correctable:
            continue
        if all(bears(reader.output, moved) for reader in residual.readers):
            _into_norm(graph, residual, moved, weight, left, keys)
    for key in keys & linears.keys():
        left[key] = None
    # After the residuals: values that read a changed norm got a correction, which must move on too.
    for value, layer in values.items():
        moved, own = left[value], left[layer.output]
        if moved is not None and own is not None:
            left[layer.output], left[value] = own + moved @ weight(layer.output), None
    return left


def _attentions(
    graph: Graph, shared: Sequence[Shared], linears: Mapping[str, Linear]
) -> Iterator[tuple[str, str, Linear]]:
    """Yield keys and values that only one attention reads, and the only layer that reads it.

    A name is "" where something else reads the keys or values too, or no linear layer makes them.
    """
    for group in shared:
        inputs = attention_inputs(graph, group.source)
        if inputs is None:
            continue
        query, key, value = inputs

        def own(name: str, others: set[str]) -> str:
            # Where keys are queries too, the bias stays: a query's bias weighs every key differently.
            alone = len(graph.readers(name)) == 1 and not graph.is_output(name)
            return name if name in linears and name not in others and alone else ""

        # Whoever else reads the context would miss the values' bias in it.
        projected = (
            len(group.linears) == 1
            and len(graph.readers(group.source)) == 1
            and not graph.is_output(group.source)
        )
        yield own(key, {query, value}), own(value, {query, key}) if projected else "", group.linears[0]


def _residuals(graph: Graph, shared: Sequence[Shared]) -> Iterator[_Residual]:
    by_source = {group.source: group.linears for group in shared}
    for group in shared:
        # The bias of a layer that itself reads a norm could be changed by another move.
        if graph.producer(group.source, "LayerNormalization") is not None:
            continue
        for layer in group.linears:
            add = graph.only_reader(layer.output, "Add")
            other = "" if add is None else next(name for name in [*add.input, ""] if name != layer.output)
            norm = graph.producer(other, "LayerNormalization")
            readers = by_source.get(other, ())
            if norm is None or len(norm.input) < 3 or graph.is_output(other):
                continue
            if len(graph.readers(other)) == len(readers) + 1:
                yield _Residual(layer, norm, readers)


def _into_norm(
    graph: Graph,
    residual: _Residual,
    moved: Matrix,
    weight: Callable[[str], Matrix],
    left: dict[str, Matrix | None],
    keys: set[str],
) -> None:
    layer, norm = residual.layer, residual.norm
    own = graph.constant(norm.input[2])
    if own is None or own.shape != moved.shape:
        return
    name = graph.add_constant(own.astype(np.float64) + moved, np.float32, f"{norm.output[0]}/bias")
    graph.set_input(norm, 2, name)
    left[layer.output] = None
    for reader in residual.readers:
        # Keys need no correction: what all of them lack, the softmax does not see.
        before = left[reader.output]
        if reader.output not in keys and before is not None:
            left[reader.output] = before - moved @ weight(reader.output)
