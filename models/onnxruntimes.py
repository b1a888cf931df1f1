"""Which versions of ONNX Runtime run the forms that export writes, and run them fast.

Which form of a normalization or activation is fast differs from version to version; `benchmarks/versions.py`
measures all forms in all versions. The forms in files are always the same, so that a file gives the same bits
whoever opens it, and versions that are slow with them are left out instead: the package's metadata excludes
them, and `bertonnx doctor` names them.
"""

from __future__ import annotations

import re

__all__ = ["OLDEST", "SLOW", "Version", "is_slow", "version_of"]

Version = tuple[int, ...]

OLDEST: Version = (1, 24, 4)
"""Older ones open files that a model's external data names outside its folder."""

SLOW: tuple[tuple[Version, Version], ...] = (((1, 27), (1, 30)),)
"""Versions, from the first up to and without the second, in which `LayerNormalization` takes seven times as
long as in those after, with AVX2 and with AVX-512."""


def version_of(text: str) -> Version:
    """Return the numbers of a version, three at most; none where it has none."""
    # A release candidate counts as its release, whose kernels it has.
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def is_slow(version: str) -> bool:
    """Say whether a version is one of those in `SLOW`."""
    return any(first <= version_of(version) < end for first, end in SLOW)
