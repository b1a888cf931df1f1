"""Linear layers keep the biases alone that nothing else can add: three of BERT's six a layer.

How, and why the outputs stay: `exporters.onnxgraph.biases`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from bertonnx.exporters.onnxgraph.attentions import require_attentions
from bertonnx.exporters.onnxgraph.biases import Matrix, spare_biases
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import Linear, find_linears
from bertonnx.exporters.onnxgraph.step import Step

__all__ = ["Moved", "SpareBiases"]

Moved = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class SpareBiases(Step):
    """Biases move to where something is added anyway, or go where they make no difference.

    Requires: fused attention, float32. Ensures: the same outputs up to rounding.

    Attributes:
        moved: gets by name what the graph does not hold any more as it was.
    """

    name = "spared biases"
    moved: Moved = field(default_factory=dict)

    def requires(self, graph: Graph) -> None:
        """Attention is fused as `FuseAttention` does it."""
        require_attentions(graph)

    def apply(self, graph: Graph) -> int:
        """Move biases; returns how many additions are spared."""
        vectors = _vectors(graph)
        shared = find_linears(graph)
        linears = {linear.output: linear for group in shared for linear in group.linears}
        before = {name: _float64(graph, linear.bias) for name, linear in linears.items() if linear.bias}
        left = spare_biases(
            graph,
            shared,
            lambda name: _float64(graph, linears[name].weight),
            before,
            bears=lambda name, added: _bears(graph, linears[name].source, added),
        )
        for name, bias in left.items():
            _add_only(graph, linears[name], bias, before.get(name))
        graph.finish()
        self.moved.update({name: vectors[name] for name in vectors.keys() - _vectors(graph).keys()})
        return sum(left[name] is None for name in before)


def _vectors(graph: Graph) -> Moved:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.proto.initializer
        if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT
    }


def _float64(graph: Graph, name: str) -> Matrix:
    array = graph.constant(name)
    assert array is not None
    return array.astype(np.float64)


def _bears(graph: Graph, source: str, added: Matrix) -> bool:
    """Say whether what a normalization makes is larger than the addition, which would cost it digits."""
    norm = graph.producer(source, "LayerNormalization")
    own = None if norm is None else graph.constant(norm.input[1])
    return own is not None and bool(np.linalg.norm(added) <= np.linalg.norm(own.astype(np.float64)))


def _add_only(graph: Graph, linear: Linear, bias: Matrix | None, before: Matrix | None) -> None:
    add = graph.producer(linear.output, "Add")
    if bias is before or add is None:
        return
    if bias is None:
        product = next(name for name in add.input if name != linear.bias)
        graph.replace(linear.output, product)
    else:
        place = list(add.input).index(linear.bias)
        graph.set_input(add, place, graph.add_constant(bias, np.float32, f"{linear.output}/bias"))
