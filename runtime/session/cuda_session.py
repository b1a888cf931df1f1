"""Opening a file on an NVIDIA GPU, and making sure that it is there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from bertonnx.runtime.session.binding import Binding, page_locked
from bertonnx.runtime.session.cuda_diagnosis import cuda_problem
from bertonnx.runtime.session.cuda_libraries import cuda_runtime
from bertonnx.runtime.session.cuda_options import CUDA, prepared, provider_options
from bertonnx.runtime.session.ort_session import OrtSession, create, options_for
from bertonnx.runtime.session.placement import RECORD, placement_of
from bertonnx.runtime.session.problem import not_usable
from bertonnx.runtime.session.session import SessionOptions

__all__ = ["open_cuda"]

_NAME, _CPU = "cuda", "CPUExecutionProvider"


def open_cuda(ort: ModuleType, path: Path, options: SessionOptions) -> OrtSession:
    """Open a file on a GPU.

    Raises:
        ProviderError: ONNX Runtime left CUDA out in silence; the fact `problem` says why.
        ModelFileError: ONNX Runtime cannot open the file with CUDA, be it the file's fault or CUDA's.
    """
    chosen = options_for(ort)
    chosen.add_session_config_entry(*RECORD)
    # The CPU takes what CUDA leaves to it on purpose, which is the arithmetic of shapes.
    providers = [(CUDA, provider_options(options)), _CPU]
    with prepared(ort):
        session = create(
            ort, path, chosen, providers=providers, mapped=options.optimized, unpadded=options.optimized
        )
    if CUDA not in session.get_providers():
        raise not_usable(cuda_problem(ort))
    # Or a run that fails on the GPU is repeated on CPU, which only a line on standard output tells.
    session.disable_fallback()
    library = cuda_runtime(ort)
    return OrtSession(
        session,
        _NAME,
        binding=Binding(session, page_locked(library) if library is not None else None),
        unpadded=options.optimized,
        placement=placement_of(session),
    )
