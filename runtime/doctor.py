"""What this machine offers for running models, and the line that mends what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bertonnx.errors import BertonnxError, MissingDependencyError, ProviderError
from bertonnx.models.onnxruntimes import is_slow
from bertonnx.models.providers import PROVIDERS, Provider
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.cpu import cpu_features
from bertonnx.runtime.session.cuda_diagnosis import both_packages
from bertonnx.runtime.session.problem import Remedy, problem_in
from bertonnx.runtime.session.session import SessionOptions, import_onnxruntime, open_provider
from bertonnx.wording import Call, Install, Message

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
        remedy: the line or sentence that mends it; None where nothing is to be done.
    """

    name: str
    value: Message
    ok: bool = True
    remedy: Remedy | None = None


def examine() -> list[Finding]:
    """Look at Python, ONNX Runtime, its providers, the CPU and the cores, and return what was found."""
    versions = {
        "bertonnx": importlib.metadata.version("bertonnx"),
        "python": platform.python_version(),
    }
    findings = [
        Finding("bertonnx", Message("{bertonnx}, Python {python}", **versions)),
        _cpu(),
        _cores(),
        *_packages(),
    ]
    try:
        ort = import_onnxruntime()
    except MissingDependencyError as error:
        return [*findings, Finding("ONNX Runtime", error.message, ok=False, remedy=Install("cpu"))]
    return [*findings, _onnxruntime(ort), *_providers(ort)]


def _cpu() -> Finding:
    flags = cpu_features().flags
    sets = [name for flag, name in _INSTRUCTION_SETS.items() if flag in flags]
    if platform.machine() == "x86_64" and flags and "avx2" not in flags:
        return Finding(
            "CPU",
            Message("no AVX2: ONNX Runtime runs several times slower"),
            ok=False,
            remedy=Message("run on a machine with AVX2; on a virtual one, choose a CPU type such as host"),
        )
    known = ", ".join(sets) or "no instruction sets known"
    return Finding("CPU", Message("{machine}, {known}", machine=platform.machine(), known=known))


def _cores() -> Finding:
    board, allowed = os.cpu_count() or 1, allowed_cores()
    limit = " (limited by affinity or the container's quota)" if allowed < board else ""
    found = Message("{allowed} of {board} may be used{limit}", allowed=allowed, board=board, limit=limit)
    return Finding("cores", found)


def _packages() -> Iterator[Finding]:
    both = both_packages()
    if both is not None:
        yield Finding("packages", both.what, ok=False, remedy=both.remedy)
    extras = {"export": ("torch", "transformers", "optimum", "onnx"), "arrow": ("pyarrow",)}
    for extra, names in extras.items():
        missing = [name for name in names if not _has(name)]
        if missing:
            # Not having them is a choice, not a fault: a machine that only runs models needs neither.
            found = Message("not installed ({missing} missing)", missing=", ".join(missing))
            yield Finding(f"extra {extra}", found, remedy=Install(extra))
        else:
            yield Finding(f"extra {extra}", Message("installed"))


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _onnxruntime(ort: ModuleType) -> Finding:
    version = str(ort.__version__)
    if is_slow(version):
        slow = Message(
            "{version}, telemetry off: on CPU, its layer normalization takes several times as long as in the "
            "versions before and after",
            version=version,
        )
        return Finding("ONNX Runtime", slow, ok=False, remedy=Install("cpu", upgrade=True))
    return Finding("ONNX Runtime", Message("{version}, telemetry off", version=version))


def _providers(ort: ModuleType) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        # The smallest model there is: whether a provider works shows when it opens one.
        model = Path(folder) / "identity.onnx"
        model.write_bytes(_identity_model())
        for row in PROVIDERS:
            yield _provider(row, model, listed=row.execution_provider in ort.get_available_providers())


def _provider(row: Provider, model: Path, *, listed: bool) -> Finding:
    """Return whether a provider works; found by opening a model, as a list of providers promises nothing."""
    name = f"provider {row.name}"
    if listed and not row.problem:
        return Finding(name, Message("available"))
    try:
        open_provider(row, model, SessionOptions(optimized=False))
    except BertonnxError as error:
        problem = problem_in(error) if isinstance(error, ProviderError) else None
        what = problem.what if problem is not None else error.message
        if listed:
            what = Message("does not load: {what}", what=what)
        # A provider that is built in is meant to work; one that is not may be a choice.
        fault = listed or problem is None or problem.fault
        return Finding(name, what, ok=not fault, remedy=problem.remedy if problem and fault else None)
    return Finding(name, Message("loads; {check} says which nodes it takes", check=Call("check", "MODEL")))


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
