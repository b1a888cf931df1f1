"""Which packages a part of bertonnx needs, asked of what is installed before half of it is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from bertonnx.errors import MissingDependencyError
from bertonnx.wording import Install

__all__ = ["require_packages"]

_EXPORTING = ("torch", "transformers", "optimum", "onnx")

_NEEDS = {
    "exporting": (_EXPORTING, "cpu,export"),
    "training a head": (("onnx", "scikit-learn"), "cpu,train"),
    "fine-tuning": ((*_EXPORTING, "accelerate", "scikit-learn"), "cpu,train"),
}
"""What is done -> the distributions that it needs, and the extras that bring them."""


def require_packages(doing: str) -> None:
    """Refuse to begin where a package is missing; ONNX Runtime is always needed, under either of its names.

    Args:
        doing: "exporting", "training a head" or "fine-tuning".

    Raises:
        MissingDependencyError: naming those that are missing, and the line that installs them.
    """
    needed, extra = _NEEDS[doing]
    absent = [name for name in needed if _is_missing(name)]
    # Two distributions bring the same module.
    if _is_missing("onnxruntime") and _is_missing("onnxruntime-gpu"):
        absent.append("onnxruntime")
    if absent:
        raise MissingDependencyError(
            "{doing} needs {absent}; type: {install}",
            doing=doing,
            absent=", ".join(absent),
            install=Install(extra),
        )


def _is_missing(distribution: str) -> bool:
    # By what is installed: to import torch only to see that it is there takes seconds.
    try:
        version(distribution)
    except PackageNotFoundError:
        return True
    return False
