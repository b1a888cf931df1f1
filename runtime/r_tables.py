"""Tables as R asks for them: how results become columns, and columns bytes.

Which tables a task has is said by its row (`models.tasks.Task.r_tables`); a task whose row names none
has one, `results`, made of its columns. Places count from 1, and spans include both ends, as in R.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np

from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.io.columns import Column
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Encoded, Item
from bertonnx.runtime.vectors.form import form_of

__all__ = [
    "TOKENS",
    "Kind",
    "Table",
    "Values",
    "answer_table",
    "chunk_table",
    "embedding_table",
    "entity_table",
    "label_table",
    "mask_table",
    "plain",
    "rank_table",
    "score_table",
    "sparse_table",
    "table_of",
    "tables_of",
    "token_columns",
    "vector_table",
    "zero_shot_table",
]

Kind = Literal["int", "float", "text", "level", "flag", "place", "matrix", "vector"]
"""What a column is in R: `level` is a factor, as places among the table's levels; `flag` is logical, as 0
or 1; `place` counts from 1, and 0 is NA; `matrix` is a row of numbers for each text, and the only column;
`vector` is a row of numbers beside other columns, as many rows as they have."""

Values = tuple[Any, ...]

TOKENS = "tokens"
"""The table that every model has, whatever its task: how its texts are tokenized."""

_NA = -(2**31)
"""R's missing whole number, as int32."""

_RESULTS = "results"
_OUTSIDE = "O"
_TRANSPOSED_ROWS = 256
"""Rows that are brought into column order at a time, so that they are in the CPU's cache."""


@dataclass(frozen=True)
class Table:
    """How results become columns.

    Attributes:
        columns: name -> kind, without `row`, which comes first.
        rows: the values, in the order of the columns, of every row that a result becomes.
        levels: the names behind the columns of kind `level`.
        width: of a matrix: its columns.
        decode: what the model is asked for.
    """

    columns: Mapping[str, Kind]
    rows: Callable[[Any], Iterable[Values]]
    levels: Sequence[str] = ()
    width: int = 0
    decode: DecodeOptions = field(default_factory=DecodeOptions)

    @property
    def is_matrix(self) -> bool:
        """Whether its rows can wait for others: numbers alone, one row a result."""
        return "matrix" in self.columns.values()

    def packed(self, results: Iterable[tuple[int, Any]]) -> dict[str, Any]:
        """Return the columns of (row number, result)s: `bytearray`s, and lists of texts."""
        rows = [(place, *values) for place, result in results for values in self.rows(result)]
        kinds: dict[str, Kind] = {"row": "int", **self.columns}
        by_column = zip(*rows, strict=True) if rows else iter([()] * len(kinds))
        return {
            name: _PACK[kind](values) for (name, kind), values in zip(kinds.items(), by_column, strict=True)
        }

    def numbers(self, results: Iterable[Any]) -> Iterator[float]:
        """Yield every float32 of results, row by row."""
        for result in results:
            for values in self.rows(result):
                for value, kind in zip(values, self.columns.values(), strict=True):
                    if kind in ("float", "matrix", "vector"):
                        yield from (value,) if kind == "float" else value


def tables_of(card: Card) -> tuple[str, ...]:
    """Return the names of the tables of a model's results; the first is what R's `predict()` gives."""
    return tuple(task_named(card.task).r_tables) or (_RESULTS,)


def table_of(card: Card, name: str, decode: DecodeOptions) -> Table:
    """Return a table of a model.

    Raises:
        KeyError: there is none of that name.
    """
    if name == TOKENS:
        return _token_table(card)
    if name in _ASKED:
        return _ASKED[name](card, decode)
    tables = task_named(card.task).r_tables
    if name == _RESULTS and not tables:
        return column_table(card, decode)
    return cast("Table", resolve(tables[name])(card, decode))


def embedding_table(card: Card, decode: DecodeOptions) -> Table:
    """Return the table of embeddings; whole numbers of an encoding are the same as float32."""
    width = form_of(card, decode).length or 0
    return Table({"values": "matrix"}, lambda item: [(item["embedding"],)], width=width, decode=decode)


def chunk_table(card: Card, decode: DecodeOptions) -> Table:
    """Return the table of the windows of long texts, and their embeddings."""

    def rows(item: Item) -> list[Values]:
        return [
            (number, chunk["start"] + 1, chunk["end"], chunk["embedding"])
            for number, chunk in enumerate(item["chunks"], start=1)
        ]

    columns: dict[str, Kind] = {"chunk": "int", "start": "int", "end": "int", "embedding": "vector"}
    return Table(columns, rows, width=form_of(card, decode).length or 0, decode=decode)


