"""Looking into a graph: what its values are, and which of them are float32, read off a real run.

Shapes and types are not inferred from the graph: inference gives up on many operators, and a run does not.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from bertonnx.exporters.onnxgraph.files import is_large, save_proto, with_large_inputs
from bertonnx.runtime.session.bare import BareSession, open_bare

__all__ = ["float_values", "open_values", "run_graph", "shapes_of", "tells_axes_apart"]


def run_graph(
    model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]], values: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Run a model on the CPU, as it is, and return the named values, whether outputs or inside.

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
    """Open a model so that it gives the named values, whether outputs or inside; it stays as it is."""
    # ONNX Runtime may map the weights of a large model; Windows then keeps the folder until they are let go.
    with tempfile.TemporaryDirectory(prefix="bertonnx-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "probe.onnx"
        with _outputs(model, values):
            save_proto(model, path)
        return open_bare(path)


@contextlib.contextmanager
def _outputs(model: onnx.ModelProto, values: Sequence[str]) -> Iterator[None]:
    """Lend the model other outputs; a copy of the model would take gigabytes."""
    before = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output]
    try:
        del model.graph.output[:]
        # ONNX refuses two outputs of one name, and a value may be asked for twice.
        model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in dict.fromkeys(values))
        yield
    finally:
        del model.graph.output[:]
        model.graph.output.extend(before)
