"""Opening a file on the CPU: one thread a run, and all cores for a batch that runs alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from bertonnx.errors import ModelFileError
from bertonnx.models.onnxruntimes import is_slow
from bertonnx.runtime.session import huge_pages
from bertonnx.runtime.session.ort_session import OrtSession, create, options_for
from bertonnx.runtime.session.session import SessionOptions
from bertonnx.runtime.session.tables import Tables
from bertonnx.wording import Install, Message

__all__ = ["open_cpu"]

_NAME, _PROVIDER = "cpu", "CPUExecutionProvider"

_SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion", "LayerNormFusion")
"""ONNX Runtime's `SkipLayerNormalization` is slower on CPU than its parts; benchmarks/operators.py."""


def open_cpu(ort: ModuleType, path: Path, options: SessionOptions) -> OrtSession:
    """Open a file on the CPU.

    Raises:
        ModelFileError: ONNX Runtime cannot load the file.
    """

    tables = Tables() if options.threads > 1 else None

    def opened(cores: int, *, ragged: bool = False) -> Any:
        chosen, mapped = _options(ort, options.optimized, cores), options.optimized
        return create(
            ort, path, chosen, providers=[_PROVIDER], mapped=mapped, tables=tables, ragged=ragged and mapped
        )

    first = _stamp(path)
    packed: list[huge_pages.Extent] = []

    def opened_for_one(cores: int) -> Any:
        before = huge_pages.private_memory()
        session = opened(cores, ragged=cores == 1)
        packed.extend(huge_pages.added(before, huge_pages.private_memory()))
        return session

    def widen() -> Any:
        # Whatever lies at the path by now must not answer in this model's name.
        try:
            return opened_for_one(options.threads) if _stamp(path) == first else None
        except (OSError, ModelFileError):
            return None

    settle = partial(huge_pages.gather, packed)
    if options.threads > 1:
        return _noted(
            ort, OrtSession(opened(1, ragged=True), _NAME, widen=widen, settle=settle, tables=tables)
        )
    return _noted(ort, OrtSession(opened_for_one(1), _NAME, settle=settle))


def _noted(ort: ModuleType, session: OrtSession) -> OrtSession:
    """Let a session say that this ONNX Runtime is one of those that installing bertonnx would not choose."""
    version = str(getattr(ort, "__version__", ""))
    if is_slow(version):
        slow = Message(
            "ONNX Runtime {version} takes several times as long for layer normalization as the versions "
            "before and after; type: {cpu}",
            version=version,
            cpu=Install("cpu", upgrade=True),
        )
        session.notes = (*session.notes, slow)
    return session


def _options(ort: ModuleType, optimized: bool, cores: int) -> Any:
    options = options_for(ort, cores=cores)
    # What export has fused already only costs time to look at again.
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if optimized else levels.ORT_ENABLE_ALL
    if not optimized:
        options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(_SLOW_ON_CPU))
    return options


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or rewritten."""
    stat = path.stat()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
