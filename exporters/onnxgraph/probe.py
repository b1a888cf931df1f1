"""Looking into a graph: what its values are, and which of them are float32, read off a real run.

Shapes and types are not inferred from the graph: inference gives up on many operators, and a run does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from bertonnx.exporters.onnxgraph.files import is_large, with_large_inputs, with_lent_weights
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.runtime.session.bare import BareSession, open_bare

__all__ = ["float_values", "open_values", "run_graph", "shapes_of", "tells_axes_apart"]


def run_graph(
    model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]], values: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Run what of a model computes the named values, outputs or inside, on the CPU as it is; return these.

    Args:
        model: stays as it is.
        feeds: arrays by the names of inputs, int64 where they are the model's own; those that the model does
            not have are left out.
        values: names of values, each of any type and shape.
    """
    session = open_values(model, values)
    return dict(zip(session.outputs, session.run(session.outputs, feeds), strict=True))


def shapes_of(
    model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[np.int64]], values: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Run a model as `run_graph` does, and return the shapes of the named values.

    Its large weights count as zeros: no shape depends on them, and they need not be written and read.
    """
    shell = with_large_inputs(model)
    zeros = {
        tensor.name: np.zeros(tensor.dims, helper.tensor_dtype_to_np_dtype(tensor.data_type))
        for tensor in model.graph.initializer
        if is_large(tensor)
    }
    found = run_graph(shell, {**feeds, **zeros}, values)
    return {name: array.shape for name, array in found.items()}


def tells_axes_apart(feeds: Mapping[str, npt.NDArray[np.int64]]) -> bool:
    """Say whether shapes of a run on `feeds` tell texts from tokens, with nothing padded.

    Args:
        feeds: int64 of shape (batch, tokens), `attention_mask` among them.
    """
    batch, tokens = feeds["attention_mask"].shape
    return batch != tokens and bool(feeds["attention_mask"].all())


def float_values(model: onnx.ModelProto) -> list[str]:
    """Return the names of the float32 values inside the graph, its outputs aside."""
    ends = {output.name for output in model.graph.output}
    names = [value for node in model.graph.node for value in node.output if value]
    session = open_values(with_large_inputs(model), names)
    return [name for name, kind in session.types.items() if kind == "tensor(float)" and name not in ends]


def open_values(model: onnx.ModelProto, values: Sequence[str]) -> BareSession:
    """Open what of a model computes the named values, whether outputs or inside; it stays as it is.

    Its large weights are read where they are: to write them would take longer than a run.
    """
    shell, weights = with_lent_weights(model)
    # ONNX refuses two outputs of one name, and a value may be asked for twice.
    part = Graph(shell).extract(list(dict.fromkeys(values)))
    used = {tensor.name for tensor in part.graph.initializer}
    lent = {name: array for name, array in weights.items() if name in used}
    return open_bare(part.SerializeToString(), weights=lent)
