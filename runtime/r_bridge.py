"""What the R package calls. Nothing but plain values crosses: texts, lists of texts, raw bytes.

A NumPy array would tie R's reticulate to a NumPy version, a Python int over 2**31 arrives in R as
0, None as a hole in a vector, and a text with a NUL not at all. So columns of numbers cross as
`bytearray` (little-endian int32 or float32, matrices in column order), counts as float, and every
function answers with a dict instead of raising:

    {"ok": True, ...}
    {"ok": False, "error": {"type", "message", "kind", "expected", "traceback"}}

Rows and places count from 1, and spans include both ends, as in R; 0 stands for "none".
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, ParamSpec

import numpy as np

from bertonnx.errors import BertonnxError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.golden import check
from bertonnx.runtime.model import Model, load
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.options import Aggregation, DecodeOptions
from bertonnx.runtime.rows import Encoded, Item, Row, as_rows

__all__ = ["PROTOCOL", "Handle", "Run", "golden", "open_model", "verify"]

PROTOCOL = 2
"""Number of this interface, raised with every change; the R package refuses any but its own."""

_CHUNK_ROWS = 1024
_CHUNK_SECONDS = 0.2
"""A chunk ends at either, so that R can show progress and notice an interrupt."""

_BLOCK_ROWS = 16_384
"""Rows of a matrix that cross at once: many small ones would keep R's garbage collector busy."""

_TRANSPOSED_ROWS = 256
"""Rows that are brought into column order at a time, so that they are in the CPU's cache."""

_OUTSIDE = "O"

Answer = dict[str, Any]
Values = tuple[Any, ...]
P = ParamSpec("P")


def _answering(function: Callable[P, Answer]) -> Callable[P, Answer]:
    """Answer with the error instead of raising it; an interrupt goes through to R."""

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Answer:
        try:
            return {"ok": True, **function(*args, **kwargs)}
        except Exception as error:
            return {"ok": False, "error": _described(error)}

    return answer


def _described(error: Exception) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": _plain(str(error)),
        "kind": error.kind if isinstance(error, RowError) else "",
        "expected": "yes" if isinstance(error, BertonnxError) else "",
        "traceback": _plain("".join(traceback.format_exception(error))),
    }


@_answering
def open_model(path: str, device: Any, threads: int | None, max_length: int | None) -> Answer:
    """Open a model as `bertonnx.load`; the answer holds `handle` and `info`."""
    model = load(path, device, threads, max_length=max_length)
    return {"handle": Handle(model), "info": _info(model)}


@_answering
def verify(path: str, device: Any) -> Answer:
    """Replay a file's golden examples; the answer holds what `bertonnx.check` reports."""
    report = check(path, device)
    return {
        "examples": float(report.examples),
        "max_abs_difference": float(report.max_abs_difference),
        "tolerance": float(report.tolerance),
        "provider": report.provider,
    }


@_answering
def golden(path: str) -> Answer:
    """Read a file's golden examples; the answer holds `texts` and `pairs` ("" for no pair)."""
    examples = read_model_file(Path(path)).golden
    return {
        "texts": [_plain(example["text"]) for example in examples],
        "pairs": [_plain(example["pair"] or "") for example in examples],
    }


