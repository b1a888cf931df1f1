"""What is CUDA's own: the provider's options, and why it does not work where it does not.

A CUDA provider that cannot be used leaves a CPU session behind with a line in a log (or a fallback
that is announced on standard output), so the reason is looked for here: in what ONNX Runtime raised,
in what the dynamic loader says of the provider's library, and in the driver itself. One diagnosis
serves the error of `--provider cuda`, the note of `auto` and `bertonnx doctor`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = [
    "CUDA",
    "CudaOptions",
    "CudaProblem",
    "both_packages",
    "cuda_problem",
    "cuda_runtime",
    "installed_packages",
    "prepared",
    "provider_options",
]

CUDA = "CUDAExecutionProvider"

_INSTALL = 'pip install --upgrade "bertonnx[gpu]"'
_REINSTALL = 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "bertonnx[gpu]"'

_DRIVERS = {11: 450, 12: 525, 13: 580}
"""Least NVIDIA driver of a CUDA major version, on Linux.
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""

_NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE of the driver, cudaErrorNoDevice of the runtime."""


@dataclass(frozen=True)
class CudaOptions:
    """How CUDA is used.

    Attributes:
        tf32: let the matrix products of fp32 models round what they multiply to TF32, which has about
            three decimal digits: faster, and no longer within 1e-3 of the CPU.
        memory: bytes that ONNX Runtime's arena may take on the GPU (what CUDA itself needs comes on
            top); None for no limit.
    """

    tf32: bool = False
    memory: int | None = None


@dataclass(frozen=True)
class CudaProblem:
    """Why CUDA does not work.

    Attributes:
        what: what is missing or wrong.
        remedy: what mends it; a line to type, or a sentence.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {'type: ' if self.remedy.startswith(('pip', 'bertonnx')) else ''}{self.remedy}"


def provider_options(options: CudaOptions) -> dict[str, str]:
    """Return the options of ONNX Runtime's CUDA provider."""
    chosen = {
        "use_tf32": str(int(options.tf32)),
        # The other strategy doubles the arena at every step, which texts of many lengths drive up.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if options.memory is not None:
        chosen["gpu_mem_limit"] = str(options.memory)
    return chosen


@contextlib.contextmanager
def prepared(ort: ModuleType) -> Iterator[None]:
    """Load pip's CUDA and cuDNN, and keep ONNX Runtime from complaining while CUDA is tried.

    Its `preload_dlls` prints to standard output, where results go; what is wrong is said by
    `cuda_problem`.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)


def cuda_problem(ort: ModuleType, error: str = "") -> CudaProblem:
    """Return why CUDA does not work; to be called once it is known that it does not.

    Args:
        ort: ONNX Runtime.
        error: what it raised when a session was made with CUDA; empty where it fell back in silence.
    """
    if CUDA not in ort.get_available_providers():
        return _cpu_build()
    major = _cuda_major(ort)
    return (
        _said(error, major)
        or _unloadable(ort, major)
        or _driver(major)
        or CudaProblem(
            f"ONNX Runtime failed with CUDA: {' '.join(error.split())}"
            if error
            else "ONNX Runtime did not take CUDA and gives no reason",
            _REINSTALL,
        )
    )


def cuda_runtime(ort: ModuleType) -> ctypes.CDLL | None:
    """Return CUDA's runtime library, which a working CUDA session has loaded; None where it is not found."""
    major = _cuda_major(ort)
    name = f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}"
    try:
        return _load_library(name)
    except OSError:
        return None


def installed_packages() -> tuple[str, ...]:
    """Return which of ONNX Runtime's two packages are installed."""
    return tuple(name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name))


def both_packages() -> CudaProblem | None:
    """Return the problem that both packages are installed, which write the same files."""
    if len(installed_packages()) < 2:
        return None
    return CudaProblem(
        "both onnxruntime and onnxruntime-gpu are installed, and they overwrite each other's files",
        _REINSTALL,
    )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu_build() -> CudaProblem:
    if sys.platform == "darwin":
        return CudaProblem("there is no CUDA on macOS", "use --provider cpu")
    both = both_packages()
    if both is not None:
        return CudaProblem(f"this ONNX Runtime is a CPU build: {both.what}", both.remedy)
    named = " (the package onnxruntime, not onnxruntime-gpu)" if "onnxruntime" in installed_packages() else ""
    return CudaProblem(
        f"this ONNX Runtime is a CPU build{named}",
        'pip uninstall -y onnxruntime && pip install "bertonnx[gpu]"',
    )


def _said(error: str, major: int | None) -> CudaProblem | None:
    """Return what a message of ONNX Runtime means, where it is a known one."""
    for pattern, explain in _MESSAGES:
        found = re.search(pattern, error)
        if found is not None:
            return explain(found, major)
    return None


def _unloadable(ort: ModuleType, major: int | None) -> CudaProblem | None:
    """Return what keeps the provider's library from being loaded, in the dynamic loader's own words."""
    folder = Path(ort.__file__ or "").parent / "capi"
    names = ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so")
    if sys.platform == "win32":
        names = ("onnxruntime_providers_shared.dll", "onnxruntime_providers_cuda.dll")
    for name in names:
        try:
            # The second needs symbols of the first.
            _load_library(str(folder / name), everywhere=True)
        except OSError as error:
            message = " ".join(str(error).split())
            return _said(message, major) or CudaProblem(
                f"the library of the CUDA provider cannot be loaded: {message}", _INSTALL
            )
    return None


