"""What the processor's own words mean for INT8."""

from __future__ import annotations

import platform
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from bertonnx.errors import ProviderError
from bertonnx.models.figures import Int8Figures
from bertonnx.runtime.session import cpu as cpu_module
from bertonnx.runtime.session.cpu import CpuFeatures, cpu_features, read_cpu, require_exact_sums
from bertonnx.wording import COMMAND_LINE
from tests.figures import INT8_FIGURES

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


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("avx512_vnni", False),
        ("avx_vnni", False),
        ("amx_int8", False),
        ("avx2 avx512f", True),
        ("amx_bf16 vnni", True),
        ("", True),
    ],
)
def test_any_instruction_that_sums_in_32_bits_is_enough(flags: str, saturates: bool, tmp_path: Path) -> None:
    assert _read(tmp_path, "x86_64", f"flags : {flags}\n").saturates is saturates


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("x86_64", "x86_64"),
        ("AMD64", "x86_64"),
        ("i386", "x86_64"),
        ("i686", "x86_64"),
        ("aarch64", "arm64"),
        ("ARM64", "arm64"),
        ("ppc64le", "ppc64le"),
    ],
)
def test_architectures_have_one_name(machine: str, architecture: str, tmp_path: Path) -> None:
    cpu = _read(tmp_path, machine, "flags : avx2\n")
    assert cpu.architecture == architecture
    assert cpu.saturates is (architecture == "x86_64")
    assert read_cpu(machine, tmp_path / "missing").architecture == architecture


def test_the_first_processor_is_the_one_that_counts(tmp_path: Path) -> None:
    cpu = _read(tmp_path, "x86_64", MILAN)
    assert cpu.model == "AMD EPYC 7713"
    assert cpu.flags == {"fpu", "sse", "avx", "avx2", "fma"}


def test_keys_are_read_in_any_case_and_values_whole(tmp_path: Path) -> None:
    cpu = _read(tmp_path, "x86_64", "Model Name: A: B \nno colon here\nFLAGS:  avx2\tfma \n")
    assert cpu.model == "A: B"
    assert cpu.flags == {"avx2", "fma"}


def test_a_processor_that_says_nothing_is_not_known(tmp_path: Path) -> None:
    cpu = _read(tmp_path, "x86_64", "bogomips : 1\n")
    assert not cpu.known
    assert (cpu.model, cpu.features, cpu.flags) == ("", (), frozenset())


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_bytes(b"model name : \xff\nflags : avx2\n")
    assert read_cpu("x86_64", tmp_path / "cpuinfo").features == ("avx2",)


def test_without_proc_nothing_is_known_and_x86_counts_as_without_vnni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "some chip")
    cpu = read_cpu("x86_64", tmp_path / "missing")
    assert not cpu.known
    assert (cpu.features, cpu.flags) == ((), frozenset())
    assert cpu.model == "some chip"
    assert cpu.saturates
    assert not read_cpu("arm64", tmp_path / "missing").saturates


def test_this_machine_is_read_once() -> None:
    assert cpu_features() is cpu_features()
    assert cpu_features() == read_cpu(platform.machine(), Path("/proc/cpuinfo"))
    assert {cpu_features()}  # shared, so nobody may change it: it can be hashed


UNSAFE = INT8_FIGURES
PATH = Path("model.onnx")


def test_unsafe_weights_are_refused_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    with pytest.raises(ProviderError) as caught:
        require_exact_sums(PATH, UNSAFE, _read(tmp_path, "x86_64", MILAN))
    assert caught.value.worded(COMMAND_LINE) == (
        "model.onnx was quantized for --target vnni, and this CPU has no VNNI: its sums of products can "
        "saturate, so that predictions are wrong; export it again with --target auto"
    )


@pytest.mark.parametrize(
    ("quantization", "text"),
    [(UNSAFE, SAPPHIRE), (replace(UNSAFE, target="auto", pair_safe=True), MILAN), (None, MILAN)],
)
def test_what_is_exact_is_not_refused(quantization: Int8Figures | None, text: str, tmp_path: Path) -> None:
    require_exact_sums(PATH, quantization, _read(tmp_path, "x86_64", text))


def test_the_cpu_is_this_machines_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for text, refused in ((MILAN, True), (SAPPHIRE, False)):
        there = _read(tmp_path, "x86_64", text)
        monkeypatch.setattr(cpu_module, "cpu_features", lambda there=there: there)
        with pytest.raises(ProviderError) if refused else nullcontext():
            require_exact_sums(PATH, UNSAFE)
