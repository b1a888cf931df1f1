"""Export fine-tuned BERT models to one verified ONNX file, and run it."""

from __future__ import annotations

__version__ = "0.1.0"
