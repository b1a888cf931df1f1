"""What this machine offers for running models, and the line that mends what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bertonnx.errors import MissingDependencyError
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.cpu import cpu_features
from bertonnx.runtime.session.cuda import CUDA, both_packages, cuda_problem, prepared
from bertonnx.runtime.session.session import import_onnxruntime

__all__ = ["Finding", "examine"]

_INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX INT8",
    "asimddp": "Arm dot product",
    "i8mm": "Arm I8MM",
}
"""Names in /proc/cpuinfo of what makes inference fast, and what people call them."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        value: what was found.
        ok: whether it needs nothing done.
        remedy: the line that mends it; empty where nothing is to be done.
    """

    name: str
    value: str
    ok: bool = True
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at Python, ONNX Runtime, its providers, the CPU and the cores, and return what was found."""
    findings = [
        Finding("bertonnx", f"{importlib.metadata.version('bertonnx')}, Python {platform.python_version()}"),
        _cpu(),
        _cores(),
        *_packages(),
    ]
    try:
        ort = import_onnxruntime()
    except MissingDependencyError as error:
        return [
            *findings,
            Finding("ONNX Runtime", str(error), ok=False, remedy='pip install "bertonnx[cpu]"'),
        ]
    return [*findings, Finding("ONNX Runtime", f"{ort.__version__}, telemetry off"), *_providers(ort)]


def _cpu() -> Finding:
    flags = cpu_features().flags
    sets = [name for flag, name in _INSTRUCTION_SETS.items() if flag in flags]
    if platform.machine() == "x86_64" and flags and "avx2" not in flags:
        return Finding(
            "CPU",
            "no AVX2: ONNX Runtime runs several times slower",
            ok=False,
            remedy="run on a machine with AVX2; on a virtual one, choose a CPU type such as host",
        )
    return Finding("CPU", f"{platform.machine()}, {', '.join(sets) or 'no instruction sets known'}")


def _cores() -> Finding:
    board, allowed = os.cpu_count() or 1, allowed_cores()
    limit = " (limited by affinity or the container's quota)" if allowed < board else ""
    return Finding("cores", f"{allowed} of {board} may be used{limit}")


def _packages() -> Iterator[Finding]:
    both = both_packages()
    if both is not None:
        yield Finding("packages", both.what, ok=False, remedy=both.remedy)
    extras = {"export": ("torch", "transformers", "optimum", "onnx"), "arrow": ("pyarrow",)}
    for extra, names in extras.items():
        missing = [name for name in names if not _has(name)]
        value = f"not installed ({', '.join(missing)} missing)" if missing else "installed"
        # Not having them is a choice, not a fault: a machine that only runs models needs neither.
        yield Finding(f"extra {extra}", value, remedy=f'pip install "bertonnx[{extra}]"' if missing else "")


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _providers(ort: ModuleType) -> Iterator[Finding]:
    yield Finding("provider cpu", "available")
    if CUDA not in ort.get_available_providers():
        driver = Path("/proc/driver/nvidia/version").exists()
        problem = cuda_problem(ort)
        # Without a GPU, a CPU build is the right one.
        yield Finding(
            "provider cuda",
            f"{problem.what}, and there is an NVIDIA driver" if driver else problem.what,
            ok=not driver,
            remedy=problem.remedy if driver else "",
        )
        return
    loads, error = _loads_cuda(ort)
    if loads:
        yield Finding("provider cuda", "loads; `bertonnx check MODEL` says which nodes it takes")
        return
    problem = cuda_problem(ort, error)
    yield Finding("provider cuda", f"does not load: {problem.what}", ok=False, remedy=problem.remedy)


def _loads_cuda(ort: ModuleType) -> tuple[bool, str]:
    """Return whether CUDA really loads, and what was raised; found by making a session, not by asking."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with prepared(ort):
        try:
            session = ort.InferenceSession(_identity_model(), options, providers=[CUDA], enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            return False, str(error)
    return CUDA in session.get_providers(), ""


def _identity_model() -> bytes:
    """Return a model with one Identity node, written by hand so that no ONNX package is needed."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def number(field_number: int, value: int) -> bytes:
        return bytes([field_number << 3, value])

    floats = field(2, field(1, number(1, 1)))  # TypeProto.tensor_type.elem_type = FLOAT
    node = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Identity"))
    graph = node + field(2, b"g") + field(11, field(1, b"x") + floats) + field(12, field(1, b"y") + floats)
    return number(1, 8) + field(7, graph) + field(8, number(2, 13))
