"""What every checkpoint of the matrix is asked, alone and in pairs."""

from __future__ import annotations

__all__ = ["CASES", "Case"]

Case = tuple[str, str | None]
"""A text, and the second text of a pair."""

CASES: tuple[Case, ...] = (
    ("It's raining again, isn't it?", None),
    ("Où est la bibliothèque ? MÜNCHEN, İstanbul 1,234.56", None),
    ("word " * 40, None),
    ("red planet", "Mars is the red planet, said NASA on 25 December 2021."),
    ("Who wrote it?", "Ada Lovelace wrote the first published program."),
)
"""Unequal lengths, so that a mask is read; pairs, so that segments are; one text that is nearly too long."""
