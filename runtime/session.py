"""The one seam to ONNX Runtime: importing it, opening a session, running it."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bertonnx.errors import MissingDependencyError, ModelFileError, ProviderError
from bertonnx.runtime.mapped import without_weights

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

    def run(
        self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of one batch. Safe to call from several threads at once.

        Args:
            outputs: their names.
            feeds: int64 arrays of shape (batch, tokens), by the names of the inputs.
            alone: whether no other batch runs beside this one, so that it may take all cores. The
                result is the same to the last bit.
        """
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
    """An ONNX Runtime session of one thread a run; several runs at a time use several cores.

    One with all cores for a single run is opened beside it when batches come alone repeatedly: a
    command that predicts one text and ends would pay more for opening it than it gains.

    Args:
        session: ONNX Runtime's session.
        provider: what really runs it.
        widen: opens the session with all cores, or returns None where the file is no longer the
            same; itself None where there is but one core, or a GPU.
        note: what a user should know of how the provider was chosen.
    """

    def __init__(
        self, session: Any, provider: str, widen: Callable[[], Any] | None = None, *, note: str = ""
    ) -> None:
        self.note = note
        self._session = session
        self._widen = widen
        self._wide: Any = None
        self._came_alone = 0
        self._lock = threading.Lock()
        self.provider = provider
        self.inputs = tuple(item.name for item in session.get_inputs())
        self.outputs = tuple(item.name for item in session.get_outputs())

    def run(
        self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of one batch, as `Session.run`."""
        session = self._wider() if alone else self._session
        results: list[npt.NDArray[np.float32]] = session.run(list(outputs), dict(feeds))
        return results

    def _wider(self) -> Any:
        with self._lock:
            self._came_alone += 1
            if self._wide is None and self._came_alone > 1 and self._widen is not None:
                self._wide = self._widen()
                self._widen = None
        return self._wide or self._session


def open_session(
    path: Path, *, provider: Provider = "auto", optimized: bool = True, threads: int = 1
) -> OrtSession:
    """Open a model file.

    Args:
        path: an ONNX file that has been checked (`runtime.modelfile`).
        provider: "cpu", "cuda", or "auto": CUDA where it works, else CPU.
        optimized: whether the file was optimised at export, so that on CPU this need not be done
            again at every start.
        threads: cores that a batch may take which runs alone.

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
    note = ""
    if provider != "cpu" and _CUDA in available:
        try:
            return _open_cuda(ort, path)
        except ProviderError as error:
            if provider == "cuda":
                raise
            note = f"running on CPU, although this ONNX Runtime is a CUDA build: {error}"

    def create(cores: int) -> Any:
        return _create(ort, path, _cpu_options(ort, optimized, cores), [_CPU], mapped=optimized)

    opened = _stamp(path)

    def widen() -> Any:
        # Whatever lies at the path by now must not answer in this model's name.
        try:
            return create(threads) if _stamp(path) == opened else None
        except (OSError, ModelFileError):
            return None

    return OrtSession(create(1), "cpu", widen=widen if threads > 1 else None, note=note)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or rewritten."""
    stat = path.stat()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _open_cuda(ort: ModuleType, path: Path) -> OrtSession:
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    try:
        session = _create(ort, path, _options(ort), [_CUDA, _CPU])
    except ModelFileError as error:
        raise ProviderError(
            f"provider cuda was asked for, and ONNX Runtime failed with it: {error.__cause__}; "
            "type: bertonnx doctor"
        ) from error
    if _CUDA not in session.get_providers():
        raise ProviderError(
            "provider cuda was asked for, and ONNX Runtime could not load it: the driver, CUDA or cuDNN "
            "is missing or of another version; type: bertonnx doctor"
        )
    return OrtSession(session, "cuda")


def _create(ort: ModuleType, path: Path, options: Any, providers: list[str], *, mapped: bool = False) -> Any:
    real = path.resolve()
    if mapped:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(real.parent)
        )
    try:
        model = without_weights(real) if mapped else str(real)
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise ModelFileError(f"ONNX Runtime cannot load {path}: {error}") from error


def _options(ort: ModuleType, cores: int = 1) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # A memory pattern is kept for every shape ever seen, and texts come in hundreds of shapes.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Threads wait actively within a run and sleep after it, so that an idle model costs no core.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _cpu_options(ort: ModuleType, optimized: bool, cores: int) -> Any:
    options = _options(ort, cores)
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL if optimized else ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    if not optimized:
        options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(_SLOW_ON_CPU))
    return options
