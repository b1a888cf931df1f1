"""How ONNX Runtime is told to use CUDA, and kept quiet while it tries."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from types import ModuleType

from bertonnx.runtime.session.session import SessionOptions

__all__ = ["CUDA", "prepared", "provider_options"]

CUDA = "CUDAExecutionProvider"

_CUDNN = 8
_ATTENTION = 255 - _CUDNN
"""Attention kernels that ONNX Runtime may take (bits of its `AttentionBackend`): all but cuDNN's, which plans
for some 30 ms for every new number and length of texts, and is hardly faster (benchmarks/results/gpu.md)."""


def provider_options(options: SessionOptions) -> dict[str, str]:
    """Return the options of ONNX Runtime's CUDA provider."""
    chosen = {
        "use_tf32": str(int(options.tf32)),
        # The other strategy doubles the arena at every step, which texts of many lengths drive up.
        "arena_extend_strategy": "kSameAsRequested",
        "sdpa_kernel": str(_ATTENTION),
    }
    if options.gpu_memory is not None:
        chosen["gpu_mem_limit"] = str(int(options.gpu_memory * 2**30))
    return chosen


@contextlib.contextmanager
def prepared(ort: ModuleType) -> Iterator[None]:
    """Load pip's CUDA and cuDNN, and keep ONNX Runtime from complaining while CUDA is tried.

    Its `preload_dlls` prints to standard output, where results go; what is wrong is said by
    `cuda_problem`.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)