class Handle:
    """An open model, as R holds it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @_answering
    def start(
        self,
        kind: str,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        places: Sequence[int] | None,
        top: int,
        aggregation: Aggregation,
    ) -> Answer:
        """Start a prediction; the answer holds `run` and `levels`, the names behind its indices.

        Args:
            kind: "embeddings", "scores", "labels", "entities", "answers", "masks" or "tokens".
            texts: the texts.
            pairs: second texts, as many, or None.
            places: the row number in R of each text, or None for 1, 2, ...
            top: labels, answers or tokens a row, at most; 0 for what the task gives by itself.
            aggregation: of entities, as `Model.entities`.
        """
        model, rows = self._model, as_rows(texts, pairs)
        table = _TABLES[kind](model.card, top, aggregation)
        if kind == "tokens":
            return {"run": Run(self._tokenized(rows), table, places), "levels": []}
        if pairs is None and model.card.pairs:
            raise UsageError(
                f"this model was trained for {model.card.task} of text pairs, and no pairs were given"
            )
        items = model.stream(rows, DecodeOptions(table.top_k, aggregation))
        return {"run": Run(items, table, places), "levels": list(map(_plain, table.levels))}

    @_answering
    def timed(self, texts: Sequence[str]) -> Answer:
        """Predict in Python alone; the answer holds `seconds` and `rows`."""
        started = time.perf_counter()
        rows = sum(1 for _ in self._model.stream(as_rows(texts)))
        return {"seconds": time.perf_counter() - started, "rows": float(rows)}

    @_answering
    def fingerprint(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Answer:
        """Predict in Python alone; the answer holds the `md5`, in hex, of all scores as float32."""
        scores = [score for item in self._model.predict(texts, pairs) for score in _scores(item)]
        digest = hashlib.md5(np.array(scores, dtype="<f4").tobytes(), usedforsecurity=False)
        return {"md5": digest.hexdigest()}

    @_answering
    def close(self) -> Answer:
        """Let the model's threads go."""
        self._model.close()
        return {}

    def _tokenized(self, rows: Iterable[Row | RowError]) -> Iterator[Encoded | RowError]:
        for row in rows:
            yield row if isinstance(row, RowError) else self._model.tokenizer.encode([row])[0]


class Run:
    """A prediction under way, taken chunk by chunk."""

    def __init__(self, results: Iterator[Any], table: _Table, places: Sequence[int] | None) -> None:
        self._results = results
        self._table = table
        self._places = iter(places) if places is not None else count(1)
        self._held: list[tuple[int, Any]] = []

    @_answering
    def chunk(self) -> Answer:
        """Return what comes next: `texts`, their number, 0 at the end; and `columns`, by name.

        A matrix is held back until there is much of it: `columns` is empty meanwhile, and its rest
        comes with the end. `seconds` is what was spent on predicting, without making columns. A
        text that failed gives a RowError that names its row.
        """
        started = time.perf_counter()
        taken = list(self._take())
        seconds = time.perf_counter() - started
        self._held += taken
        columns: dict[str, Any] = {}
        if not (taken and self._table.is_matrix and len(self._held) < _BLOCK_ROWS):
            columns = self._table.packed(self._held)
            self._held = []
        return {"texts": float(len(taken)), "seconds": seconds, "columns": columns}

    @_answering
    def close(self) -> Answer:
        """Drop what has not started, and wait for what has."""
        close = getattr(self._results, "close", None)
        if close is not None:
            close()
        return {}

    def _take(self) -> Iterator[tuple[int, Any]]:
        ends = time.monotonic() + _CHUNK_SECONDS
        for result in islice(self._results, _CHUNK_ROWS):
            place = next(self._places)
            if isinstance(result, RowError):
                raise RowError(result.kind, f"row {place}: {result}") from result
            yield place, result
            if time.monotonic() > ends:
                return


ColumnKind = Literal["int", "float", "text", "matrix"]


@dataclass(frozen=True)
class _Table:
    """How the results of one kind become columns.

    Attributes:
        columns: name -> kind, without `row`, which comes first.
        rows: the values, in the order of the columns, of every row that a result becomes.
        levels: the names behind a column of indices.
        top_k: what the model is asked for.
    """

    columns: Mapping[str, ColumnKind]
    rows: Callable[[Any], Iterable[Values]]
    levels: Sequence[str] = ()
    top_k: int | None = None

    @property
    def is_matrix(self) -> bool:
        """Whether its rows can wait for others: numbers alone, one row a result."""
        return "matrix" in self.columns.values()

    def packed(self, results: Iterable[tuple[int, Any]]) -> dict[str, Any]:
        rows = [(place, *values) for place, result in results for values in self.rows(result)]
        kinds: dict[str, ColumnKind] = {"row": "int", **self.columns}
        by_column = zip(*rows, strict=True) if rows else iter([()] * len(kinds))
        return {
            name: _PACK[kind](values) for (name, kind), values in zip(kinds.items(), by_column, strict=True)
        }


