"""Prints what this Python has, a `name=value` a line, without importing anything heavy."""

# ruff: noqa: PTH118

import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig


def version(*packages):
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


found = {
    "python": platform.python_version(),
    "executable": sys.executable,
    "prefix": sys.prefix,
    "libpython": os.path.join(
        sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or ""
    ),
    "shared": "yes" if sysconfig.get_config_var("Py_ENABLE_SHARED") else "",
    "bertonnx": version("bertonnx") if importlib.util.find_spec("bertonnx") else "",
    "onnxruntime": version("onnxruntime", "onnxruntime-gpu"),
    "numpy": version("numpy"),
    "tokenizers": version("tokenizers"),
    "torch": version("torch"),
}
for name, value in found.items():
    print(f"{name}={value}")
