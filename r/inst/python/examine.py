"""Prints what this Python has, a `name=value` a line, without importing anything heavy."""

# ruff: noqa: PTH118

import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig
from pathlib import Path


def version(*packages):
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def library():
    """Return the shared library that another program, such as R, can load this Python from, or ""."""
    named = sysconfig.get_config_var
    if os.name == "nt" or named("PYTHONFRAMEWORK"):
        return sys.base_prefix
    stem = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (named("LIBDIR") or sys.base_prefix, os.path.join(sys.base_prefix, "lib")):
        for found in sorted(Path(folder).glob(f"{stem}*")):
            if ".so" in found.name or found.name.endswith(".dylib"):
                return str(found)
    return ""


found = {
    "python": platform.python_version(),
    "executable": sys.executable,
    "prefix": sys.prefix,
    "libpython": os.path.join(
        sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or ""
    ),
    "library": library(),
    "shared": "yes" if sysconfig.get_config_var("Py_ENABLE_SHARED") else "",
    "bertonnx": version("bertonnx") if importlib.util.find_spec("bertonnx") else "",
    "onnxruntime": version("onnxruntime", "onnxruntime-gpu"),
    "gpu": version("onnxruntime-gpu"),
    "numpy": version("numpy"),
    "tokenizers": version("tokenizers"),
    "torch": version("torch"),
}
for name, value in found.items():
    print(f"{name}={value}")
