"""What the doctor finds on machines that are faked."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bertonnx.runtime import doctor
from bertonnx.runtime.doctor import Finding, examine
from bertonnx.runtime.session import cuda_diagnosis
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.cpu import CpuFeatures, read_cpu
from bertonnx.wording import COMMAND_LINE
from tests.commands import Command, written
from tests.fake_cuda import CPU, CUDA, NO_DEVICE, FakeRuntime

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 {}\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


# Cores ------------------------------------------------------------------------------------------


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 8),
    ],
)
def test_cores_that_the_container_allows(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, content)
    assert allowed_cores(tmp_path) == cores


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert allowed_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert allowed_cores(tmp_path) == 1


# The processor ----------------------------------------------------------------------------------


def test_flags(tmp_path: Path) -> None:
    def flags(path: Path) -> frozenset[str]:
        return read_cpu("x86_64", path).flags

    assert flags(written(tmp_path / "x86", X86.format("avx2"))) == {"fpu", "sse2", "avx2"}
    assert flags(written(tmp_path / "arm", ARM)) >= {"asimddp", "i8mm"}
    assert flags(written(tmp_path / "empty", "")) == frozenset()
    assert flags(tmp_path / "none") == frozenset()


Fake = Callable[..., dict[str, Finding]]


CPU_BUILD = FakeRuntime([CPU], [CPU])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Return what examines a faked machine and gives its findings by name."""

    def fake(
        runtime: ModuleType | None = CPU_BUILD,
        *,
        flags: frozenset[str] = frozenset({"avx2"}),
        installed: tuple[str, ...] = ("onnxruntime", "torch", "transformers", "optimum", "onnx", "pyarrow"),
        driver: bool = False,
        cores: int = 4,
    ) -> dict[str, Finding]:
        real = Path.exists
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        monkeypatch.setattr(doctor, "cpu_features", lambda: CpuFeatures("x86_64", "", (), True, flags))
        monkeypatch.setattr(doctor, "allowed_cores", lambda: cores)
        monkeypatch.setattr(doctor, "_has", installed.__contains__)
        monkeypatch.setattr(cuda_diagnosis, "_is_installed", installed.__contains__)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        monkeypatch.setattr(Path, "exists", lambda self: driver if "nvidia" in str(self) else real(self))
        return {finding.name: finding for finding in examine()}

    return fake


def value_of(finding: Finding) -> str:
    return finding.value.worded(COMMAND_LINE)


def remedy_of(finding: Finding) -> str:
    return "" if finding.remedy is None else finding.remedy.worded(COMMAND_LINE)


def problems(findings: dict[str, Finding]) -> list[str]:
    return [name for name, finding in findings.items() if not finding.ok]


def test_an_onnx_runtime_that_is_slow_is_named(machine: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRuntime, "__version__", "1.28.0")
    findings = machine(flags=frozenset({"avx2"}))
    assert problems(findings) == ["ONNX Runtime"]
    assert value_of(findings["ONNX Runtime"]).startswith("1.28.0, telemetry off: on CPU, its layer norm")
    assert remedy_of(findings["ONNX Runtime"]) == 'pip install --upgrade "bertonnx[cpu]"'
    monkeypatch.setattr(FakeRuntime, "__version__", "1.30.0")
    assert problems(machine(flags=frozenset({"avx2"}))) == []


def test_a_machine_without_problems(machine: Fake) -> None:
    findings = machine(flags=frozenset({"avx2", "avx512f", "avx512_vnni"}))
    assert problems(findings) == []
    assert value_of(findings["CPU"]) == "x86_64, AVX2, AVX-512, AVX-512 VNNI"
    assert value_of(findings["cores"]) == "4 of 16 may be used (limited by affinity or the container's quota)"
    assert value_of(findings["ONNX Runtime"]) == "9.9.9, telemetry off"
    assert value_of(findings["provider cpu"]) == "available"
    cuda = findings["provider cuda"]
    assert value_of(cuda) == (
        "this ONNX Runtime is a CPU build (the package onnxruntime, not onnxruntime-gpu)"
    )
    assert cuda.remedy is None


