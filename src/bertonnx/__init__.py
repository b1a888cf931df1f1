"""Export fine-tuned BERT models to one verified ONNX file, and run it.

>>> import bertonnx
>>> bertonnx.export("bert-base-uncased", "model.onnx")  # doctest: +SKIP
>>> model = bertonnx.load("model.onnx")  # doctest: +SKIP
>>> model.predict(["Paris is the [MASK] of France."])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertonnx.collecting import paused
from bertonnx.errors import BertonnxError, TruncationWarning

if TYPE_CHECKING:
    from bertonnx import ray as ray
    from bertonnx import spark as spark
    from bertonnx.client import Client
    from bertonnx.exporters.convert import ExportReport, export
    from bertonnx.exporters.training.train import TrainReport, train
    from bertonnx.models.card import Card
    from bertonnx.runtime.evaluation.evaluate import evaluate
    from bertonnx.runtime.evaluation.figures import Evaluation
    from bertonnx.runtime.golden import CheckReport, check
    from bertonnx.runtime.io.job import JobReport
    from bertonnx.runtime.model import Model, load
    from bertonnx.runtime.run import run
    from bertonnx.runtime.search import search
    from bertonnx.runtime.serving.server import serve
    from bertonnx.runtime.signing import sign, verify_signature
    from bertonnx.source_weights import compare_weights, weights

__all__ = [
    "BertonnxError",
    "Card",
    "CheckReport",
    "Client",
    "Evaluation",
    "ExportReport",
    "JobReport",
    "Model",
    "TrainReport",
    "TruncationWarning",
    "check",
    "compare_weights",
    "evaluate",
    "export",
    "load",
    "run",
    "search",
    "serve",
    "sign",
    "train",
    "verify_signature",
    "weights",
]

__version__ = "0.1.0"

_HOMES = {
    "Card": "bertonnx.models.card",
    "CheckReport": "bertonnx.runtime.golden",
    "Evaluation": "bertonnx.runtime.evaluation.figures",
    "Client": "bertonnx.client",
    "ExportReport": "bertonnx.exporters.convert",
    "JobReport": "bertonnx.runtime.io.job",
    "Model": "bertonnx.runtime.model",
    "TrainReport": "bertonnx.exporters.training.train",
    "check": "bertonnx.runtime.golden",
    "compare_weights": "bertonnx.source_weights",
    "evaluate": "bertonnx.runtime.evaluation.evaluate",
    "export": "bertonnx.exporters.convert",
    "load": "bertonnx.runtime.model",
    "run": "bertonnx.runtime.run",
    "serve": "bertonnx.runtime.serving.server",
    "search": "bertonnx.runtime.search",
    "sign": "bertonnx.runtime.signing",
    "train": "bertonnx.exporters.training.train",
    "verify_signature": "bertonnx.runtime.signing",
    "weights": "bertonnx.source_weights",
}

_NEEDS = {
    "ExportReport": "exporting",
    "TrainReport": "training a head",
    "export": "exporting",
    "train": "training a head",
}
"""What is asked for before it is imported; of training, what its smaller half needs."""


_MODULES = ("ray", "spark")
"""Not among the names of `import *`, where they would take the place of the libraries that they serve."""


def __getattr__(name: str) -> Any:
    """Import on first use: running must not pay for exporting, nor importing for ONNX Runtime."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'bertonnx' has no attribute {name!r}")
    if name in _NEEDS:
        from bertonnx.models.needs import require_packages

        require_packages(_NEEDS[name])
    with paused():
        value = getattr(importlib.import_module(_HOMES[name]), name)
    # From now on Python finds it without asking here.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
