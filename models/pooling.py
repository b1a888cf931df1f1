"""The pooling modes: how the vectors of a text's tokens become one, a row each.

Names and flags are those of Sentence-Transformers (`sentence_transformers/models/Pooling.py`).
Fields that name code hold an import path, as in `models.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertonnx.models.registry import Registry

__all__ = ["POOLINGS", "Pooling", "by_mode", "known_keys", "modes_of", "named", "register"]


@dataclass(frozen=True)
class Pooling:
    """One pooling mode.

    Attributes:
        name: the value of `--pooling`.
        mode: Sentence-Transformers' `pooling_mode`.
        flag: its older form, true in a pooling module's config.json.
        graph: `(Graph, str, str) -> str`: adds the nodes for token vectors and a mask, and returns the name
            of the pooled value (`exporters.steps.pooling`).
        reference: `(tokens, counted, mask) -> tensor`: the same in PyTorch (`exporters.verify.reference`).
        array: `(tokens) -> array`: the same in NumPy, of texts without padding
            (`runtime.optimum`).
    """

    name: str
    mode: str
    flag: str
    graph: str
    reference: str
    array: str


def _row(name: str, mode: str, flag: str) -> Pooling:
    # The same name in all three rooms: a row cannot reach another mode's code.
    return Pooling(
        name,
        mode,
        flag,
        graph=f"bertonnx.exporters.steps.pooling:pool_{name}",
        reference=f"bertonnx.exporters.verify.reference:pool_{name}",
        array=f"bertonnx.runtime.optimum:pool_{name}",
    )


POOLINGS: Registry[Pooling] = Registry(
    "pooling",
    _row("mean", "mean", "pooling_mode_mean_tokens"),
    _row("cls", "cls", "pooling_mode_cls_token"),
    _row("max", "max", "pooling_mode_max_tokens"),
    _row("last", "lasttoken", "pooling_mode_lasttoken"),
    _row("weightedmean", "weightedmean", "pooling_mode_weightedmean_tokens"),
    _row("mean_sqrt_len_tokens", "mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
)

_JOINED = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""The order in which Sentence-Transformers joins the vectors of several modes, given by flags."""


def register(row: Pooling) -> None:
    """Add a pooling mode, from this package or another.

    Raises:
        ValueError: another mode has its name.
    """
    POOLINGS.register(row)


def by_mode(mode: str) -> Pooling | None:
    """Return the row of one of Sentence-Transformers' modes; None where bertonnx does not have it."""
    return next((row for row in POOLINGS if row.mode == mode), None)


def named(names: str) -> tuple[Pooling, ...]:
    """Return the rows of one or several names with commas between them, whose vectors are joined.

    Sentence-Transformers' own name of a mode will do as well.

    Raises:
        KeyError: no mode has one of the names.
    """
    # By its name first: a mode from outside may have a name that is another's mode.
    return tuple(POOLINGS.get(name) or by_mode(name) or POOLINGS[name] for name in names.split(","))


def known_keys() -> frozenset[str]:
    """Return the keys of a pooling module's config.json that are read, or that say how wide it is."""
    widths = {"word_embedding_dimension", "embedding_dimension"}
    return frozenset({"pooling_mode", "include_prompt", *widths, *(row.flag for row in POOLINGS)})


def modes_of(config: Mapping[str, Any]) -> list[str]:
    """Return the modes that a pooling module's config.json asks for, by Sentence-Transformers' names.

    Several are joined there. No mode at all means the mean.
    """
    mode = config.get("pooling_mode")
    if mode is None:
        given = [row.mode for row in POOLINGS if config.get(row.flag)]
        # A mode from outside, which Sentence-Transformers has no place for, comes last.
        mode = sorted(given, key=lambda name: (*_JOINED, name).index(name)) or ["mean"]
    return [mode] if isinstance(mode, str) else [str(name) for name in mode]
