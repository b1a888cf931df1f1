"""Record batches in memory: texts in, predictions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bertonnx.errors import InputError
from bertonnx.models.card import Card
from bertonnx.runtime.io.arrow import holds_text, require_sound, texts_of
from bertonnx.runtime.io.arrow_out import to_batch
from bertonnx.runtime.io.inputs import Choice, choose_columns
from bertonnx.runtime.io.predictor import Predictor
from bertonnx.runtime.options import DecodeOptions, RunOptions
from bertonnx.runtime.rows import as_rows

__all__ = ["predict_batch"]

_NEITHER_NAMED = RunOptions()
_DEFAULTS = DecodeOptions()


def predict_batch(
    model: Predictor,
    batch: Any,
    decode: DecodeOptions = _DEFAULTS,
    columns: RunOptions = _NEITHER_NAMED,
) -> Any:
    """Return the RecordBatch of predictions for a RecordBatch of texts, a row for a row.

    Columns that are not named are chosen among those that hold text, as for a file; where the model may read
    pairs, `text` and `pair` are taken together.

    Raises:
        InputError: nothing says which column holds the text, or the pair; or that column is broken.
    """
    names = [field.name for field in batch.schema if holds_text(field.type)]
    column, pair = _chosen(model.card, names, columns)
    texts = _texts(batch, column)
    rows = as_rows(texts, None if pair is None else _texts(batch, pair))
    return to_batch(model.card, list(enumerate(model.stream(rows, decode))), decode)


def _texts(batch: Any, name: str) -> list[Any]:
    column = batch.column(name)
    # It may come from another library's memory, through interfaces that check nothing.
    try:
        require_sound(column)
        return texts_of(column)
    except Exception as error:
        raise InputError(
            "the column {name!r} of the record batch is broken: {why}", name=name, why=str(error)
        ) from error


def _chosen(card: Card, names: Sequence[str], columns: RunOptions) -> tuple[str, str | None]:
    named = columns.column is not None or columns.pair_column is not None
    if not named and card.takes_pair and {"text", "pair"} <= set(names):
        return "text", "pair"
    return choose_columns(names, Choice("the record batch", columns, card.needs_pair))
