"""Batches: rows in, items out in the same order, whatever the lengths.

Rows are taken in bounded windows; the pieces of a window are grouped by *exactly* equal length, so
nothing is padded and a text's result cannot depend on its neighbours; each batch runs on one
thread, as many batches at once as there are threads. This is the only place that knows how
batches are made.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertonnx.errors import BertonnxError, RowError
from bertonnx.runtime.rows import Decoder, Encoded, Item, Piece, Row
from bertonnx.runtime.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Engine"]

_FIRST_WINDOW, _LAST_WINDOW = 32, 2048
"""Rows in the first window, so that results come soon, and in later ones, where lengths meet."""

_WINDOW_CHARACTERS = 2_000_000
"""Text that closes a window early, so that memory stays bounded with very long texts."""

_BATCH_TOKENS = 512
_BATCH_TOKENS_VOCABULARY = 128
"""Tokens a batch; fewer where every token puts out a whole vocabulary."""

Batch = list[int]


@dataclass
class _Window:
    """Rows on their way through the model.

    Attributes:
        encoded: the rows, tokenized.
        pieces: their pieces; equal ones are computed once.
        places: of each piece of each row, in order, which of `pieces` it is.
        kept: what the decoder kept of each of `pieces`.
        futures: batches under way.
    """

    encoded: list[Encoded | RowError]
    pieces: list[Piece]
    places: list[int]
    kept: list[Any]
    futures: list[Future[None]]


class Engine:
    """Runs rows through a session. Safe to use from several threads at once.

    Args:
        session: the model.
        tokenizer: makes pieces of rows.
        threads: batches at a time.
    """

    def __init__(self, session: Session, tokenizer: TextTokenizer, *, threads: int) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._threads = threads
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bertonnx")

    def close(self) -> None:
        """Let the threads go; batches that wait are dropped."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, rows: Iterable[Row | RowError], decoder: Decoder) -> Iterator[Item | RowError]:
        """Yield one result a row, in order; an error in place of the result where a row failed.

        While one window runs, the next is read and tokenized. Closing the generator drops what
        has not started and waits for what has.
        """
        with closing(self._windows(rows, decoder)) as windows:
            for window in windows:
                yield from self._collect(window, decoder)

    def _windows(self, rows: Iterable[Row | RowError], decoder: Decoder) -> Generator[_Window, None, None]:
        """Yield windows under way, the next one already submitted."""
        ahead: list[_Window] = []
        try:
            for chunk in _chunks(rows):
                ahead.append(self._submit(chunk, decoder))
                if len(ahead) == 2:
                    yield ahead[0]
                    ahead.pop(0)
            yield from ahead
        finally:
            for window in ahead:
                _cancel(window.futures)

    def _submit(self, rows: Sequence[Row | RowError], decoder: Decoder) -> _Window:
        good = iter(self._tokenizer.encode([row for row in rows if isinstance(row, Row)]))
        encoded = [next(good) if isinstance(row, Row) else row for row in rows]
        if self._closed:
            raise _closed()
        pieces, places = _distinct(encoded)
        window = _Window(encoded, pieces, places, [None] * len(pieces), [])
        budget = _BATCH_TOKENS_VOCABULARY if decoder.fetch == ("logits",) else _BATCH_TOKENS
        batches = list(_equal_lengths(pieces, budget))
        if len(batches) < self._threads:
            window.futures.append(self._pool.submit(self._run_alone, window, batches, decoder))
            return window
        for batch in batches:
            window.futures.append(self._pool.submit(self._run, window, batch, decoder))
        return window

    def _run_alone(self, window: _Window, batches: Sequence[Batch], decoder: Decoder) -> None:
        """Run fewer batches than there are cores one after the other, each with all cores."""
        for batch in batches:
            self._run(window, batch, decoder, alone=True)

    def _run(self, window: _Window, batch: Batch, decoder: Decoder, *, alone: bool = False) -> None:
        try:
            self._run_batch(window, batch, decoder, alone=alone)
        except Exception as error:
            if len(batch) == 1:
                message = " ".join(str(error).split())
                window.kept[batch[0]] = RowError("runtime", f"the model failed on this text: {message}")
                return
            # One text alone may be what fails: the others must not suffer for it.
            for place in batch:
                self._run(window, [place], decoder)

    def _run_batch(self, window: _Window, batch: Batch, decoder: Decoder, *, alone: bool) -> None:
        pieces = [window.pieces[place] for place in batch]
        ids = np.stack([piece.ids for piece in pieces])
        feeds = {"input_ids": ids}
        if "attention_mask" in self._session.inputs:
            feeds["attention_mask"] = np.ones_like(ids)
        if "token_type_ids" in self._session.inputs:
            feeds["token_type_ids"] = np.stack([piece.type_ids for piece in pieces])
        outputs = self._session.run(decoder.fetch, feeds, alone=alone)
        for i, (place, piece) in enumerate(zip(batch, pieces, strict=True)):
            named = {name: array[i] for name, array in zip(decoder.fetch, outputs, strict=True)}
            window.kept[place] = decoder.keep(piece, named)

    def _collect(self, window: _Window, decoder: Decoder) -> Iterator[Item | RowError]:
        try:
            for future in window.futures:
                future.result()
        except CancelledError as error:
            raise _closed() from error
        place = 0
        for item in window.encoded:
            if isinstance(item, RowError):
                yield item
                continue
            kept = [window.kept[i] for i in window.places[place : place + len(item.pieces)]]
            place += len(item.pieces)
            yield _decoded(item, kept, decoder)


