"""What the R package calls. Nothing but plain values crosses: texts, lists of texts, raw bytes.

A NumPy array would tie R's reticulate to a NumPy version, a Python int over 2**31 arrives in R as
0, None as a hole in a vector, and a text with a NUL not at all. So columns of numbers cross as
`bytearray` (little-endian int32 or float32, matrices in column order), counts as float, and every
function answers with a dict instead of raising:

    {"ok": True, ...}
    {"ok": False, "error": {"type", "message", "kind", "expected", "traceback"}}

Rows and places count from 1, and spans include both ends, as in R; 0 stands for "none".

R notices an interrupt, or the end of its time, only between two calls. What can take long is therefore
done by another thread, and answers `{"ok": True, "pending": Pending}` where it is not done soon;
`Pending.wait` answers in its place, or is pending again.
"""

from __future__ import annotations

import gc
import hashlib
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count, islice
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

# Its own modules by their names: in a folder that holds one called bertonnx, an editable install itself
# is hidden behind it.
import bertonnx.runtime.r_work as r_work
import bertonnx.source_weights as source_weights
from bertonnx.errors import BertonnxError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.golden import check
from bertonnx.runtime.model import Model, load
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.modelfile.named_weights import Weight
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.r_answers import Answer, Pending, answering, heed, lengthy
from bertonnx.runtime.r_hidden import hidden_states, token_rows
from bertonnx.runtime.r_tables import TOKENS, Table, plain, table_of, tables_of, token_columns
from bertonnx.runtime.r_vectors import compared, searched
from bertonnx.runtime.r_work import Work
from bertonnx.runtime.rows import Encoded, Row, as_rows, once_for_all, require_single
from bertonnx.runtime.session.memory import trim
from bertonnx.runtime.signing import signature_path, signer_of, verify_signature
from bertonnx.wording import Option, R

__all__ = [
    "PROTOCOL",
    "Handle",
    "Pending",
    "Run",
    "Weights",
    "answering",
    "asked",
    "compare_weights",
    "golden",
    "heed",
    "open_model",
    "search",
    "signature",
    "similarity",
    "train",
    "verify",
    "weights",
    "write_rows",
]

PROTOCOL = 10
"""Number of this interface, raised with every change; the R package refuses any but its own."""

_CHUNK_ROWS = 1024
_CHUNK_SECONDS = 0.2
"""A chunk ends at either, so that R can show progress and notice an interrupt."""

_BLOCK_ROWS = 16_384
"""Rows of a matrix that cross at once: many small ones would keep R's garbage collector busy."""


@lengthy
def open_model(
    path: str,
    device: Any,
    threads: int | None,
    max_length: int | None,
    long_text: Any = None,
    tf32: bool = False,
    gpu_memory: float | None = None,
) -> Answer:
    """Open a model as `bertonnx.load`; the answer holds `handle` and `info`."""
    model = load(
        path,
        device,
        threads,
        max_length=max_length,
        long_text=long_text,
        tf32=tf32,
        gpu_memory=gpu_memory,
    )
    return {"handle": Handle(model), "info": _info(model)}


@lengthy
def verify(path: str, device: Any) -> Answer:
    """Replay a file's golden examples; the answer holds what `bertonnx.check` reports."""
    report = check(path, device)
    return {
        "examples": float(report.examples),
        "texts": float(report.texts),
        "max_abs_difference": float(report.max_abs_difference),
        "tolerance": float(report.tolerance),
        "provider": report.provider,
    }


@answering
def signature(path: str, public_key: str | None) -> Answer:
    """Look at a file's signature; the answer holds `signer`, "" where it is not signed, and `verified`.

    With a key it is verified, and where it does not hold, or there is none, that is an error.
    """
    if public_key is not None:
        return {"signer": verify_signature(path, public_key).key, "verified": True}
    place = signature_path(path)
    return {"signer": (signer_of(place) or "nobody") if place.is_file() else "", "verified": False}


@lengthy
def golden(path: str) -> Answer:
    """Read a file's golden examples; the answer holds `texts` and `pairs` ("" for no pair)."""
    examples = read_model_file(Path(path)).golden
    return {
        "texts": [plain(example["text"]) for example in examples],
        "pairs": [plain(example["pair"] or "") for example in examples],
    }


