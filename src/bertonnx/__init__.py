"""Export fine-tuned BERT models to one verified ONNX file, and run it.

>>> import bertonnx
>>> bertonnx.export("bert-base-uncased", "model.onnx")  # doctest: +SKIP
>>> model = bertonnx.load("model.onnx")  # doctest: +SKIP
>>> model.predict(["Paris is the [MASK] of France."])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertonnx.errors import BertonnxError, MissingDependencyError, TruncationWarning
from bertonnx.wording import Install

if TYPE_CHECKING:
    from bertonnx.exporters.convert import ExportReport, export
    from bertonnx.models.card import Card
    from bertonnx.runtime.golden import CheckReport, check
    from bertonnx.runtime.io.job import JobReport
    from bertonnx.runtime.model import Model, load
    from bertonnx.runtime.run import run
    from bertonnx.runtime.serving.server import serve
    from bertonnx.runtime.signing import sign, verify_signature

__all__ = [
    "BertonnxError",
    "Card",
    "CheckReport",
    "ExportReport",
    "JobReport",
    "Model",
    "TruncationWarning",
    "check",
    "export",
    "load",
    "run",
    "serve",
    "sign",
    "verify_signature",
]

__version__ = "0.1.0"

_HOMES = {
    "Card": "bertonnx.models.card",
    "CheckReport": "bertonnx.runtime.golden",
    "ExportReport": "bertonnx.exporters.convert",
    "JobReport": "bertonnx.runtime.io.job",
    "Model": "bertonnx.runtime.model",
    "check": "bertonnx.runtime.golden",
    "export": "bertonnx.exporters.convert",
    "load": "bertonnx.runtime.model",
    "run": "bertonnx.runtime.run",
    "serve": "bertonnx.runtime.serving.server",
    "sign": "bertonnx.runtime.signing",
    "verify_signature": "bertonnx.runtime.signing",
}


def __getattr__(name: str) -> Any:
    """Import on first use: running must not pay for exporting, nor importing for ONNX Runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bertonnx' has no attribute {name!r}")
    if _HOMES[name].startswith("bertonnx.exporters"):
        _require_exporters()
    value = getattr(importlib.import_module(_HOMES[name]), name)
    # From now on Python finds it without asking here.
    globals()[name] = value
    return value


def _require_exporters() -> None:
    """Raise a `MissingDependencyError` that says what exporting needs, before half of it is imported."""
    from importlib.metadata import PackageNotFoundError, version

    def missing(distribution: str) -> bool:
        # By what is installed: to import torch only to see that it is there takes seconds.
        try:
            version(distribution)
        except PackageNotFoundError:
            return True
        return False

    needed = ["torch", "transformers", "optimum", "onnx"]
    absent = [name for name in needed if missing(name)]
    # Two distributions bring the same module.
    if missing("onnxruntime") and missing("onnxruntime-gpu"):
        absent.append("onnxruntime")
    if absent:
        raise MissingDependencyError(
            "exporting needs {absent}; type: {install}",
            absent=", ".join(absent),
            install=Install("cpu,export"),
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
