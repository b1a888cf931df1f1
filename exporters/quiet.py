"""Keeps transformers and its relatives from writing to the terminal; what matters, we say ourselves."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet"]

_LOGGERS = ("transformers", "optimum", "sentence_transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, log lines and progress bars inside the block, and restore them after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # In here, since importing transformers may itself warn.
        import transformers.utils.logging

        progress: Any = transformers.utils.logging
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        levels = [logger.level for logger in loggers]
        bars = progress.is_progress_bar_enabled()
        for logger in loggers:
            # Not logging.disable: a program that exports may have log lines of its own.
            _set(logger, logging.CRITICAL)
        progress.disable_progress_bar()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                _set(logger, level)
            if bars:
                progress.enable_progress_bar()


def _set(logger: logging.Logger, level: int) -> None:
    # Each change makes all loggers of the process forget what they know.
    if logger.level != level:
        logger.setLevel(level)