@lengthy
def asked(path: str) -> Answer:
    """Read with which options a file is made again of its source; the answer holds texts, "" for none."""
    card = read_model_file(Path(path)).card
    return {
        "task": plain(card.task),
        "pooling": plain(card.pooling or ""),
        # Of embeddings alone, as pooling is.
        "normalize": ("yes" if card.normalize else "no") if card.pooling else "",
        "max_length": str(card.max_length),
        "activation": plain(card.source.get("hidden_act") or ""),
        "ignore_keys": [plain(name) for name in (card.source.get("ignored") or "").split(", ") if name],
    }


@lengthy
def weights(source: str) -> Answer:
    """Read the weights of a source or a model file; the answer holds columns, and `handle` the numbers."""
    found = source_weights.weights(source)
    return {
        "handle": Weights(found),
        "name": [plain(one.name) for one in found],
        "shape": [list(map(float, one.shape)) for one in found],
        "dtype": [one.dtype for one in found],
        "became": [plain(one.became) for one in found],
        "how": [plain(one.how) for one in found],
        "exact": ["yes" if one.exact else "" for one in found],
        "there": ["yes" if one.values is not None else "" for one in found],
    }


@lengthy
def compare_weights(path: str, source: str) -> Answer:
    """Compare a model file's weights with its source's; the answer holds columns, NaN for no number."""
    found = source_weights.compare_weights(path, source)
    return {
        "name": [plain(one.name) for one in found],
        "difference": [nan if one.difference is None else one.difference for one in found],
        "allowed": [one.allowed for one in found],
        "same": ["yes" if one.ok else "" for one in found],
        "misplaced": [plain(one.misplaced) for one in found],
        "turned": ["yes" if one.turned else "" for one in found],
    }


@lengthy
def similarity(a: Any, b: Any, name: str) -> Answer:
    """Compare the rows of matrices (`r_vectors.compared`)."""
    return compared(a, b, name)


@lengthy
def search(
    vectors: Any, queries: Any, top: int, name: str, encoding: Any, column: str | None, model: Handle | None
) -> Answer:
    """Search the nearest rows (`r_vectors.searched`), with a model or without."""
    return searched(
        vectors,
        queries,
        top_k=int(top),
        name=name,
        encoding=encoding,
        column=column,
        card=None if model is None else model.card,
    )