def score_table(card: Card, decode: DecodeOptions) -> Table:
    """Return the table of the scores of all labels, in the order of the model."""
    return Table(
        {"values": "matrix"},
        lambda item: [(_label_scores(item),)],
        card.labels,
        width=max(len(card.labels), 1),
        decode=decode,
    )


def rank_table(card: Card, decode: DecodeOptions) -> Table:  # noqa: ARG001
    """Return the table of how well each document answers the query."""
    return Table({"score": "float"}, lambda item: [(item["score"],)], decode=decode)


def sparse_table(card: Card, decode: DecodeOptions) -> Table:  # noqa: ARG001
    """Return the table of the tokens that weigh something, the heaviest first."""

    def rows(item: Item) -> list[Values]:
        words = item["sparse"]
        return [*zip(words, words.ids.tolist(), words.weights.tolist(), strict=True)]

    return Table({"token": "text", "id": "int", "weight": "float"}, rows, decode=decode)


def vector_table(card: Card, decode: DecodeOptions) -> Table:  # noqa: ARG001
    """Return the table of the many vectors of a text."""
    columns: dict[str, Kind] = {"position": "int", "vector": "vector"}
    return Table(columns, lambda item: list(enumerate(item["vectors"], start=1)), decode=decode)


def token_columns() -> dict[str, Kind]:
    """Return the columns of the vectors of tokens, or of words."""
    return {"position": "int", "token": "text", "start": "place", "end": "place", "vector": "vector"}


def zero_shot_table(card: Card, decode: DecodeOptions) -> Table:  # noqa: ARG001
    """Return the table of the user's own labels, best first; without a number, those that are chosen."""
    places = {label: place for place, label in enumerate(decode.labels, start=1)}
    top = decode.top_k

    def rows(item: Item) -> list[Values]:
        if top:
            return [(places[best["label"]], best["score"]) for best in item["top"][:top]]
        chosen = item["labels"] if "labels" in item else [item["label"]]
        return [(places[label], item["scores"][label]) for label in chosen]

    # The item lists its best labels only where more than one is asked for.
    asked = replace(decode, top_k=max(top or 0, 2))
    return Table({"label": "level", "score": "float"}, rows, decode.labels, decode=asked)


_ASKED: Mapping[str, Callable[[Card, DecodeOptions], Table]] = {
    "chunks": chunk_table,
    "ranks": rank_table,
    "sparse": sparse_table,
    "zero_shot": zero_shot_table,
}
"""Tables of what is asked for by an option or a method, whatever the model's own task is."""


def _label_scores(item: Item) -> list[float]:
    return [*item["scores"].values()] if "scores" in item else [item["score"]]


def label_table(card: Card, decode: DecodeOptions) -> Table:
    """Return the table of labels, best first; without a number, those that the model chooses."""
    places = {label: place for place, label in enumerate(card.labels, start=1)}
    top = decode.top_k

    def rows(item: Item) -> list[Values]:
        if card.problem_type == "regression":
            return list(enumerate(_label_scores(item), start=1))
        if top:
            return [(places[best["label"]], best["score"]) for best in item["top"][:top]]
        chosen = item["labels"] if "labels" in item else [item["label"]]
        return [(places[label], item["scores"][label]) for label in chosen]

    # The item lists its best labels only where more than one is asked for.
    asked = replace(decode, top_k=max(top or 0, 2))
    return Table({"label": "level", "score": "float"}, rows, card.labels, decode=asked)


def entity_table(card: Card, decode: DecodeOptions) -> Table:
    """Return the table of entities."""
    whole = decode.aggregation == "none"
    # "B-PER" and "I-PER" are one entity, PER, unless tokens are shown as they are.
    names = card.labels if whole else [label.split("-", 1)[-1] for label in card.labels]
    levels = [name for name in dict.fromkeys(names) if name != _OUTSIDE]
    places = {name: place for place, name in enumerate(levels, start=1)}

    def rows(item: Item) -> list[Values]:
        return [
            (places[found["entity"]], found["text"], found["score"], found["start"] + 1, found["end"])
            for found in item["entities"]
        ]

    columns: dict[str, Kind] = {"entity": "level", "text": "text", "score": "float"}
    return Table({**columns, "start": "int", "end": "int"}, rows, levels, decode=decode)


def answer_table(card: Card, decode: DecodeOptions) -> Table:  # noqa: ARG001
    """Return the table of answers, best first."""

    def rows(item: Item) -> list[Values]:
        return [
            (answer["answer"], answer["score"], answer["start"] + 1, answer["end"])
            for answer in item.get("answers", [item])
        ]

    columns: dict[str, Kind] = {"answer": "text", "score": "float", "start": "int", "end": "int"}
    return Table(columns, rows, decode=replace(decode, top_k=decode.top_k or 1))


