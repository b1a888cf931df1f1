"""Arrow in memory: record batches or tables of texts in, predictions out. The seam for engines of data."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import Any

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.arrow import holds_text, require_pyarrow, require_sound, texts_of
from bertonnx.runtime.io.arrow_out import schema_of, to_batch
from bertonnx.runtime.io.columns import Result
from bertonnx.runtime.io.inputs import Choice, choose_columns, given_once, needs_pair
from bertonnx.runtime.io.predictor import Predictor
from bertonnx.runtime.options import BatchOptions, DecodeOptions, RunOptions
from bertonnx.runtime.rows import as_rows
from bertonnx.wording import Option

__all__ = ["batch_schema", "chosen_columns", "predict_batch"]

ROWS_AT_ONCE = 8192
"""Rows whose results are Python objects at the same time."""

_NEITHER_NAMED = RunOptions()
_DEFAULTS = DecodeOptions()
_AS_IT_COMES = BatchOptions()
_ROW = "row"


def predict_batch(
    model: Predictor,
    batch: Any,
    decode: DecodeOptions = _DEFAULTS,
    columns: RunOptions = _NEITHER_NAMED,
    options: BatchOptions = _AS_IT_COMES,
) -> Any:
    """Return the predictions for a RecordBatch or Table of texts, as another: a row for a row.

    Columns that are not named are chosen among those that hold text, as for a file; where the model may read
    pairs, `text` and `pair` are taken together.

    Raises:
        InputError: nothing says which column holds the text, or the pair; or that column is broken; or a kept
            column has the name of one of the results.
        RowError: a row failed, with `on_error="fail"`.
        UsageError: it is neither of the two.
    """
    pa = require_pyarrow()
    if not isinstance(batch, (pa.RecordBatch, pa.Table)):
        raise UsageError(
            "what is given must be a RecordBatch or Table of pyarrow, and is {kind}; "
            "pyarrow.Table.from_pandas(frame) makes one of a frame of pandas, frame.to_arrow() of "
            "Polars, pyarrow.table(columns) of a dict",
            kind=type(batch).__name__,
        )
    column, pair = chosen_columns(model.card, batch.schema, columns, decode)
    schema = batch_schema(model.card, batch.schema, decode, options)
    rows = as_rows(_texts(batch, column), None if pair is None else _texts(batch, pair))
    parts = []
    with closing(model.stream(rows, decode)) as results_of_rows:
        numbered = enumerate(results_of_rows, options.first_row or 0)
        while part := list(islice(numbered, ROWS_AT_ONCE)):
            if columns.on_error == "fail":
                _require_none_failed(part)
            parts.append(to_batch(model.card, part, decode))
    results = pa.Table.from_batches(parts, schema_of(model.card, decode))
    if options.first_row is None:
        results = results.drop_columns([_ROW])
    arrays = list(batch.columns) if options.keep else []
    arrays += [
        column.cast(_plain(pa, column.type)) if options.plain else column for column in results.columns
    ]
    if isinstance(batch, pa.Table):
        return pa.Table.from_arrays(arrays, schema=schema)
    return pa.RecordBatch.from_arrays([_whole(pa, array) for array in arrays], schema=schema)


def batch_schema(
    card: Card,
    schema: Any = None,
    decode: DecodeOptions = _DEFAULTS,
    options: BatchOptions = _AS_IT_COMES,
) -> Any:
    """Return the Arrow schema of what `predict_batch` gives, which the card alone decides.

    Args:
        card: of the model.
        schema: that of the batches; only needed where their columns are kept.
        decode: how results are made.
        options: what their table looks like.

    Raises:
        InputError: a kept column has the name of one of the results.
    """
    pa = require_pyarrow()
    own = [field for field in schema_of(card, decode) if field.name != _ROW or options.first_row is not None]
    if options.plain:
        own = [field.with_type(_plain(pa, field.type)) for field in own]
    own = [field.with_name(f"{options.prefix}{field.name}") for field in own]
    if not options.keep or schema is None:
        return pa.schema(own)
    clashes = [field.name for field in own if field.name in schema.names]
    if clashes:
        raise InputError(
            "the columns {clashes} are there already, and results have columns of these names; put something "
            "before the names of results with {prefix}",
            clashes=", ".join(clashes),
            prefix=Option("prefix", "bert_"),
        )
    return pa.schema([*schema, *own], metadata=schema.metadata)


def chosen_columns(
    card: Card,
    schema: Any,
    columns: RunOptions,
    decode: DecodeOptions = _DEFAULTS,
    *,
    what: str = "the record batch",
) -> tuple[str, str | None]:
    """Return the column of the text and that of its pair, None where no pair is read.

    Args:
        card: of the model.
        schema: of the batches.
        columns: those that were named.
        decode: what becomes of the texts, which may need no pair of each.
        what: what an error calls the data.

    Raises:
        InputError: a named column is not there, or there twice, or holds no text; or nothing says which to
            take.
    """
    for name in (columns.column, columns.pair_column):
        if name is not None and schema.names.count(name) == 1 and not holds_text(schema.field(name).type):
            raise InputError(
                "the column {name!r} of {what} holds {kind}, and text is needed; give {column}",
                name=name,
                what=what,
                kind=str(schema.field(name).type),
                column=Option("column", "NAME"),
            )
    names = [field.name for field in schema if holds_text(field.type)]
    named = columns.column is not None or columns.pair_column is not None
    if not names and not named:
        raise InputError(
            "no column of {what} holds text{columns}",
            what=what,
            columns="".join(f"; {field.name} holds {field.type}"[:80] for field in schema),
        )
    pairs = needs_pair(card, decode, columns)
    found = names.count("text") == names.count("pair") == 1
    if found and not named and card.takes_pair and not decode.pairs_texts:
        return "text", "pair"
    return choose_columns(names, Choice(what, columns, pairs, given_once(card, decode)))


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


def _require_none_failed(part: list[tuple[int, Result]]) -> None:
    for row, result in part:
        if isinstance(result, RowError):
            raise RowError(result.kind, "row {row}: {why}", row=row, why=result.message) from result


def _plain(pa: Any, kind: Any) -> Any:
    """Return a type that every engine has for one of a result."""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain(pa, kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(pa, field.type)) for field in kind])
    # The JVM has no number without a sign.
    return pa.int16() if kind == pa.uint8() else kind


def _whole(pa: Any, column: Any) -> Any:
    """Return a column of a table as one array."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
