"""Weights as inputs of a trace, and put into the graph after it.

PyTorch's exporter copies every weight that it knows several times: to infer shapes, to fold, to look for
equal ones, to write them. Of a model's matrices it is told the shape alone, which takes less than half of the
time and memory. What it would have folded of matrices is done here: linear layers read them turned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import onnx

from bertonnx.exporters.onnxgraph.graph import Graph

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["Lent"]

_TURNED = [1, 0]


class Lent:
    """The matrices of a model, float32 of shape (rows, columns), each once however many modules share it.

    Attributes:
        inputs: what they are called as inputs of the trace.
        tensors: the matrices, in the same order.

    Args:
        model: in float32; stays as it is.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        import torch

        self.inputs: list[str] = []
        self.tensors: list[torch.Tensor] = []
        self._names: list[str] = []
        self._places: list[tuple[torch.nn.Module, str, int]] = []
        known: dict[int, int] = {}
        for path, module in model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is None or parameter.dim() != 2 or parameter.dtype != torch.float32:
                    continue
                if id(parameter) not in known:
                    known[id(parameter)] = len(self.tensors)
                    self.inputs.append(f"lent/{len(self.tensors)}")
                    # Another object, or the trace would take the model's own for the input.
                    self.tensors.append(parameter.detach())
                    self._names.append(f"{path}.{name}" if path else name)
                self._places.append((module, name, known[id(parameter)]))

    @contextmanager
    def read_from(self, tensors: Sequence[torch.Tensor]) -> Iterator[None]:
        """Let the model read its matrices from these tensors in the block."""
        # Modules look for parameters only where they have no attribute of that name.
        for module, name, number in self._places:
            module.__dict__[name] = tensors[number]
        try:
            yield
        finally:
            for module, name, _ in self._places:
                module.__dict__.pop(name, None)

    def put_into(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Make weights of the inputs of a traced model; returns the same model."""
        graph = Graph(model)
        for lent, name, tensor in zip(self.inputs, self._names, self.tensors, strict=True):
            readers = graph.readers(lent)
            turned = [node for node in readers if _turns(graph, node)]
            if turned:
                # Once, however often it is read.
                made = _added(graph, tensor.t(), f"{name}/turned")
                for node in turned:
                    graph.replace(node.output[0], made)
            if len(turned) < len(readers) or graph.is_output(lent):
                graph.replace(lent, _added(graph, tensor, name))
        own = [value for value in graph.proto.input if value.name not in {*self.inputs}]
        del graph.proto.input[:]
        graph.proto.input.extend(own)
        graph.finish()
        return graph.model


def _turns(graph: Graph, node: onnx.NodeProto) -> bool:
    order = [list(item.ints) for item in node.attribute if item.name == "perm"]
    return node.op_type == "Transpose" and order == [_TURNED] and not graph.is_output(node.output[0])


def _added(graph: Graph, tensor: torch.Tensor, hint: str) -> str:
    """Add a weight, and return its name."""
    name = graph.fresh(hint)
    # Where it will stay: a weight that is made first and then added is copied twice more.
    weight = graph.proto.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=tensor.shape)
    weight.raw_data = tensor.contiguous().numpy().tobytes()
    return name
