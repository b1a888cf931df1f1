"""The machine that a benchmark ran on, so that a reader can repeat it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from bertonnx import __version__
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.cpu import cpu_features
from bertonnx.runtime.session.session import import_onnxruntime

__all__ = ["machine"]

_FLAGS = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Names in /proc/cpuinfo of the instructions that matrix multiplication uses, x86 and Arm."""


def machine() -> dict[str, Any]:
    """Return what a reader must know to repeat a measurement: hardware and versions.

    `memory_gib` and `load_average` are None where the system does not say; `load_average` is over
    the last minute, the benchmark itself included.
    """
    flags = cpu_features().flags
    ort = import_onnxruntime()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": cpu_features().model or platform.machine(),
        "instruction_sets": [flag for flag in _FLAGS if flag in flags],
        "cores_allowed": allowed_cores(),
        "cores": os.cpu_count() or 1,
        "gpus": _gpus(Path("/proc/driver/nvidia/gpus")),
        "memory_gib": _memory_gib(),
        # Who reads the figures later must know whether the machine was busy.
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "bertonnx": __version__,
        "onnxruntime": str(ort.__version__),
        "numpy": np.__version__,
        "tokenizers": str(tokenizers.__version__),
    }


def _gpus(folder: Path) -> list[str]:
    """Return the names of NVIDIA GPUs as the Linux driver lists them."""
    names = []
    # Of the driver's own files, as nvidia-smi is not in every container.
    for information in sorted(folder.glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                names.append(line.partition(":")[2].strip())
    return names


def _memory_gib() -> float | None:
    # Windows and some others have no such names.
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
