"""Why CUDA does not work: every cause, faked where ONNX Runtime, the loader or the driver would say it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertonnx.runtime.session import cuda_diagnosis, cuda_libraries
from bertonnx.runtime.session.cuda_diagnosis import both_packages, cuda_problem
from bertonnx.runtime.session.cuda_options import prepared, provider_options
from bertonnx.runtime.session.problem import Problem
from bertonnx.runtime.session.session import SessionOptions
from bertonnx.wording import COMMAND_LINE, Install
from tests.fake_cuda import CPU, CUDA, DRIVER_TOO_OLD, LIMIT_REACHED, NO_DEVICE, OUT_OF_MEMORY, FakeRuntime

GPU_BUILD = FakeRuntime([CUDA, CPU], [CPU])
INSTALL = Install("gpu", upgrade=True)


class FakeDriver:
    """What libcuda answers."""

    def __init__(self, version: int = 13000, status: int = 0, devices: int = 1) -> None:
        self.version, self.status, self.devices = version, status, devices

    def cuDriverGetVersion(self, place: Any) -> int:
        place._obj.value = self.version
        return 0

    def cuInit(self, _: int) -> int:
        return self.status

    def cuDeviceGetCount(self, place: Any) -> int:
        place._obj.value = self.devices
        return 0


Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return what sets which libraries load, which driver is there, and which packages."""

    def fake(
        *,
        driver: FakeDriver | None = None,
        missing: dict[str, str] | None = None,
        packages: tuple[str, ...] = ("onnxruntime-gpu",),
    ) -> None:
        def load(name: str, *, everywhere: bool = False) -> Any:
            assert everywhere == ("onnxruntime" in name)
            if "onnxruntime" in name:
                for part, message in (missing or {}).items():
                    if part in name:
                        raise OSError(message)
                return object()
            if driver is None:
                raise OSError(f"{name}: cannot open shared object file: No such file or directory")
            return driver

        monkeypatch.setattr(cuda_libraries, "load_library", load)
        monkeypatch.setattr(cuda_diagnosis, "_is_installed", packages.__contains__)
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        monkeypatch.setattr(sys, "path", [])

    return fake


def what_of(problem: Problem) -> str:
    return str(problem.what)


def missing(name: str) -> dict[str, str]:
    return {"cuda": f"{name}: cannot open shared object file: No such file or directory"}


@pytest.mark.parametrize(
    ("packages", "what", "remedy"),
    [
        (
            ("onnxruntime",),
            "the package onnxruntime, not onnxruntime-gpu",
            "pip uninstall -y onnxruntime && ",
        ),
        ((), "this ONNX Runtime is a CPU build", 'pip install "bertonnx[gpu]"'),
        (
            ("onnxruntime", "onnxruntime-gpu"),
            "both onnxruntime and onnxruntime-gpu are installed",
            "pip uninstall -y onnxruntime onnxruntime-gpu && ",
        ),
    ],
)
def test_a_cpu_build(machine: Machine, packages: tuple[str, ...], what: str, remedy: str) -> None:
    machine(packages=packages)
    problem = cuda_problem(FakeRuntime([CPU], [CPU]))
    assert what in str(problem.what)
    assert str(problem.what).startswith("this ONNX Runtime is a CPU build")
    assert remedy in str(problem.remedy)
    assert f"type: {problem.remedy.worded(COMMAND_LINE)}" in str(problem)


