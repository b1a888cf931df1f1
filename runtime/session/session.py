"""The one seam to ONNX Runtime: importing it, opening a session, running it."""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bertonnx.errors import (
    InferenceError,
    MissingDependencyError,
    ModelFileError,
    OutOfMemoryError,
    ProviderError,
)
from bertonnx.runtime.modelfile.mapped import without_weights
from bertonnx.runtime.modelfile.unpadded import assume_unpadded
from bertonnx.runtime.session.binding import Binding, page_locked
from bertonnx.runtime.session.cuda import (
    CUDA,
    CudaOptions,
    cuda_problem,
    cuda_runtime,
    prepared,
    provider_options,
)
from bertonnx.runtime.session.placement import RECORD, Placement, placement_of

__all__ = ["PROVIDERS", "OrtSession", "Provider", "Session", "import_onnxruntime", "open_session"]

Provider = Literal["auto", "cpu", "cuda"]
PROVIDERS: tuple[Provider, ...] = ("auto", "cpu", "cuda")

Feeds = Mapping[str, npt.NDArray[np.int64]]

_CPU = "CPUExecutionProvider"

_SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion", "LayerNormFusion")
"""ONNX Runtime's `SkipLayerNormalization` is slower on CPU than its parts; benchmarks/operators.py."""

_NO_MEMORY = re.compile(
    r"Failed to allocate memory|out of memory|CUDA failure 2:|_ALLOC_FAILED|bad_alloc|bad allocation"
)
"""What ONNX Runtime says where memory is short (bfc_arena.cc, cuda_call.cc, the C++ library)."""

_BROKEN_MODEL = ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NoModel")
"""Names of what ONNX Runtime raises where the fault is the file's, whatever the provider."""


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

        Raises:
            InferenceError: ONNX Runtime failed.
            OutOfMemoryError: there was not memory enough for this batch.
        """
        ...


def import_onnxruntime(part: str = "") -> ModuleType:
    """Import ONNX Runtime, or a module inside it ("transformers.fusion_options"), with its telemetry off.

    From 1.29 the Linux wheels report home, and leave a device id under `~/.cache/Microsoft`, unless
    the environment says otherwise before the library is loaded.

    Raises:
        MissingDependencyError: no ONNX Runtime is installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module(f"onnxruntime.{part}" if part else "onnxruntime")
    except ImportError as error:
        raise MissingDependencyError(
            'ONNX Runtime is not installed; type: pip install "bertonnx[cpu]" '
            f'(or "bertonnx[gpu]" for an NVIDIA GPU). Python said: {error}'
        ) from error


