"""Why CUDA does not work where it does not, and what mends it.

A CUDA provider that cannot be used leaves a CPU session behind with a line in a log (or a fallback
that is announced on standard output), so the reason is looked for here: in what ONNX Runtime raised,
in what the dynamic loader says of the provider's library, and in the driver itself. One diagnosis
serves the error of the provider that was asked for, the note of "auto" and the doctor.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from bertonnx.runtime.session import cuda_libraries as libraries
from bertonnx.runtime.session.cuda_options import CUDA
from bertonnx.runtime.session.problem import Problem
from bertonnx.wording import Install, Message, Option

__all__ = ["both_packages", "cuda_problem", "installed_packages"]

_INSTALL = Install("gpu", upgrade=True)
_REINSTALL = Install("gpu", remove=("onnxruntime", "onnxruntime-gpu"))

_DRIVERS = {11: 450, 12: 525, 13: 580}
"""Least NVIDIA driver of a CUDA major version, on Linux.
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""

_DRIVER_VERSION = Path("/proc/driver/nvidia/version")

_NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE of the driver, cudaErrorNoDevice of the runtime."""


def cuda_problem(ort: ModuleType, error: str = "") -> Problem:
    """Return why CUDA does not work; to be called once it is known that it does not.

    Args:
        ort: ONNX Runtime.
        error: what it raised when a session was made with CUDA; empty where it fell back in silence.
    """
    if CUDA not in ort.get_available_providers():
        return _cpu_build()
    major = libraries.cuda_major(ort)
    # From the most telling to the least: what was raised, what the loader says, what the driver says.
    return (
        _said(error, major)
        or _unloadable(ort, major)
        or _driver(major)
        or Problem(
            Message("ONNX Runtime failed with CUDA: {error}", error=" ".join(error.split()))
            if error
            else Message("ONNX Runtime did not take CUDA and gives no reason"),
            _REINSTALL,
        )
    )


def installed_packages() -> tuple[str, ...]:
    """Return which of ONNX Runtime's two packages are installed."""
    return tuple(name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name))


def both_packages() -> Problem | None:
    """Return the problem that both packages are installed, which write the same files."""
    if len(installed_packages()) < 2:
        return None
    return Problem(
        Message("both onnxruntime and onnxruntime-gpu are installed, and they overwrite each other's files"),
        _REINSTALL,
    )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu_build() -> Problem:
    if sys.platform == "darwin":
        remedy = Message("use {option}", option=Option("provider", "cpu"))
        return Problem(Message("there is no CUDA on macOS"), remedy, fault=False)
    # Without a GPU, a CPU build is the right one.
    driver = _DRIVER_VERSION.exists()
    found = Message("{build}, and there is an NVIDIA driver" if driver else "{build}", build=_build())
    both = both_packages()
    remedy = both.remedy if both is not None else Install("gpu", remove=("onnxruntime",))
    return Problem(found, remedy, fault=driver)


def _build() -> Message:
    both = both_packages()
    if both is not None:
        return Message("this ONNX Runtime is a CPU build: {both}", both=both.what)
    if "onnxruntime" in installed_packages():
        return Message("this ONNX Runtime is a CPU build (the package onnxruntime, not onnxruntime-gpu)")
    return Message("this ONNX Runtime is a CPU build")


def _said(error: str, major: int | None) -> Problem | None:
    """Return what a message of ONNX Runtime means, where it is a known one."""
    for pattern, explain in _MESSAGES:
        found = re.search(pattern, error)
        if found is not None:
            return explain(found, major)
    return None


def _unloadable(ort: ModuleType, major: int | None) -> Problem | None:
    """Return what keeps the provider's library from being loaded, in the dynamic loader's own words."""
    folder = Path(ort.__file__ or "").parent / "capi"
    names = ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so")
    if sys.platform == "win32":
        names = ("onnxruntime_providers_shared.dll", "onnxruntime_providers_cuda.dll")
    for name in names:
        try:
            # The second needs symbols of the first.
            libraries.load_library(str(folder / name), everywhere=True)
        except OSError as error:
            message = " ".join(str(error).split())
            return _said(message, major) or Problem(
                Message("the library of the CUDA provider cannot be loaded: {error}", error=message), _INSTALL
            )
    return None