def test_macos_has_no_cuda(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setattr(sys, "platform", "darwin")
    problem = cuda_problem(FakeRuntime([CPU], [CPU]))
    assert problem.worded(COMMAND_LINE) == "there is no CUDA on macOS; use --provider cpu"
    assert str(problem) == "there is no CUDA on macOS; use provider='cpu'"
    assert not problem.fault


def test_both_packages_are_a_problem_and_one_is_not(machine: Machine) -> None:
    machine(packages=("onnxruntime", "onnxruntime-gpu"))
    assert both_packages() is not None
    machine(packages=("onnxruntime-gpu",))
    assert both_packages() is None


@pytest.mark.parametrize("name", ["libcublasLt.so.13", "libcudnn.so.9", "libcudart.so.13", "libcufft.so.12"])
def test_a_library_that_is_missing(machine: Machine, name: str) -> None:
    machine(missing=missing(name))
    problem = cuda_problem(GPU_BUILD)
    assert str(problem.what) == f"{name} was not found"
    assert problem.remedy == INSTALL


def test_a_library_of_another_major_version(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(missing=missing("libcublas.so.13"))
    folder = tmp_path / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    for name in ("libcublas.so.12", "libcublasLt.so.12", "libcublas.so.12.8.4.1"):
        (folder / name).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    problem = cuda_problem(GPU_BUILD)
    assert (
        str(problem.what)
        == "libcublas.so.13 was not found; there is libcublas.so.12, of another major version"
    )


def test_cudnn_of_another_major_version(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(driver=FakeDriver())
    (tmp_path / "libcudnn.so.8").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    problem = cuda_problem(GPU_BUILD, "cuDNN is not available. Install cuDNN, update the system library ...")
    assert str(problem.what) == (
        "cuDNN cannot be used: cuDNN is not available (libcudnn.so.8 is there, and version 9 is needed)"
    )
    assert problem.remedy == INSTALL


def test_the_loader_says_something_else(machine: Machine) -> None:
    machine(missing={"shared": "libonnxruntime_providers_shared.so:\n undefined symbol: x"})
    assert "cannot be loaded: libonnxruntime_providers_shared.so: undefined" in what_of(
        cuda_problem(GPU_BUILD)
    )


@pytest.mark.parametrize("libraries", [{}, missing("libcuda.so.1")])
def test_no_driver(machine: Machine, libraries: dict[str, str]) -> None:
    machine(driver=None, missing=libraries)
    problem = cuda_problem(GPU_BUILD)
    assert str(problem.what) == "there is no NVIDIA driver here (libcuda was not found)"
    assert "--gpus all" in str(problem.remedy)
    assert "type:" not in str(problem)


@pytest.mark.parametrize("error", [DRIVER_TOO_OLD, ""])
def test_a_driver_that_is_too_old_says_its_version(machine: Machine, error: str) -> None:
    machine(driver=FakeDriver(version=12040))
    problem = cuda_problem(GPU_BUILD, error)
    assert str(problem.what) == (
        "the NVIDIA driver is too old (for CUDA 12.4): this ONNX Runtime needs one for CUDA 13"
    )
    assert "install driver 580 or newer" in str(problem.remedy)


@pytest.mark.parametrize(
    ("driver", "error"),
    [
        (FakeDriver(status=100), ""),
        (FakeDriver(devices=0), ""),
        (FakeDriver(), NO_DEVICE),
    ],
)
def test_no_device(machine: Machine, driver: FakeDriver, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=driver)
    assert what_of(cuda_problem(GPU_BUILD, error)) == "no GPU is visible to CUDA"
    assert "nvidia-smi" in str(cuda_problem(GPU_BUILD, error).remedy)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = cuda_problem(GPU_BUILD, error)
    assert "CUDA_VISIBLE_DEVICES is ''" in str(hidden.what)
    assert "unset CUDA_VISIBLE_DEVICES" in str(hidden.remedy)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (
            DRIVER_TOO_OLD.replace(
                "35: CUDA driver version is insufficient for CUDA runtime version", "999: unknown error"
            ),
            "the NVIDIA driver does not work (CUDA failure 999: unknown error)",
        ),
        (
            "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0",
            "no kernels for the GPU",
        ),
        (OUT_OF_MEMORY, "the memory of the GPU does not suffice"),
        (LIMIT_REACHED, "the memory of the GPU does not suffice"),
        ("CUDA failure 2: out of memory ; GPU=0", "the memory of the GPU does not suffice"),
        (
            "CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED ; GPU=0",
            "cuBLAS cannot be used: CUBLAS failure 1",
        ),
        ("something\n  new", "ONNX Runtime failed with CUDA: something new"),
        ("", "ONNX Runtime did not take CUDA and gives no reason"),
    ],
)
def test_what_onnx_runtime_says(machine: Machine, error: str, what: str) -> None:
    machine(driver=FakeDriver())
    problem = cuda_problem(GPU_BUILD, error)
    assert what in str(problem.what)
    assert problem.remedy


def test_a_driver_that_fails(machine: Machine) -> None:
    machine(driver=FakeDriver(status=804))
    assert what_of(cuda_problem(GPU_BUILD)) == "the NVIDIA driver does not work (cuInit returned 804)"


def test_a_build_that_does_not_say_its_cuda(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=FakeDriver(version=11000))
    monkeypatch.setattr(FakeRuntime, "cuda_version", "")
    assert "gives no reason" in what_of(cuda_problem(GPU_BUILD))
    assert "needs one for its CUDA" in what_of(cuda_problem(GPU_BUILD, DRIVER_TOO_OLD))


def test_nothing_is_printed_and_the_log_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    fake = FakeRuntime([CUDA, CPU], [CPU])
    with pytest.raises(KeyboardInterrupt), prepared(fake):
        raise KeyboardInterrupt
    assert fake.severities == [4, 2]
    assert capfd.readouterr() == ("", "")


def test_options() -> None:
    assert provider_options(SessionOptions()) == {
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "sdpa_kernel": "247",
    }
    chosen = provider_options(SessionOptions(tf32=True, gpu_memory=2.0))
    assert (chosen["use_tf32"], chosen["gpu_mem_limit"]) == ("1", "2147483648")


def test_what_is_installed_is_found() -> None:
    names = {name.lower() for dist in importlib.metadata.distributions() if (name := dist.metadata["Name"])}
    assert set(cuda_diagnosis.installed_packages()) == names & {"onnxruntime", "onnxruntime-gpu"}


def test_libraries_are_really_loaded() -> None:
    assert isinstance(
        cuda_libraries.load_library("libc.so.6" if sys.platform == "linux" else "libSystem.dylib"),
        ctypes.CDLL,
    )
    with pytest.raises(OSError, match="no-such"):
        cuda_libraries.load_library("/no-such/library.so", everywhere=True)


def test_cudas_runtime_is_found_by_its_major_version(machine: Machine) -> None:
    machine(driver=FakeDriver())
    assert cuda_libraries.cuda_runtime(GPU_BUILD) is not None
    machine(driver=None)
    assert cuda_libraries.cuda_runtime(GPU_BUILD) is None