@lengthy
def write_rows(path: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> Answer:
    """Add rows of a data frame, given by columns, to a file."""
    r_work.write_rows(path, names, columns)
    return {}


@answering
def train(python: str, request: Mapping[str, Any], named: Mapping[str, str] | None = None) -> Answer:
    """Start a training in a process of its own; the answer holds `work`. `named` is as `evaluate`'s."""
    own = r_work.Process()
    trained = answering(r_work.trained)
    return {
        "work": Work(
            lambda tell: trained(python, {"named": dict(named or {}), **request}, own, tell), own.end
        )
    }


class Weights:
    """Weights that were read, as R holds them."""

    def __init__(self, found: Sequence[Weight]) -> None:
        self._found = found

    @lengthy
    def values(self, place: int) -> Answer:
        """Return the numbers of a weight, counted from 1, as R orders them: `bytes`."""
        values = self._found[int(place) - 1].values
        if values is None:
            return {"bytes": bytearray()}
        return {"bytes": bytearray(np.asarray(values, "<f8").tobytes(order="F"))}


def _give_back() -> None:
    """Free what only cycles still hold, and let the C library return it: R's memory is this process's."""
    gc.collect()
    trim()


class Handle:
    """An open model, as R holds it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __del__(self) -> None:
        # A run that is under way keeps its model; without one, this is the last that holds it.
        if self.__dict__.pop("_model", None) is not None:
            _give_back()

    @answering
    def start(
        self,
        name: str,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        places: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        method: str | None = None,
    ) -> Answer:
        """Start a prediction.

        The answer holds `run`, the `names` and `kinds` of the columns to come, the `levels` of its
        factors, and the `width` of a matrix.

        Args:
            name: a table of `info`'s, or one that an option or a method asks for (`table_of`).
            texts: the texts.
            pairs: second texts, as many, or None.
            places: the row number in R of each text, or None for 1, 2, ...
            options: fields of `DecodeOptions` that are not as by default. Without `top_k`, labels, answers
                and tokens are as many as the task gives by itself.
            method: of a file that serves several tasks, the method whose task is asked; None for its own.
        """
        model, rows = self._model, as_rows(texts, pairs)
        decode = DecodeOptions(**(options or {}))
        if method is not None:
            decode = replace(decode, task=model.required(method))
        table = table_of(model.card, name, decode)
        # Before pairs are asked for: any text can be tokenized by itself.
        if name == TOKENS:
            return _started(Run(self._tokenized(model.prompted(rows, decode.prompt)), table, places))
        if pairs is not None:
            require_single(model.card, Option("pairs"))
        if pairs is None and model.card.needs_pair and not decode.pairs_texts:
            raise UsageError(
                "this model was trained for {task} of text pairs, and no pairs were given; give the second "
                "texts as {option}{once}",
                task=model.card.task,
                option=Option("pairs"),
                once=once_for_all(model.card),
            )
        return _started(Run(model.stream(rows, table.decode), table, places))

    @answering
    def hidden(
        self,
        texts: Sequence[str],
        places: Sequence[int] | None = None,
        layers: Sequence[int] = (-1,),
        words: Any = None,
        prompt: str | None = None,
    ) -> Answer:
        """Start to read the vectors of tokens; the answer is as that of `start`.

        Args:
            texts: the texts.
            places: as `start`.
            layers: as `Model.embed_tokens`; the vectors of several stand beside each other, in one pass.
            words: as `Model.embed_tokens`.
            prompt: as `Model.embed_tokens`.
        """
        asked = [int(layer) for layer in layers]
        results, width = hidden_states(self._model, texts, layers=asked, words=words, prompt=prompt)
        table = Table(token_columns(), token_rows, width=width)
        return _started(Run(results, table, places))

    @lengthy
    def timed(self, texts: Sequence[str]) -> Answer:
        """Predict in Python alone; the answer holds `seconds` and `rows`."""
        started = time.perf_counter()
        rows = sum(1 for _ in self._model.stream(as_rows(texts)))
        return {"seconds": time.perf_counter() - started, "rows": float(rows)}

    @lengthy
    def fingerprint(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Answer:
        """Predict in Python alone.

        The answer holds the `md5`, in hex, of all numbers as float32, row by row, and the name of the
        `table` that has them.
        """
        card, usual = self._model.card, DecodeOptions()
        tables = {name: table_of(card, name, usual) for name in tables_of(card)}
        # A matrix of scores has more numbers than the best of them.
        name = next((name for name, table in tables.items() if table.is_matrix), next(iter(tables)))
        # Not `predict`, which says that texts were cut: golden examples are, on purpose.
        items = list(self._model.stream(as_rows(texts, pairs)))
        for item in items:
            if isinstance(item, RowError):
                raise item
        numbers = list(tables[name].numbers(items))
        digest = hashlib.md5(np.array(numbers, dtype="<f4").tobytes(), usedforsecurity=False)
        return {"md5": digest.hexdigest(), "table": name}

    @property
    def card(self) -> Card:
        """What the model says of itself."""
        return self._model.card

    @answering
    def run_file(self, input: str, output: str, options: Mapping[str, Any] | None) -> Answer:
        """Start to run the model on a file; the answer holds `work`."""
        ran = answering(r_work.ran)
        return {"work": Work(lambda tell: ran(self._model, input, output, options or {}, tell))}

    @answering
    def evaluate(
        self, data: str, options: Mapping[str, Any] | None, named: Mapping[str, str] | None = None
    ) -> Answer:
        """Start to measure the model on labelled texts; the answer holds `work`.

        `named` is what messages call files that R wrote.
        """
        face = R.naming(named or {})
        evaluated = answering(r_work.evaluated, face)
        return {"work": Work(lambda tell: evaluated(self._model, data, options or {}, face, tell))}

    @answering
    def close(self) -> Answer:
        """Let the model's threads and memory go."""
        self._model.close()
        _give_back()
        return {}

    def _tokenized(self, rows: Iterable[Row | RowError]) -> Generator[Encoded | RowError, None, None]:
        for row in rows:
            yield row if isinstance(row, RowError) else self._model.tokenizer.encode([row])[0]


class Run:
    """A prediction under way, taken chunk by chunk."""

    def __init__(
        self, results: Generator[Any, None, None], table: Table, places: Sequence[int] | None
    ) -> None:
        self._results = results
        self.table = table
        self._places = iter(places) if places is not None else count(1)
        self._held: list[tuple[int, Any]] = []
        self._closed = False
        self._taking = threading.Lock()

    @lengthy
    def chunk(self) -> Answer:
        """Return what comes next: `texts`, their number, 0 at the end; and `columns`, by name.

        A matrix is held back until there is much of it: `columns` is empty meanwhile, and its rest
        comes with the end. `cut` is how many of the texts were cut, and `seconds` what was spent on
        predicting, without making columns. A text that failed gives a RowError that names its row.
        """
        started = time.perf_counter()
        with self._taking:
            taken = list(self._take())
        self._settle()
        seconds = time.perf_counter() - started
        self._held += taken
        # Small blocks are bound together in R, which copies them; a table's rows come as they are.
        columns: dict[str, Any] = {}
        if not (taken and self.table.is_matrix and len(self._held) < _BLOCK_ROWS):
            columns = self.table.packed(self._held)
            self._held = []
        cut = sum(isinstance(result, dict) and "truncated" in result for _, result in taken)
        return {"texts": float(len(taken)), "cut": float(cut), "seconds": seconds, "columns": columns}

    @lengthy
    def close(self) -> Answer:
        """Drop what has not started; what has ends by itself."""
        self._closed = True
        self._settle()
        return {}

    def _settle(self) -> None:
        # Whoever holds the lock looks here again when it has let it go.
        if self._closed and self._taking.acquire(blocking=False):
            with suppress(BertonnxError):
                self._results.close()
            self._taking.release()

    def _take(self) -> Iterator[tuple[int, Any]]:
        ends = time.monotonic() + _CHUNK_SECONDS
        for result in islice(self._results, _CHUNK_ROWS):
            place = next(self._places)
            if isinstance(result, RowError):
                raise RowError(result.kind, "row {row}: {why}", row=place, why=result) from result
            yield place, result
            if time.monotonic() > ends:
                return


def _started(run: Run) -> Answer:
    table = run.table
    return {
        "run": run,
        "names": list(table.columns),
        "kinds": list(table.columns.values()),
        "levels": list(map(plain, table.levels)),
        "width": float(table.width),
    }


def _info(model: Model) -> dict[str, Any]:
    """Return what R shows and checks: texts, lists of texts, and counts as float."""
    card = model.card
    return {
        "task": card.task,
        "also": list(card.also),
        "tables": list(tables_of(card)),
        "matrices": [name for name in tables_of(card) if table_of(card, name, DecodeOptions()).is_matrix],
        "family": card.family,
        "labels": list(map(plain, card.labels)),
        "problem_type": card.problem_type or "",
        "pairs": card.needs_pair,
        "width": float(card.width or 0),
        "max_length": float(model.max_length),
        "provider": model.provider,
        "precision": card.precision,
        "pooling": card.pooling or "",
        "similarity": card.similarity or "",
        "mask_token": card.mask_token or "",
        "prompts": list(map(plain, card.prompts)),
        "default_prompt": plain(card.default_prompt or ""),
        "source": plain(card.source.get("id") or ""),
        "revision": card.source.get("revision") or "",
        "weights_sha256": card.weights_sha256,
        "tokenizer_sha256": card.tokenizer_sha256,
        "bytes": float(_bytes(model.path)),
        "parity": nan if card.parity is None else card.parity.max_abs_difference,
        "tolerance": nan if card.parity is None else card.parity.allowed,
        "notes": [plain(note.worded(R)) for note in model.messages],
        "packages": list(card.versions),
        "versions": list(card.versions.values()),
    }


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path, path.with_name(path.name + ".data")]
    return sum(file.stat().st_size for file in files if file.is_file())