def _closed() -> BertonnxError:
    return BertonnxError("this model was closed; open it again with bertonnx.load()")


def _decoded(encoded: Encoded, kept: Sequence[Any], decoder: Decoder) -> Item | RowError:
    failed = next((value for value in kept if isinstance(value, RowError)), None)
    if failed is not None:
        return failed
    try:
        item = decoder.decode(encoded, kept)
    except RowError as error:
        return error
    if encoded.truncated:
        item["truncated"] = True
    return item


def _chunks(rows: Iterable[Row | RowError]) -> Iterator[list[Row | RowError]]:
    chunk: list[Row | RowError] = []
    limit, characters = _FIRST_WINDOW, 0
    for row in rows:
        chunk.append(row)
        if isinstance(row, Row):
            characters += len(row.text) + len(row.pair or "")
        if len(chunk) >= limit or characters >= _WINDOW_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
            limit = min(2 * limit, _LAST_WINDOW)
    if chunk:
        yield chunk


def _distinct(encoded: Sequence[Encoded | RowError]) -> tuple[list[Piece], list[int]]:
    """Return the distinct pieces of all rows, and for each piece of each row which of them it is."""
    pieces: list[Piece] = []
    places: list[int] = []
    known: dict[tuple[bytes, bytes], int] = {}
    for item in encoded:
        for piece in item.pieces if isinstance(item, Encoded) else ():
            place = known.setdefault((piece.ids.tobytes(), piece.type_ids.tobytes()), len(pieces))
            if place == len(pieces):
                pieces.append(piece)
            places.append(place)
    return pieces, places


def _equal_lengths(pieces: Sequence[Piece], budget: int) -> Iterator[Batch]:
    """Yield batches of pieces of one length each, the longest first so that cores finish together."""
    groups: dict[int, Batch] = {}
    for place, piece in enumerate(pieces):
        groups.setdefault(len(piece.ids), []).append(place)
    for length in sorted(groups, reverse=True):
        places, size = groups[length], max(1, budget // max(1, length))
        for start in range(0, len(places), size):
            yield places[start : start + size]


def _cancel(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        future.cancel()
    for future in futures:
        if not future.cancelled():
            future.exception()