def _embeddings(card: Card, top: int, aggregation: str) -> _Table:  # noqa: ARG001
    return _Table({"values": "matrix"}, lambda item: [(item["embedding"],)])


def _score_matrix(card: Card, top: int, aggregation: str) -> _Table:  # noqa: ARG001
    return _Table({"values": "matrix"}, lambda item: [(list(_scores(item)),)], card.labels)


def _labels(card: Card, top: int, aggregation: str) -> _Table:  # noqa: ARG001
    places = {label: place for place, label in enumerate(card.labels, start=1)}

    def rows(item: Item) -> list[Values]:
        if card.problem_type == "regression":
            return list(enumerate(_scores(item), start=1))
        if top:
            return [(places[best["label"]], best["score"]) for best in item["top"][:top]]
        chosen = item["labels"] if "labels" in item else [item["label"]]
        return [(places[label], item["scores"][label]) for label in chosen]

    # The item lists its best labels only where more than one is asked for.
    return _Table({"label": "int", "score": "float"}, rows, card.labels, max(top, 2))


def _entities(card: Card, top: int, aggregation: str) -> _Table:  # noqa: ARG001
    names = card.labels if aggregation == "none" else [label.split("-", 1)[-1] for label in card.labels]
    levels = [name for name in dict.fromkeys(names) if name != _OUTSIDE]
    places = {name: place for place, name in enumerate(levels, start=1)}

    def rows(item: Item) -> list[Values]:
        return [
            (places[found["entity"]], found["text"], found["score"], found["start"] + 1, found["end"])
            for found in item["entities"]
        ]

    columns: dict[str, ColumnKind] = {"entity": "int", "text": "text", "score": "float"}
    return _Table({**columns, "start": "int", "end": "int"}, rows, levels)


def _answers(card: Card, top: int, aggregation: str) -> _Table:  # noqa: ARG001
    def rows(item: Item) -> list[Values]:
        return [
            (answer["answer"], answer["score"], answer["start"] + 1, answer["end"])
            for answer in item.get("answers", [item])
        ]

    return _Table({"answer": "text", "score": "float", "start": "int", "end": "int"}, rows, top_k=max(top, 1))


def _masks(card: Card, top: int, aggregation: str) -> _Table:  # noqa: ARG001
    def rows(item: Item) -> list[Values]:
        return [
            (mask, rank, found["token"], found["score"], found["sequence"])
            for mask, candidates in enumerate(item["masks"], start=1)
            for rank, found in enumerate(candidates, start=1)
        ]

    columns: dict[str, ColumnKind] = {"mask": "int", "rank": "int", "token": "text"}
    return _Table({**columns, "score": "float", "sequence": "text"}, rows, top_k=max(top, 1))


def _tokens(card: Card, top: int, aggregation: str) -> _Table:  # noqa: ARG001
    prefix = len(card.prefix)

    def rows(encoded: Encoded) -> list[Values]:
        found = (token for piece in encoded.pieces for token in _token_values(piece.encoding, prefix))
        return [(position, *values) for position, values in enumerate(found, start=1)]

    columns: dict[str, ColumnKind] = {"position": "int", "token": "text", "id": "int", "type_id": "int"}
    return _Table({**columns, "start": "int", "end": "int", "special": "int"}, rows)