def _driver(major: int | None) -> Problem | None:
    """Ask the driver itself."""
    try:
        driver = libraries.load_library("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return _no_driver()
    # Asked before cuInit, which would fail with a number that says less.
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


def _no_driver() -> Problem:
    return Problem(
        Message("there is no NVIDIA driver here (libcuda was not found)"),
        Message(
            "install the driver (https://www.nvidia.com/drivers); a container gets it from its host when it "
            "is started with --gpus all"
        ),
    )


def _old_driver(major: int | None, version: str = "") -> Problem:
    return Problem(
        Message(
            "the NVIDIA driver is too old{version}: this ONNX Runtime needs one for {wanted}",
            version=version,
            wanted=f"CUDA {major}" if major else "its CUDA",
        ),
        Message(
            "install driver {least} (https://www.nvidia.com/drivers), or an onnxruntime-gpu for an older "
            "CUDA",
            least=f"{_DRIVERS[major]} or newer" if major in _DRIVERS else "that is newer",
        ),
    )


def _no_device() -> Problem:
    # An empty value hides every GPU, and nvidia-smi lists them all the same.
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return Problem(
            Message(
                "no GPU is visible to CUDA, and CUDA_VISIBLE_DEVICES is {devices!r}",
                devices=hidden,
            ),
            Message("unset CUDA_VISIBLE_DEVICES, or set it to the number of a GPU that nvidia-smi lists"),
        )
    return Problem(
        Message("no GPU is visible to CUDA"),
        Message("see whether nvidia-smi lists one; a container must be started with --gpus all"),
    )


def _broken_driver(said: str) -> Problem:
    return Problem(
        Message("the NVIDIA driver does not work ({said})", said=said),
        Message("see what nvidia-smi says; after an update of the driver the machine must be restarted"),
    )


def _missing_library(found: re.Match[str], _: int | None) -> Problem:
    name = found[1]
    # That one comes with the driver; no package brings it.
    if name.startswith("libcuda.so"):
        return _no_driver()
    others = libraries.other_versions(name)
    there = f"; there is {', '.join(others)}, of another major version" if others else ""
    return Problem(Message("{name} was not found{there}", name=name, there=there), _INSTALL)


def _no_cudnn(found: re.Match[str], _: int | None) -> Problem:
    others = libraries.other_versions("libcudnn.so.9")
    there = f" ({', '.join(others)} is there, and version 9 is needed)" if others else ""
    return Problem(Message("cuDNN cannot be used: {said}{there}", said=found[0], there=there), _INSTALL)


def _no_cublas(found: re.Match[str], _: int | None) -> Problem:
    return Problem(Message("cuBLAS cannot be used: {said}", said=" ".join(found[0].split())), _INSTALL)


def _no_kernels(_: re.Match[str], __: int | None) -> Problem:
    return Problem(
        Message("this ONNX Runtime has no kernels for the GPU, which is older or newer than it knows"),
        _INSTALL,
    )


def _no_memory(_: re.Match[str], __: int | None) -> Problem:
    return Problem(
        Message("the memory of the GPU does not suffice for the model"),
        Message("see with nvidia-smi who holds it, or raise {option}", option=Option("gpu_memory")),
    )


_MESSAGES: tuple[tuple[str, Callable[[re.Match[str], int | None], Problem]], ...] = (
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
    (r"CUDA failure 209\b|no kernel image is available", _no_kernels),
    (
        r"CUDA failure 2:|out of memory|Failed to allocate memory|CUBLAS_STATUS_ALLOC_FAILED"
        r"|Available memory of \d+ is smaller than requested",
        _no_memory,
    ),
    (r"cuDNN is not available|cuDNN library was not found|CUDNN failure \d+: [^;]*", _no_cudnn),
    (r"CUBLAS failure \d+: [^;]*", _no_cublas),
)
"""Messages of ONNX Runtime (cuda_call.cc, provider_bridge_ort.cc) and of the loader, and what they mean.
The first four were seen with onnxruntime-gpu 1.31.1 (docs/cuda.md says how)."""
