"""The import of scikit-learn, whose metrics are used: only when called, since running a model needs none."""

from __future__ import annotations

from typing import Any

from bertonnx.errors import MissingDependencyError
from bertonnx.wording import Install

__all__ = ["require_sklearn"]


def require_sklearn() -> Any:
    """Import scikit-learn's metrics and return the package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import sklearn.metrics
    except ImportError as error:
        raise MissingDependencyError(
            "measuring a model needs scikit-learn; install it with: {install}", install=Install("evaluate")
        ) from error
    return sklearn