def _driver(major: int | None) -> CudaProblem | None:
    """Ask the driver itself."""
    try:
        driver = _load_library("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return _no_driver()
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if major is not None and version.value < 1000 * major:
        return _old_driver(major, f" (for CUDA {version.value // 1000}.{version.value % 1000 // 10})")
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return _no_device()
    if status:
        return _broken_driver(f"cuInit returned {status}")
    devices = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(devices))
    return _no_device() if devices.value == 0 else None


def _load_library(name: str, *, everywhere: bool = False) -> ctypes.CDLL:
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL if everywhere else ctypes.DEFAULT_MODE)


def _cuda_major(ort: ModuleType) -> int | None:
    found = re.match(r"\d+", str(getattr(ort, "cuda_version", "")))
    return int(found[0]) if found else None


def _no_driver() -> CudaProblem:
    return CudaProblem(
        "there is no NVIDIA driver here (libcuda was not found)",
        "install the driver (https://www.nvidia.com/drivers); a container gets it from its host when it is "
        "started with --gpus all",
    )


def _old_driver(major: int | None, version: str = "") -> CudaProblem:
    wanted = f"CUDA {major}" if major else "its CUDA"
    least = f" {_DRIVERS[major]} or newer" if major in _DRIVERS else " that is newer"
    return CudaProblem(
        f"the NVIDIA driver is too old{version}: this ONNX Runtime needs one for {wanted}",
        f"install driver{least} (https://www.nvidia.com/drivers), or an onnxruntime-gpu for an older CUDA",
    )


def _no_device() -> CudaProblem:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return CudaProblem(
            f"no GPU is visible to CUDA, and CUDA_VISIBLE_DEVICES is {hidden!r}",
            "unset CUDA_VISIBLE_DEVICES, or set it to the number of a GPU that nvidia-smi lists",
        )
    return CudaProblem(
        "no GPU is visible to CUDA",
        "see whether nvidia-smi lists one; a container must be started with --gpus all",
    )


def _broken_driver(said: str) -> CudaProblem:
    return CudaProblem(
        f"the NVIDIA driver does not work ({said})",
        "see what nvidia-smi says; after an update of the driver the machine must be restarted",
    )


def _missing_library(found: re.Match[str], _: int | None) -> CudaProblem:
    name = found[1]
    if name.startswith("libcuda.so"):
        return _no_driver()
    others = _other_versions(name)
    there = f"; there is {', '.join(others)}, of another major version" if others else ""
    return CudaProblem(f"{name} was not found{there}", _INSTALL)


def _other_versions(name: str) -> list[str]:
    """Return libraries of the same name and another version, where the loader and pip put them."""
    stem = name.partition(".so")[0]
    folders = [Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    folders += [Path("/usr/local/cuda/lib64"), *Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib64")]
    for path in sys.path:
        folders += Path(path, "nvidia").glob("*/lib")
    pattern = re.compile(rf"{re.escape(stem)}\.so\.\d+")
    found = {file.name for folder in folders for file in folder.glob(f"{stem}.so.*")}
    return sorted(file for file in found if pattern.fullmatch(file) and file != name)


def _no_cudnn(found: re.Match[str], _: int | None) -> CudaProblem:
    others = _other_versions("libcudnn.so.9")
    there = f" ({', '.join(others)} is there, and version 9 is needed)" if others else ""
    return CudaProblem(f"cuDNN cannot be used: {found[0]}{there}", _INSTALL)


_MESSAGES: tuple[tuple[str, Callable[[re.Match[str], int | None], CudaProblem]], ...] = (
    (r"(lib[\w.+-]+?\.so[\d.]*): cannot open shared object file", _missing_library),
    (
        r"CUDA failure 35\b|driver version is insufficient",
        # The driver says of what version it is.
        lambda _, major: _driver(major) or _old_driver(major),
    ),
    (r"CUDA failure 100\b|no CUDA-capable device is detected", lambda _, __: _no_device()),
    (
        r"CUDA failure (?:36|803|804|999): [^;]*",
        lambda found, _: _broken_driver(" ".join(found[0].split())),
    ),
    (
        r"CUDA failure 209\b|no kernel image is available",
        lambda _, __: CudaProblem(
            "this ONNX Runtime has no kernels for the GPU, which is older or newer than it knows", _INSTALL
        ),
    ),
    (
        r"CUDA failure 2:|out of memory|Failed to allocate memory|CUBLAS_STATUS_ALLOC_FAILED",
        lambda _, __: CudaProblem(
            "the memory of the GPU does not suffice for the model",
            "see with nvidia-smi who holds it, or raise --gpu-memory",
        ),
    ),
    (r"cuDNN is not available|cuDNN library was not found|CUDNN failure \d+: [^;]*", _no_cudnn),
    (
        r"CUBLAS failure \d+: [^;]*",
        lambda found, _: CudaProblem(f"cuBLAS cannot be used: {' '.join(found[0].split())}", _INSTALL),
    ),
)
"""Messages of ONNX Runtime (cuda_call.cc, provider_bridge_ort.cc) and of the loader, and what they mean.
The first four were seen with onnxruntime-gpu 1.31.1 (docs/cuda.md says how)."""
