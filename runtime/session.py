"""The one seam to ONNX Runtime: importing it, opening a session, running it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bertonnx.errors import MissingDependencyError, ModelFileError, ProviderError

__all__ = ["PROVIDERS", "OrtSession", "Provider", "Session", "import_onnxruntime", "open_session"]

Provider = Literal["auto", "cpu", "cuda"]
PROVIDERS: tuple[Provider, ...] = ("auto", "cpu", "cuda")

Feeds = Mapping[str, npt.NDArray[np.int64]]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion", "LayerNormFusion")
"""ONNX Runtime's `SkipLayerNormalization` is slower on CPU than its parts; benchmarks/operators.py."""


class Session(Protocol):
    """What the runtime needs of an inference engine."""

    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, outputs: Sequence[str], feeds: Feeds) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of one batch. Safe to call from several threads at once."""
        ...


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry off.

    From 1.29 the Linux wheels report home, and leave a device id under `~/.cache/Microsoft`, unless
    the environment says otherwise before the library is loaded.

    Raises:
        MissingDependencyError: no ONNX Runtime is installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError(
            'ONNX Runtime is not installed; type: pip install "bertonnx[cpu]" '
            f'(or "bertonnx[gpu]" for an NVIDIA GPU). Python said: {error}'
        ) from error


class OrtSession:
    """An ONNX Runtime session of one thread a run; several runs at a time use several cores."""

    def __init__(self, session: Any, provider: str) -> None:
        self._session = session
        self.provider = provider
        self.inputs = tuple(item.name for item in session.get_inputs())
        self.outputs = tuple(item.name for item in session.get_outputs())

    def run(self, outputs: Sequence[str], feeds: Feeds) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of one batch, as `Session.run`."""
        results: list[npt.NDArray[np.float32]] = self._session.run(list(outputs), dict(feeds))
        return results


def open_session(path: Path, *, provider: Provider = "auto", optimized: bool = True) -> OrtSession:
    """Open a model file.

    Args:
        path: an ONNX file that has been checked (`runtime.modelfile`).
        provider: "cpu", "cuda", or "auto": CUDA where it works, else CPU.
        optimized: whether the file was optimised at export, so that on CPU this need not be done
            again at every start.

    Raises:
        ProviderError: CUDA was asked for and cannot be used; never falls back in silence.
        ModelFileError: ONNX Runtime cannot load the file.
    """
    ort = import_onnxruntime()
    available = ort.get_available_providers()
    if provider == "cuda" and _CUDA not in available:
        raise ProviderError(
            "provider cuda was asked for, and this ONNX Runtime is a CPU build; type: "
            'pip uninstall -y onnxruntime && pip install "bertonnx[gpu]"'
        )
    if provider != "cpu" and _CUDA in available:
        try:
            return _open_cuda(ort, path)
        except ProviderError:
            if provider == "cuda":
                raise
    return OrtSession(_create(ort, path, _cpu_options(ort, optimized), [_CPU]), "cpu")


def _open_cuda(ort: ModuleType, path: Path) -> OrtSession:
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    session = _create(ort, path, _options(ort), [_CUDA, _CPU])
    if _CUDA not in session.get_providers():
        raise ProviderError(
            "provider cuda was asked for, and ONNX Runtime could not load it: the driver, CUDA or cuDNN "
            "is missing or of another version; type: bertonnx doctor"
        )
    return OrtSession(session, "cuda")


def _create(ort: ModuleType, path: Path, options: Any, providers: list[str]) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise ModelFileError(f"ONNX Runtime cannot load {path}: {error}") from error


def _options(ort: ModuleType) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return options


def _cpu_options(ort: ModuleType, optimized: bool) -> Any:
    options = _options(ort)
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL if optimized else ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    if not optimized:
        options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(_SLOW_ON_CPU))
    return options
