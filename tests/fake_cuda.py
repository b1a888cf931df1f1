"""Stand-ins for ONNX Runtime's CUDA build, at the seam: one that is all made up, and one that computes.

`FakeRuntime` lists providers and gives sessions that hold what it is told to. `pretend_cuda` lets the
real ONNX Runtime compute on CPU and say that it was CUDA, so that all of bertonnx around it runs as it
would on a GPU: batches, bound memory, the unpadded graph, placement, the benchmark.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bertonnx.runtime.modelfile.structure import Structure
from bertonnx.runtime.session.session import import_onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

DRIVER_TOO_OLD = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:146 CUDA failure 35: CUDA driver version "
    "is insufficient for CUDA runtime version ; GPU=-1 ; hostname=h ; file=/onnxruntime_src/onnxruntime/core/"
    "providers/cuda/cuda_execution_provider.cc ; line=355 ; expr=cudaSetDevice(info_.device_id);"
)
NO_DEVICE = DRIVER_TOO_OLD.replace(
    "35: CUDA driver version is insufficient for CUDA runtime version",
    "100: no CUDA-capable device is detected",
)
OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul node. "
    "Name:'m' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory "
    "for requested buffer of size 8388608000"
)
LIMIT_REACHED = OUT_OF_MEMORY.replace(
    "Failed to allocate memory for requested buffer of size 8388608000",
    "Available memory of 540672 is smaller than requested bytes of 786432",
)
CANNOT_RECORD = (
    "This session cannot use the graph capture feature as requested by the user as all compute graph nodes "
    "have not been partitioned to the CUDAExecutionProvider"
)
"""As ONNX Runtime 1.31 says it."""


class FakeRuntime(ModuleType):
    """An onnxruntime that lists `available` and gives sessions that hold `loaded`."""

    ExecutionMode = SimpleNamespace(ORT_SEQUENTIAL=0)
    GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL=0, ORT_ENABLE_ALL=99)
    __version__ = "9.9.9"
    cuda_version = "13.0"

    def __init__(self, available: list[str], loaded: list[str], error: Exception | None = None) -> None:
        super().__init__("onnxruntime")
        self.__file__ = "/nowhere/onnxruntime/__init__.py"
        self.available, self.loaded, self.error = available, loaded, error
        self.asked: list[list[str]] = []
        self.provider_options: list[dict[str, str]] = []
        self.options: list[Any] = []
        self.severities: list[int] = []
        self.fallbacks = 0
        self.records_nothing = False
        self.run: Any = lambda *_: []

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        print("Failed to load libcublasLt.so.13: no such file")

    def set_default_logger_severity(self, severity: int) -> None:
        self.severities.append(severity)

    def SessionOptions(self) -> Any:
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)

    def RunOptions(self) -> Any:
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_run_config_entry=entries.__setitem__)

    def InferenceSession(
        self, _path: Any, options: Any, *, providers: list[Any], enable_fallback: int = 1
    ) -> Any:
        assert not enable_fallback
        names = [item if isinstance(item, str) else item[0] for item in providers]
        self.asked.append(names)
        self.provider_options += [item[1] for item in providers if not isinstance(item, str)]
        self.options.append(options)
        if self.error is not None and CUDA in names:
            raise self.error
        if self.records_nothing and "enable_cuda_graph" in self.provider_options[-1]:
            raise RuntimeError(CANNOT_RECORD)
        held = [name for name in names if name in self.loaded]

        def disable_fallback() -> None:
            self.fallbacks += 1

        return SimpleNamespace(
            get_providers=lambda: held,
            get_inputs=list,
            get_outputs=list,
            run=lambda *arguments: self.run(*arguments),
            disable_fallback=disable_fallback,
        )


class _Pretending:
    """A session of the real ONNX Runtime on CPU that says it were on CUDA."""

    def __init__(self, session: Any, on_cpu: frozenset[str]) -> None:
        self._session = session
        self._on_cpu = on_cpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def run_with_iobinding(self, binding: Any, _options: Any = None) -> None:
        """Run as the real one, which knows no option that is of a GPU."""
        self._session.run_with_iobinding(binding)

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(
                ep_name=CPU if node.op_type in self._on_cpu else CUDA, get_nodes=lambda n=node: [n]
            )
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]


class _PretendingValues:
    """Values on the device, which are copies in ordinary memory."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def ortvalue_from_numpy(self, array: Any, device: str = "cpu", number: int = 0) -> Any:
        if device == "cpu":
            return self._real.ortvalue_from_numpy(array)
        assert (device, number) == ("cuda", 0)
        return self._real.ortvalue_from_numpy(array.copy())

    def ortvalue_from_shape_and_type(self, shape: Any, dtype: Any, device: str, number: int) -> Any:
        assert (device, number) == ("cuda", 0)
        return self._real.ortvalue_from_shape_and_type(shape, dtype)


class _PretendingRuntime(ModuleType):
    def __init__(self, real: ModuleType, on_cpu: frozenset[str]) -> None:
        super().__init__("onnxruntime")
        self._real = real
        self._on_cpu = on_cpu
        self.__file__ = real.__file__
        self.OrtValue = _PretendingValues(real.OrtValue)
        self.sessions: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        print("nothing to preload")

    def InferenceSession(self, model: Any, options: Any, *, providers: list[Any], **rest: Any) -> Any:
        names = [item if isinstance(item, str) else item[0] for item in providers]
        session = self._real.InferenceSession(model, options, providers=[CPU], **rest)
        if CUDA not in names:
            return session
        self.sessions.append(session)
        return _Pretending(session, self._on_cpu)


def pretend_cuda(
    monkeypatch: pytest.MonkeyPatch, on_cpu: frozenset[str] = frozenset({"Shape", "Gather"})
) -> _PretendingRuntime:
    """Let CUDA be there, as far as anything but the GPU can tell; `on_cpu` are the operators it leaves."""
    runtime = _PretendingRuntime(import_onnxruntime(), on_cpu)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    return runtime


def use_runtime(monkeypatch: pytest.MonkeyPatch, fake: FakeRuntime) -> FakeRuntime:
    """Put a made-up ONNX Runtime in the place of the real one, for files that need not be there."""
    from bertonnx.runtime.session import cpu_session, ort_session

    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(ort_session, "held", _held)
    monkeypatch.setattr(ort_session, "without_weights", lambda _: b"")
    monkeypatch.setattr(cpu_session, "_stamp", lambda _: (0,))
    return fake


@contextmanager
def _held(path: Path) -> Iterator[Any]:
    """Hold any file, be there one or not."""
    yield SimpleNamespace(path=path, data=b"", leased=True, structure=Structure())