def test_an_old_processor(machine: Fake) -> None:
    findings = machine(flags=frozenset({"sse2"}))
    assert problems(findings) == ["CPU"]
    assert "no AVX2" in value_of(findings["CPU"])


def test_a_processor_that_says_nothing_is_no_problem(machine: Fake) -> None:
    assert problems(machine(flags=frozenset())) == []


def test_no_onnx_runtime(machine: Fake) -> None:
    findings = machine(None)
    assert problems(findings) == ["ONNX Runtime"]
    assert remedy_of(findings["ONNX Runtime"]) == 'pip install "bertonnx[cpu]"'
    assert "provider cpu" not in findings


def test_both_packages(machine: Fake) -> None:
    findings = machine(installed=("onnxruntime", "onnxruntime-gpu"))
    assert problems(findings) == ["packages"]
    assert remedy_of(findings["packages"]).startswith("pip uninstall -y onnxruntime onnxruntime-gpu && ")


def test_extras_that_are_not_installed_are_no_problem(machine: Fake) -> None:
    findings = machine(installed=("onnxruntime", "torch"))
    assert problems(findings) == []
    assert value_of(findings["extra export"]) == "not installed (transformers, optimum, onnx missing)"
    assert remedy_of(findings["extra export"]) == 'pip install "bertonnx[export]"'
    assert remedy_of(findings["extra arrow"]) == 'pip install "bertonnx[arrow]"'


def test_a_driver_and_a_cpu_build(machine: Fake) -> None:
    findings = machine(driver=True)
    assert problems(findings) == ["provider cuda"]
    assert "there is an NVIDIA driver" in value_of(findings["provider cuda"])
    assert 'pip install "bertonnx[gpu]"' in remedy_of(findings["provider cuda"])


def test_cuda_that_loads(machine: Fake) -> None:
    findings = machine(FakeRuntime([CUDA, CPU], [CUDA]), driver=True, installed=("onnxruntime-gpu",))
    assert problems(findings) == []
    assert value_of(findings["provider cuda"]).startswith("loads")


def test_cuda_that_is_listed_but_does_not_load(machine: Fake) -> None:
    silent = machine(FakeRuntime([CUDA, CPU], [CPU]))
    assert problems(silent) == ["provider cuda"]
    assert "does not load: libonnxruntime_providers_shared.so was not found" in value_of(
        silent["provider cuda"]
    )
    missing = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    loud = machine(FakeRuntime([CUDA, CPU], [CPU], RuntimeError(missing)))
    assert value_of(loud["provider cuda"]) == "does not load: libcudnn.so.9 was not found"
    assert remedy_of(loud["provider cuda"]) == 'pip install --upgrade "bertonnx[gpu]"'
    nothing = machine(FakeRuntime([CUDA, CPU], [CPU], RuntimeError(NO_DEVICE)))
    assert "no GPU is visible to CUDA" in value_of(nothing["provider cuda"])


def test_the_real_runtime_takes_the_model_that_asks_for_cuda() -> None:
    from bertonnx.runtime.session.session import import_onnxruntime

    ort = import_onnxruntime()
    session = ort.InferenceSession(doctor._identity_model(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": [1.5]})[0].tolist() == [1.5]


def test_what_is_installed() -> None:
    assert doctor._has("numpy")
    assert not doctor._has("no-such-package-of-anyone")
    assert value_of(examine()[0]).startswith(importlib.metadata.version("bertonnx"))


@pytest.mark.parametrize("driver", [False, True])
def test_the_command_says_the_problem_and_the_remedy(machine: Fake, command: Command, driver: bool) -> None:
    machine(driver=driver)
    outcome = command("doctor")
    assert outcome.code == int(driver)
    shown = outcome.out.splitlines()
    assert shown[0].startswith("ok       bertonnx: ")
    assert [line[:7] for line in shown if "provider cuda" in line] == ["problem" if driver else "ok     "]
    if driver:
        assert shown[-1] == '         -> pip uninstall -y onnxruntime && pip install "bertonnx[gpu]"'
