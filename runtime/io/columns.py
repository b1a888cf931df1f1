"""What an output row consists of: its columns by task, and float32 as the shortest exact text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bertonnx.errors import OutputError, RowError
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Array, Item

__all__ = ["Column", "Result", "columns", "exact", "floats_text", "message", "values", "width"]

Result = Item | RowError

_LEAST = float(np.finfo(np.float32).tiny)  # below it, fewer than seven digits can be enough


class Column(NamedTuple):
    """One column of a table of results.

    `kind` is int, bool, text, float, labels (list of text), embedding (float32 of the card's
    width), entities, top, answers (lists of structs) or masks (list of lists of structs).
    """

    name: str
    kind: str


_ROW = Column("row", "int")
_STATUS = (Column("truncated", "bool"), Column("error_type", "text"), Column("error_message", "text"))
_BY_TASK: dict[str, tuple[Column, ...]] = {
    "feature-extraction": (Column("embedding", "embedding"),),
    "token-classification": (Column("entities", "entities"),),
    "question-answering": (
        Column("answer", "text"),
        Column("score", "float"),
        Column("start", "int"),
        Column("end", "int"),
    ),
    "fill-mask": (Column("masks", "masks"),),
}


def columns(card: Card, *, top_k: int = 1) -> tuple[Column, ...]:
    """Return the columns of a model's results: `row`, those of its task, then what went wrong.

    With `top_k` over 1 there is one more for the tasks that then list their best.
    """
    of_task = _BY_TASK.get(card.task) or _of_classification(card)
    return (_ROW, *of_task, *_best(card, top_k), *_STATUS)


def _best(card: Card, top_k: int) -> tuple[Column, ...]:
    if top_k > 1 and card.task == "question-answering":
        return (Column("answers", "answers"),)
    if top_k > 1 and card.task == "text-classification" and card.problem_type != "regression":
        return (Column("top", "top"),)
    return ()


def _of_classification(card: Card) -> tuple[Column, ...]:
    scores = tuple(Column(f"score_{label}", "float") for label in card.labels)
    if card.problem_type == "regression":
        return scores if len(scores) > 1 else (Column("score", "float"),)
    if card.problem_type == "multi_label_classification":
        return (Column("labels", "labels"), *scores)
    return (Column("label", "text"), Column("score", "float"), *scores)


def values(table: Sequence[Column], index: int, result: Result) -> list[Any]:
    """Return one row's values for a table of `columns`; None where the row has none."""
    names = [column.name for column in table[1:-3]]
    if isinstance(result, RowError):
        return [index, *(None for _ in names), False, result.kind, message(result)]
    scores = result.get("scores", {})
    fields = [_field(result, scores, name) for name in names]
    return [index, *fields, bool(result.get("truncated", False)), None, None]


def message(error: RowError) -> str:
    """Return the error's text as valid Unicode: it may quote a row that is not."""
    return str(error).encode("utf-8", "backslashreplace").decode()


def _field(result: Item, scores: dict[str, float], name: str) -> Any:
    if name in result:
        return result[name]
    return scores.get(name.removeprefix("score_")) if name.startswith("score_") else None


def width(card: Card) -> int:
    """Return the length of an embedding.

    Raises:
        OutputError: the card does not say it.
    """
    if card.width is None:
        raise OutputError(
            "the model does not say how wide its embeddings are, and this format needs to know; write .jsonl"
        )
    return card.width


def exact(value: float) -> float | None:
    """Return the float whose `repr` is the shortest text that reads back as this float32.

    JSON has no NaN and no infinity: both become None.
    """
    number = float(str(np.float32(value)))
    return number if math.isfinite(number) else None


def floats_text(array: Array, separator: str = ", ") -> str:
    """Return float32 numbers as shortest exact texts; NaN and infinity as `null`.

    Rounding to six, seven, eight or nine digits with NumPy, then `%.9g` (which drops final zeros),
    takes half the time of NumPy's own shortest text, and writes 40% less than the digits of
    the doubles.
    """
    wide = array.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        plain = bool(np.all(np.isfinite(wide) & (wide != np.trunc(wide)) & (np.abs(wide) >= _LEAST)))
    # "%g" writes 1 for 1.0, and -0 for -0.0, which JSON readers take for integers.
    if not plain:
        return separator.join("null" if (x := exact(v)) is None else repr(x) for v in wide.tolist())
    form = separator.join(["%.9g"] * len(wide))
    return form % tuple(_short(wide, array.ravel()).tolist())


def _short(
    wide: np.ndarray[Any, np.dtype[np.float64]], array: Array
) -> np.ndarray[Any, np.dtype[np.float64]]:
    exponent = np.floor(np.log10(np.abs(wide)))
    result = wide.copy()
    for digits in (8, 7, 6):  # a text of at most 6 is found by rounding to 6; 9 are always enough
        scale = 10.0 ** (digits - 1 - exponent)
        candidate = np.round(wide * scale) / scale
        with np.errstate(over="ignore"):  # the largest float32, rounded up, is none
            same = candidate.astype(np.float32) == array
        result[same] = candidate[same]
    return result