def mask_table(card: Card, decode: DecodeOptions) -> Table:  # noqa: ARG001
    """Return the table of candidates for each mask, best first."""

    def rows(item: Item) -> list[Values]:
        return [
            (mask, rank, found["token"], found["score"], found["sequence"])
            for mask, candidates in enumerate(item["masks"], start=1)
            for rank, found in enumerate(candidates, start=1)
        ]

    columns: dict[str, Kind] = {"mask": "int", "rank": "int", "token": "text"}
    return Table({**columns, "score": "float", "sequence": "text"}, rows, decode=decode)


def column_table(card: Card, decode: DecodeOptions) -> Table:
    """Return a table of the columns that a task's results have in files, a row a text.

    A lone vector is a matrix; what is no scalar besides is JSON.
    """
    columns: tuple[Column, ...] = resolve(task_named(card.task).columns)(card, decode)
    if len(columns) == 1 and columns[0].kind == "vector" and not columns[0].lists:
        only = columns[0]
        matrix: dict[str, Kind] = {only.name: "matrix"}
        return Table(matrix, lambda item: [(only.value(item),)], width=only.width, decode=decode)
    kinds = {column.name: _kind(column) for column in columns}

    def rows(item: Item) -> list[Values]:
        return [tuple(_cell(column.value(item), kinds[column.name]) for column in columns)]

    return Table(kinds, rows, decode=decode)


def _kind(column: Column) -> Kind:
    scalars: Mapping[str, Kind] = {"int": "int", "float": "float", "bool": "flag"}
    return "text" if column.lists else scalars.get(column.kind, "text")


def _cell(value: Any, kind: Kind) -> Any:
    if value is None:
        return {"text": "", "float": np.nan}.get(kind, _NA)
    if kind == "text" and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=lambda array: array.tolist())
    return value


def _token_table(card: Card) -> Table:
    def rows(encoded: Encoded) -> list[Values]:
        prompt = len(card.prompt_text(encoded.row.prompt))
        found = (token for piece in encoded.pieces for token in _token_values(piece.encoding, prompt))
        return [(position, *values) for position, values in enumerate(found, start=1)]

    columns: dict[str, Kind] = {"position": "int", "token": "text", "id": "int", "type_id": "int"}
    return Table({**columns, "start": "place", "end": "place", "special": "flag"}, rows)


def _token_values(encoding: Any, prompt: int) -> Iterator[Values]:
    """Yield `token, id, type_id, start, end, special`; a span is (0, 0) where there is no text."""
    special: list[int] = encoding.special_tokens_mask
    for i, (start, end) in enumerate(encoding.offsets):
        # The tokenizer saw the prompt before the text, which the user does not.
        moved = prompt if encoding.sequence_ids[i] == 0 else 0
        start, end = max(start - moved, 0), end - moved
        span = (0, 0) if special[i] or end <= start else (start + 1, end)
        yield encoding.tokens[i], encoding.ids[i], encoding.type_ids[i], *span, special[i]


def plain(text: str) -> str:
    """Return a text that R can hold: no NUL and nothing that is not Unicode."""
    if text.isascii():
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    known = text.encode("utf-8", "replace").decode("utf-8")
    return known.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _packed_numbers(values: Sequence[Any], *, dtype: str) -> bytearray:
    return bytearray(np.array(values, dtype=dtype).tobytes())


def _packed_matrix(rows: Sequence[Any]) -> bytearray:
    """Return rows of numbers as float32 in column order."""
    width = len(rows[0]) if rows else 0
    # A matrix of R is in column order; turning it there would copy it whole.
    packed = bytearray(4 * len(rows) * width)
    columns = np.frombuffer(packed, dtype="<f4").reshape(width, len(rows))
    for start in range(0, len(rows), _TRANSPOSED_ROWS):
        some = slice(start, start + _TRANSPOSED_ROWS)
        columns[:, some] = np.array(rows[some], dtype="<f4").T
    return packed


def _packed_vectors(rows: Sequence[Any]) -> bytearray:
    """Return rows of numbers as float32, one after the other: R binds them to those of other chunks."""
    return bytearray(np.array(rows, dtype="<f4").tobytes())


_WHOLE = partial(_packed_numbers, dtype="<i4")

_PACK: Mapping[Kind, Callable[[Sequence[Any]], bytearray | list[str]]] = {
    "int": _WHOLE,
    "level": _WHOLE,
    "flag": _WHOLE,
    "place": _WHOLE,
    "float": partial(_packed_numbers, dtype="<f4"),
    "matrix": _packed_matrix,
    "vector": _packed_vectors,
    "text": lambda values: list(map(plain, values)),
}
