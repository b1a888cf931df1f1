"""What an output row consists of: its columns, by the row of its task.

Each task's function here, or in another package, is named by its row (`models.tasks.Task.columns`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bertonnx.errors import OutputError, RowError
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item
from bertonnx.runtime.vectors.form import form_of
from bertonnx.wording import PYTHON, Face

__all__ = [
    "Column",
    "Result",
    "Scalar",
    "answer_columns",
    "classification_columns",
    "columns",
    "embedding_columns",
    "entity_columns",
    "mask_columns",
    "message",
    "parts_of",
    "ranking_columns",
    "values",
    "vector_of",
]

Result = Item | RowError
Scalar = Literal["int", "bool", "text", "float"]


@dataclass(frozen=True)
class Column:
    """One column of a table of results.

    Attributes:
        name: its name.
        kind: what it holds, or its lists hold: a scalar, a vector, or a structure.
        lists: how many lists deep; 0 for one value a row.
        width: of a vector: its length.
        dtype: of a vector: NumPy's name of its numbers' type, "float32", "int8" or "uint8".
        fields: of a structure: the kinds of its fields, by name.
        path: where an item has the value: the names of fields, each inside the one before.
    """

    name: str
    kind: Scalar | Literal["vector", "struct"]
    lists: int = 0
    width: int = 0
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    dtype: str = "float32"

    def value(self, item: Item) -> Any:
        """Return what an item has for this column; None where it has nothing."""
        found: Any = item
        for name in self.path or (self.name,):
            found = None if found is None else found.get(name)
        return found


# In every table, whatever the task: a reader finds a row's number and its error in the same place.
_ROW = Column("row", "int")
_STATUS = (Column("truncated", "bool"), Column("error_type", "text"), Column("error_message", "text"))

_ENTITY: Mapping[str, Scalar] = {
    "entity": "text",
    "text": "text",
    "score": "float",
    "start": "int",
    "end": "int",
}
_BEST: Mapping[str, Scalar] = {"label": "text", "score": "float"}
_ANSWER: Mapping[str, Scalar] = {"answer": "text", "score": "float", "start": "int", "end": "int"}
_CANDIDATE: Mapping[str, Scalar] = {"token": "text", "token_id": "int", "score": "float", "sequence": "text"}


def columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:
    """Return the columns of a model's results: `row`, those of its task, then what went wrong.

    Raises:
        OutputError: the card does not say what a column needs to know.
    """
    return (_ROW, *resolve(card.row(decode.task).columns)(card, decode), *_STATUS)


def embedding_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:
    """Return the column of a sentence embedding; of chunks also which of its text it is, and where."""
    length, dtype = vector_of(card, decode)
    embedding = Column("embedding", "vector", width=length, dtype=dtype.name)
    places = tuple(Column(name, "int") for name in ("chunk", "start", "end")) if decode.chunks else ()
    return (*places, embedding)


def classification_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:
    """Return the label or labels, and a score for each label of the model; with several asked for, `top`.

    In zero-shot classification the labels are the user's.
    """
    labels = decode.labels or card.labels
    scores = tuple(Column(f"score_{label}", "float", path=("scores", label)) for label in labels)
    if decode.labels:
        above = () if decode.threshold is None else (Column("labels", "text", lists=1),)
        best = (Column("label", "text"), Column("score", "float"))
        return (*best, *above, *scores, *_several("top", _BEST, decode))
    if card.problem_type == "regression":
        # The labels of a lone number are "LABEL_0" and the like, which would say nothing.
        return scores if len(scores) > 1 else (Column("score", "float"),)
    top = _several("top", _BEST, decode)
    if card.problem_type == "multi_label_classification":
        return (Column("labels", "text", lists=1), *scores, *top)
    return (Column("label", "text"), Column("score", "float"), *scores, *top)


def ranking_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    """Return the column of the score."""
    return (Column("score", "float"),)


def entity_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    """Return the column of a text's entities."""
    return (Column("entities", "struct", lists=1, fields=_ENTITY),)


def answer_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    """Return the fields of the best answer; with several asked for, `answers` too."""
    best = tuple(Column(name, kind) for name, kind in _ANSWER.items())
    return (*best, *_several("answers", _ANSWER, decode))


def mask_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    """Return the column of the candidates for each mask of a text."""
    return (Column("masks", "struct", lists=2, fields=_CANDIDATE),)


def _several(name: str, fields: Mapping[str, Scalar], decode: DecodeOptions) -> tuple[Column, ...]:
    # Items list their best only where more than one is asked for.
    return (Column(name, "struct", lists=1, fields=fields),) if (decode.top_k or 1) > 1 else ()


def parts_of(result: Result) -> list[Result]:
    """Return the results that a row of input has: one, or one for each chunk of its text."""
    if isinstance(result, RowError) or "chunks" not in result:
        return [result]
    rest = {name: value for name, value in result.items() if name != "chunks"}
    return [{**chunk, **rest} for chunk in result["chunks"]]


def values(table: Sequence[Column], index: int, result: Result) -> list[Any]:
    """Return one row's values for a table of `columns`; None where the row has none."""
    own = table[1:-3]
    if isinstance(result, RowError):
        return [index, *(None for _ in own), False, result.kind, message(result)]
    fields = [column.value(result) for column in own]
    return [index, *fields, bool(result.get("truncated", False)), None, None]


def message(error: RowError, face: Face = PYTHON) -> str:
    """Return the error's text as valid Unicode: it may quote a row that is not."""
    return error.worded(face).encode("utf-8", "backslashreplace").decode()


def vector_of(card: Card, decode: DecodeOptions) -> tuple[int, np.dtype[Any]]:
    """Return how many numbers an embedding has in the form that was asked for, and their type.

    Raises:
        OutputError: the card does not say it.
        UsageError: the form cannot be had.
    """
    form = form_of(card, decode)
    if form.length is None:
        raise OutputError(
            "the model does not say how wide its embeddings are, and this format needs to know; write .jsonl"
        )
    return form.length, form.dtype
