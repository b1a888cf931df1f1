"""What the processor's own words mean for INT8."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertonnx.runtime.session.cpu import CpuFeatures, cpu_features, read_cpu, saturation_warning

MILAN = (
    "processor : 0\nmodel name : AMD EPYC 7713\nflags : fpu sse avx avx2 fma\n\nprocessor : 1\nflags : none\n"
)
SAPPHIRE = "model name\t: Intel(R) Xeon(R)\nflags\t\t: avx2 avx512f avx512_vnni avx_vnni amx_int8\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm sve\n"


def _read(folder: Path, machine: str, text: str) -> CpuFeatures:
    path = folder / "cpuinfo"
    path.write_text(text)
    return read_cpu(machine, path)


@pytest.mark.parametrize(
    ("machine", "text", "features", "saturates"),
    [
        ("x86_64", MILAN, ("avx2",), True),
        ("AMD64", SAPPHIRE, ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"), False),
        ("aarch64", GRAVITON, ("dotprod", "i8mm", "sve"), False),
    ],
)
def test_features(
    machine: str, text: str, features: tuple[str, ...], saturates: bool, tmp_path: Path
) -> None:
    cpu = _read(tmp_path, machine, text)
    assert cpu.known
    assert cpu.features == features
    assert cpu.saturates is saturates


def test_the_model_is_named(tmp_path: Path) -> None:
    assert _read(tmp_path, "x86_64", MILAN).model == "AMD EPYC 7713"


def test_without_proc_nothing_is_known_and_x86_counts_as_without_vnni(tmp_path: Path) -> None:
    cpu = read_cpu("x86_64", tmp_path / "missing")
    assert not cpu.known
    assert cpu.features == ()
    assert cpu.saturates
    assert not read_cpu("arm64", tmp_path / "missing").saturates


def test_this_machine_is_read_once() -> None:
    assert cpu_features() is cpu_features()


def test_the_warning_is_for_unsafe_weights_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    milan = _read(tmp_path, "x86_64", MILAN)
    sapphire = _read(tmp_path, "x86_64", SAPPHIRE)
    unsafe = {"target": "vnni", "pair_safe": False}
    warning = saturation_warning(unsafe, milan)
    assert "--target vnni" in warning
    assert "--target auto" in warning
    assert saturation_warning(unsafe, sapphire) == ""
    assert saturation_warning({"target": "auto", "pair_safe": True}, milan) == ""
    assert saturation_warning({}, milan) == ""
