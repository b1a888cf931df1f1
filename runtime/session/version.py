"""Which ONNX Runtime is installed, told without loading it, which takes longer than all else of a driver."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from bertonnx.errors import MissingDependencyError
from bertonnx.runtime.session.session import import_onnxruntime

__all__ = ["onnxruntime_version"]

_VERSION = r'^__version__ = "([^"]+)"'


def onnxruntime_version() -> str | None:
    """Return the version that ONNX Runtime says of itself; None where there is none."""
    found = None
    if "onnxruntime" not in sys.modules:
        with suppress(ImportError, ValueError, OSError, UnicodeDecodeError):
            spec = find_spec("onnxruntime")
            if spec is None:
                return None
            if spec.origin is not None:
                found = re.search(_VERSION, Path(spec.origin).read_text(encoding="utf-8"), re.MULTILINE)
    if found is not None:
        return found[1]
    with suppress(MissingDependencyError):
        return str(import_onnxruntime().__version__)
    return None