def _token_values(encoding: Any, prefix: int) -> Iterator[Values]:
    """Yield `token, id, type_id, start, end, special`; a span is (0, 0) where there is no text."""
    special: list[int] = encoding.special_tokens_mask
    for i, (start, end) in enumerate(encoding.offsets):
        # The tokenizer saw the card's prefix before the text, which the user does not.
        moved = prefix if encoding.sequence_ids[i] == 0 else 0
        start, end = max(start - moved, 0), end - moved
        span = (0, 0) if special[i] or end <= start else (start + 1, end)
        yield encoding.tokens[i], encoding.ids[i], encoding.type_ids[i], *span, special[i]


_TABLES: Mapping[str, Callable[[Card, int, str], _Table]] = {
    "embeddings": _embeddings,
    "scores": _score_matrix,
    "labels": _labels,
    "entities": _entities,
    "answers": _answers,
    "masks": _masks,
    "tokens": _tokens,
}


def _scores(item: Item) -> Iterator[float]:
    """Yield every float32 of an item in the order of its fields."""
    if "embedding" in item:
        yield from item["embedding"]
    elif "scores" in item:
        yield from item["scores"].values()
    elif "entities" in item:
        yield from (entity["score"] for entity in item["entities"])
    elif "masks" in item:
        yield from (found["score"] for candidates in item["masks"] for found in candidates)
    else:
        yield item["score"]


def _packed_numbers(dtype: str) -> Callable[[Sequence[Any]], bytearray]:
    return lambda values: bytearray(np.array(values, dtype=dtype).tobytes())


def _packed_matrix(rows: Sequence[Any]) -> bytearray:
    """Return rows of numbers as float32 in column order."""
    width = len(rows[0]) if rows else 0
    packed = bytearray(4 * len(rows) * width)
    columns = np.frombuffer(packed, dtype="<f4").reshape(width, len(rows))
    for start in range(0, len(rows), _TRANSPOSED_ROWS):
        some = slice(start, start + _TRANSPOSED_ROWS)
        columns[:, some] = np.array(rows[some], dtype="<f4").T
    return packed


_PACK: Mapping[ColumnKind, Callable[[Sequence[Any]], bytearray | list[str]]] = {
    "int": _packed_numbers("<i4"),
    "float": _packed_numbers("<f4"),
    "matrix": _packed_matrix,
    "text": lambda values: list(map(_plain, values)),
}


def _plain(text: str) -> str:
    """Return a text that R can hold: no NUL and nothing that is not Unicode."""
    if text.isascii():
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    known = text.encode("utf-8", "replace").decode("utf-8")
    return known.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _info(model: Model) -> dict[str, Any]:
    """Return what R shows and checks: texts, lists of texts, and counts as float."""
    card = model.card
    return {
        "task": card.task,
        "family": card.family,
        "labels": list(map(_plain, card.labels)),
        "problem_type": card.problem_type or "",
        "pairs": bool(card.pairs),
        "width": float(card.width or 0),
        "max_length": float(model.max_length),
        "provider": model.provider,
        "precision": card.precision,
        "pooling": card.pooling or "",
        "mask_token": card.mask_token or "",
        "source": _plain(card.source.get("id") or ""),
        "revision": card.source.get("revision") or "",
        "weights_sha256": card.weights_sha256,
        "tokenizer_sha256": card.tokenizer_sha256,
        "bytes": float(_bytes(model.path)),
        "parity": float(card.parity.get("max_abs_difference", "nan")),
        "tolerance": _allowed(card.parity),
        "notes": list(map(_plain, model.notes)),
        "packages": list(card.versions),
        "versions": list(card.versions.values()),
    }


def _allowed(parity: Mapping[str, Any]) -> float:
    """Return how far the export could be from PyTorch, NaN where that is not known."""
    return float(parity.get("tolerance", "nan")) * max(1.0, float(parity.get("max_abs_reference", 0.0)))


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path, path.with_name(path.name + ".data")]
    return sum(file.stat().st_size for file in files if file.is_file())
