"""Opening a file on an NVIDIA GPU, and making sure that it is there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from bertonnx.errors import ModelFileError
from bertonnx.runtime.session.binding import Binding, page_locked
from bertonnx.runtime.session.cuda_diagnosis import cuda_problem
from bertonnx.runtime.session.cuda_libraries import cuda_runtime
from bertonnx.runtime.session.cuda_options import CUDA, prepared, provider_options
from bertonnx.runtime.session.ort_session import OrtSession, create, options_for
from bertonnx.runtime.session.placement import RECORD, placement_of
from bertonnx.runtime.session.problem import not_usable
from bertonnx.runtime.session.recorded import ENABLED, Recorded, Turns, unrecorded
from bertonnx.runtime.session.session import SessionOptions

__all__ = ["open_cuda"]

_NAME, _CPU = "cuda", "CPUExecutionProvider"

_CANNOT_RECORD = "This session cannot use the graph capture feature"
"""What ONNX Runtime says where a node is on the CPU that does more than arithmetic of shapes."""


def open_cuda(ort: ModuleType, path: Path, options: SessionOptions) -> OrtSession:
    """Open a file on a GPU.

    Raises:
        ProviderError: ONNX Runtime left CUDA out in silence; the fact `problem` says why.
        ModelFileError: ONNX Runtime cannot open the file with CUDA, be it the file's fault or CUDA's.
    """
    with prepared(ort):
        session, recorded = _opened(ort, path, options)
    if CUDA not in session.get_providers():
        raise not_usable(cuda_problem(ort))
    # Or a run that fails on the GPU is repeated on CPU, which only a line on standard output tells.
    session.disable_fallback()
    library, turns = cuda_runtime(ort), Turns()
    ordinary, tidy = (unrecorded(ort) if recorded else ort.RunOptions() for _ in range(2))
    tidy.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
    return OrtSession(
        session,
        _NAME,
        binding=Binding(
            session, page_locked(library) if library is not None else None, options=ordinary, tidy=tidy
        ),
        unpadded=options.optimized,
        placement=placement_of(session),
        recorded=Recorded(ort, session, turns) if recorded else None,
        turns=turns,
    )


def _opened(ort: ModuleType, path: Path, options: SessionOptions) -> tuple[Any, bool]:
    """Return ONNX Runtime's session, and whether it can record runs: not where a node computes on the CPU."""
    for more in (ENABLED, {}) if options.optimized else ({},):
        chosen = options_for(ort)
        chosen.add_session_config_entry(*RECORD)
        # What fails is raised; where memory runs out, a line for every attempt would say it as well.
        chosen.log_severity_level = 4
        # The CPU takes what CUDA leaves to it on purpose, which is the arithmetic of shapes.
        providers = [(CUDA, {**provider_options(options), **more}), _CPU]
        try:
            session = create(
                ort, path, chosen, providers=providers, mapped=options.optimized, unpadded=options.optimized
            )
        except ModelFileError as error:
            if not more or _CANNOT_RECORD not in str(error):
                raise
        else:
            return session, bool(more)
    raise AssertionError("the last way raises")
