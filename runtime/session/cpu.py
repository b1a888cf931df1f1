"""What the processor can do for INT8, told without ONNX Runtime."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bertonnx.errors import ProviderError
from bertonnx.models.figures import Int8Figures
from bertonnx.wording import Option

__all__ = ["CpuFeatures", "cpu_features", "read_cpu", "require_exact_sums"]

_OTHER_NAMES = {"amd64": "x86_64", "i386": "x86_64", "i686": "x86_64", "aarch64": "arm64"}
_X86_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
_ARM_FLAGS = {"asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve"}
"""Names in /proc/cpuinfo: https://www.kernel.org/doc/html/latest/arch/arm64/elf_hwcaps.html."""


@dataclass(frozen=True)
class CpuFeatures:
    """One machine's processor.

    Attributes:
        architecture: "x86_64", "arm64", or what the platform calls itself.
        model: its name, "" where it is not known.
        features: of avx2, avx512f, avx512_vnni, avx_vnni, amx_int8, dotprod, i8mm and sve those it has.
        known: whether the features could be read; on systems without /proc they cannot.
        flags: all features, by their names in /proc/cpuinfo.
    """

    architecture: str
    model: str
    features: tuple[str, ...]
    known: bool
    flags: frozenset[str] = frozenset()

    @property
    def saturates(self) -> bool:
        """Whether products of unsigned activations and signed weights may saturate in 16 bits here.

        On x86 without VNNI or AMX they do (VPMADDUBSW); on ARM they are summed in 32 bits. Where the
        features are not known, x86 counts as without.
        """
        exact = {"avx512_vnni", "avx_vnni", "amx_int8"}
        return self.architecture == "x86_64" and not exact & set(self.features)


@cache
def cpu_features() -> CpuFeatures:
    """Return this machine's processor."""
    return read_cpu(platform.machine(), Path("/proc/cpuinfo"))


def read_cpu(machine: str, cpuinfo: Path) -> CpuFeatures:
    """Return the processor that `machine` (as `platform.machine()`) and `cpuinfo` describe."""
    name = machine.lower()
    architecture = _OTHER_NAMES.get(name, name)
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return CpuFeatures(architecture, platform.processor(), (), known=False)
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        # Every processor is listed; the first stands for all.
        fields.setdefault(key.strip().lower(), value.strip())
    # x86 calls them flags, Arm features.
    flags = frozenset((fields.get("flags") or fields.get("features") or "").split())
    found = [flag for flag in _X86_FLAGS if flag in flags]
    found += [ours for theirs, ours in _ARM_FLAGS.items() if theirs in flags]
    return CpuFeatures(architecture, fields.get("model name", ""), tuple(found), bool(flags), flags)


def require_exact_sums(path: Path, quantization: Int8Figures | None, cpu: CpuFeatures | None = None) -> None:
    """Refuse an INT8 file that would give wrong numbers on this machine.

    Args:
        path: the file.
        quantization: the card's; None for a file that is not INT8.
        cpu: default this machine's.

    Raises:
        ProviderError: its sums of products can saturate here.
    """
    cpu = cpu if cpu is not None else cpu_features()
    if quantization is None or quantization.pair_safe or not cpu.saturates:
        return
    raise ProviderError(
        "{path} was quantized for {target}, and this CPU has no VNNI: its sums of products can saturate, so "
        "that predictions are wrong; export it again with {anywhere}",
        path=path,
        target=Option("target", quantization.target),
        anywhere=Option("target", "auto"),
    )