class OrtSession:
    """An ONNX Runtime session. Several runs at a time are safe.

    On CPU a run takes one thread, and several runs at a time use several cores. A session with all
    cores for a single run is opened beside it when batches come alone repeatedly: a command that
    predicts one text and ends would pay more for opening it than it gains.

    Attributes:
        provider: what really runs it.
        placement: on a GPU, which nodes are there; None on CPU, or where ONNX Runtime cannot say.
        note: what a user should know of how the provider was chosen.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.

    Args:
        session: ONNX Runtime's session.
        provider: as above.
        widen: opens the session with all cores, or returns None where the file is no longer the
            same; itself None where there is but one core, or a GPU.
        binding: runs the session on a GPU.
        unpadded: whether the graph was told that nothing is padded.
        placement: as above.
        note: as above.
    """

    def __init__(
        self,
        session: Any,
        provider: str,
        widen: Callable[[], Any] | None = None,
        *,
        binding: Binding | None = None,
        unpadded: bool = False,
        placement: Placement | None = None,
        note: str = "",
    ) -> None:
        self.provider = provider
        self.placement = placement
        self.note = note
        self.inputs = tuple(item.name for item in session.get_inputs())
        self.outputs = tuple(item.name for item in session.get_outputs())
        self._session = session
        self._binding = binding
        self._unpadded = unpadded
        self._widen = widen
        self._wide: Any = None
        self._came_alone = 0
        self._lock = threading.Lock()

    def run(
        self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of one batch, as `Session.run`."""
        if self._unpadded and "attention_mask" in feeds and not feeds["attention_mask"].all():
            raise ValueError("this session was opened for batches without padding, and the mask has zeros")
        session = self._wider() if alone else self._session
        try:
            if self._binding is not None:
                return self._binding.run(outputs, feeds)
            results: list[npt.NDArray[np.float32]] = session.run(list(outputs), dict(feeds))
            return results
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            if not _is_of_onnxruntime(error):
                raise
            message = str(error) or type(error).__name__
            if _is_of_memory(error):
                raise OutOfMemoryError(message) from error
            raise InferenceError(message) from error

    def _wider(self) -> Any:
        with self._lock:
            self._came_alone += 1
            if self._wide is None and self._came_alone > 1 and self._widen is not None:
                self._wide = self._widen()
                self._widen = None
        return self._wide or self._session


def open_session(
    path: Path,
    *,
    provider: Provider = "auto",
    optimized: bool = True,
    threads: int = 1,
    cuda: CudaOptions | None = None,
) -> OrtSession:
    """Open a model file.

    Args:
        path: an ONNX file that has been checked (`runtime.modelfile.modelfile`).
        provider: "cpu", "cuda", or "auto": CUDA where it works, else CPU.
        optimized: whether the file was optimised at export, so that on CPU this need not be done
            again at every start.
        threads: cores that a batch may take which runs alone.
        cuda: how CUDA is used; default as `CudaOptions()`.

    Raises:
        ProviderError: CUDA was asked for and cannot be used; never falls back in silence.
        ModelFileError: ONNX Runtime cannot load the file.
    """
    ort = import_onnxruntime()
    note = ""
    if provider == "cuda" or (provider == "auto" and CUDA in ort.get_available_providers()):
        try:
            session = _open_cuda(ort, path, optimized, cuda or CudaOptions())
        except ProviderError as error:
            if provider == "cuda":
                raise ProviderError(f"provider cuda was asked for, and {error}") from error
            note = f"running on CPU, although this ONNX Runtime is a CUDA build: {error}"
        else:
            session.note = "; ".join(filter(None, [_took(provider), session.note]))
            return session

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


def _took(provider: Provider) -> str:
    return "running on CUDA" if provider == "auto" else ""


def _is_of_onnxruntime(error: Exception) -> bool:
    return type(error).__module__.startswith("onnxruntime") or isinstance(error, (MemoryError, RuntimeError))


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or rewritten."""
    stat = path.stat()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _open_cuda(ort: ModuleType, path: Path, optimized: bool, cuda: CudaOptions) -> OrtSession:
    """Open a file on CUDA, and make sure that it is there.

    Raises:
        ProviderError: CUDA cannot be used; the message says what is missing and what mends it.
        ModelFileError: the file is broken.
    """
    if CUDA not in ort.get_available_providers():
        raise ProviderError(str(cuda_problem(ort)))
    options = _options(ort)
    options.add_session_config_entry(*RECORD)
    providers = [(CUDA, provider_options(cuda)), _CPU]
    try:
        with prepared(ort):
            session = _create(ort, path, options, providers, mapped=optimized, unpadded=optimized)
    except ModelFileError as error:
        if type(error.__cause__).__name__ in _BROKEN_MODEL:
            raise
        raise ProviderError(str(cuda_problem(ort, str(error.__cause__)))) from error
    if CUDA not in session.get_providers():
        raise ProviderError(str(cuda_problem(ort)))
    # Or a run that fails on the GPU is repeated on CPU, which only a line on standard output tells.
    session.disable_fallback()
    placement = placement_of(session)
    library = cuda_runtime(ort)
    return OrtSession(
        session,
        "cuda",
        binding=Binding(session, page_locked(library) if library is not None else None),
        unpadded=optimized,
        placement=placement,
        note=str(placement) if placement is not None and placement.computing_on_cpu else "",
    )


def _create(
    ort: ModuleType,
    path: Path,
    options: Any,
    providers: Sequence[Any],
    *,
    mapped: bool = False,
    unpadded: bool = False,
) -> Any:
    real = path.resolve()
    if mapped:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(real.parent)
        )
    try:
        model = without_weights(real) if mapped else str(real)
        if unpadded and isinstance(model, bytes):
            model = assume_unpadded(model) or model
        # Its fallback would open the file with another provider, and say so on standard output only.
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
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
