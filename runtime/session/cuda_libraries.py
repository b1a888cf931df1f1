"""CUDA's libraries, found as the dynamic loader finds them."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["cuda_major", "cuda_runtime", "load_library", "other_versions"]


def load_library(name: str, *, everywhere: bool = False) -> ctypes.CDLL:
    """Load a library.

    Args:
        name: its name or path.
        everywhere: whether libraries that are loaded later may use its symbols.

    Raises:
        OSError: the loader does not find it, or one that it needs.
    """
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL if everywhere else ctypes.DEFAULT_MODE)


def cuda_major(ort: ModuleType) -> int | None:
    """Return the major version of CUDA that ONNX Runtime was built for; None where it does not say."""
    found = re.match(r"\d+", str(getattr(ort, "cuda_version", "")))
    return int(found[0]) if found else None


def cuda_runtime(ort: ModuleType) -> ctypes.CDLL | None:
    """Return CUDA's runtime library, which a working CUDA session has loaded; None where it is not found."""
    major = cuda_major(ort)
    name = f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}"
    try:
        return load_library(name)
    except OSError:
        return None


def other_versions(name: str) -> list[str]:
    """Return libraries of the same name and another version, where the loader and pip put them."""
    stem = name.partition(".so")[0]
    folders = [Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    folders += [Path("/usr/local/cuda/lib64"), *Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib64")]
    # pip's packages of CUDA lie in nvidia/NAME/lib of the site.
    for path in sys.path:
        folders += Path(path, "nvidia").glob("*/lib")
    # Not the links with the whole version, which name the same library again.
    pattern = re.compile(rf"{re.escape(stem)}\.so\.\d+")
    found = {file.name for folder in folders for file in folder.glob(f"{stem}.so.*")}
    return sorted(file for file in found if pattern.fullmatch(file) and file != name)
