"""A session as plain as ONNX Runtime gives it, to look into a graph or to let it be rewritten.

What predicts is opened by `runtime.session.session`; this is for exporting, whose graphs have other outputs
and are not checked yet, and for asking whether a provider works at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from bertonnx.runtime.session.session import import_onnxruntime

__all__ = ["BareSession", "Level", "open_bare"]

Level = Literal["none", "basic", "all"]

_LEVELS: Mapping[Level, str] = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "all": "ORT_ENABLE_ALL",
}


class BareSession:
    """An open graph, whatever its outputs.

    Attributes:
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs, in its order.
        types: ONNX Runtime's type of each output, such as "tensor(float)".
        providers: ONNX Runtime's names of the providers that it took.
    """

    def __init__(self, session: Any, lent: object = ()) -> None:
        self._session, self._lent = session, lent
        self.inputs: tuple[str, ...] = tuple(item.name for item in session.get_inputs())
        self.types: Mapping[str, str] = {item.name: item.type for item in session.get_outputs()}
        self.outputs = tuple(self.types)
        self.providers: tuple[str, ...] = tuple(session.get_providers())

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Return the named outputs, each of the graph's own type and shape.

        Args:
            outputs: their names.
            feeds: arrays by the names of inputs; those that the graph does not have are left out.
        """
        # Callers know all inputs that encoders may have; ONNX Runtime refuses those that this one lacks.
        known = {name: array for name, array in feeds.items() if name in self.inputs}
        results: list[npt.NDArray[Any]] = self._session.run(list(outputs), known)
        return results


def open_bare(
    model: bytes | Path,
    *,
    level: Level = "none",
    optimized_to: Path | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
) -> BareSession:
    """Open a graph.

    Args:
        model: a `ModelProto`'s bytes, or a file; nothing checks it.
        level: how far ONNX Runtime optimizes it: "none", "basic" (folding, and removing what is unused) or
            "all".
        optimized_to: where to save the graph as optimized; its weights lie beside it, in a file whose name
            ends in `.data`.
        providers: ONNX Runtime's names of those to try, in order; it never falls back to others.
        weights: those of which the model says that they lie elsewhere; they are read where they are.

    Raises:
        Exception: whatever ONNX Runtime raises, for its exceptions have no common base.
        MissingDependencyError: no ONNX Runtime is installed.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    # What it would log as an error, it raises as well.
    options.log_severity_level = 4
    # Each run is small or has others beside it, and threads that wait for work take a core each.
    options.intra_op_num_threads = 1
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized_to.name}.data"
        )
    lent = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (weights or {}).items()}
    if lent:
        options.add_external_initializers(list(lent), list(lent.values()))
    # A path lets ONNX Runtime find weights that lie beside the file.
    given = model if isinstance(model, bytes) else str(model)
    opened = ort.InferenceSession(given, options, providers=list(providers), enable_fallback=0)
    # ONNX Runtime reads numbers that it was lent as long as it runs.
    return BareSession(opened, (weights, lent))
