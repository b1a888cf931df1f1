"""Batches: rows in, items out in the same order, whatever the lengths.

Rows are taken in bounded windows; the pieces of a window are grouped by *exactly* equal length, so
nothing is padded and a text's result cannot depend on its neighbours. On CPU each batch runs on one
thread, as many batches at once as there are threads, while the rest of the window is still tokenized;
what else a provider likes is in `batches`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertonnx.errors import BertonnxError, InferenceError, OutOfMemoryError, RowError
from bertonnx.runtime.engine.batches import Batch, Groups, Slot, in_parts, policy_for, windows
from bertonnx.runtime.engine.repeats import Key, Repeats, key_of
from bertonnx.runtime.rows import Decoder, Encoded, Item, Piece, Row
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Engine"]

_AT_ONCE = 2
"""Windows under way: while one runs, the next is read and tokenized."""

Rows = Sequence[Row | RowError]
EncodedRows = Sequence[Encoded | RowError]


@dataclass
class _Window:
    """Rows on their way through the model.

    Attributes:
        encoded: the rows, tokenized so far.
        slots: of each piece of each row, in order, where its result is put.
        fresh: the slots that this window computes, by what decides their results.
        futures: batches under way.
        lone: batches that are fewer than the cores; one after the other they get all of them.
    """

    encoded: list[Encoded | RowError] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    fresh: dict[Key, Slot] = field(default_factory=dict)
    futures: list[Future[None]] = field(default_factory=list)
    lone: list[Batch] = field(default_factory=list)


class Engine:
    """Runs rows through a session. Safe to use from several threads at once.

    Args:
        session: the model.
        tokenizer: makes pieces of rows.
        threads: batches at a time on CPU.
    """

    def __init__(self, session: Session, tokenizer: TextTokenizer, *, threads: int) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._policy = policy_for(session.provider)
        self._runs = self._policy.runs or threads
        self._closed = False
        self._pool = ThreadPoolExecutor(self._runs, thread_name_prefix="bertonnx")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="bertonnx-tokenize")
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(self._runs)
        self._one_at_a_time = self._runs == 1
        self._out_of_memory = False
        self._most_tokens: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of what happened so far: that memory ran out, and what was done."""
        if not self._out_of_memory:
            return ()
        size = f", of at most {self._most_tokens} tokens" if self._most_tokens else ""
        return (f"memory ran out on {self._session.provider}, so batches now run one at a time{size}",)

    def close(self) -> None:
        """Let the threads go; batches that wait are dropped."""
        self._closed = True
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(
        self, rows: Iterable[Row | RowError], decoder: Decoder, *, soon: bool = True
    ) -> Generator[Item | RowError, None, None]:
        """Yield one result a row, in order; an error in place of the result where a row failed.

        Args:
            rows: the rows.
            decoder: makes results of what the model puts out.
            soon: whether the first results should come soon; else all of them come sooner.

        While one window runs, the next is read and tokenized, and begins to run as it is. Closing the
        generator drops what has not started and waits for what has. What is raised besides errors of
        rows is a fault of bertonnx or an interrupt, and ends the job.
        """
        repeats = Repeats()
        with closing(self._windows(rows, decoder, repeats, soon)) as under_way:
            for window in under_way:
                yield from self._collect(window, decoder, repeats)

    def _windows(
        self, rows: Iterable[Row | RowError], decoder: Decoder, repeats: Repeats, soon: bool
    ) -> Generator[_Window, None, None]:
        """Yield windows under way, the next one already submitted."""
        under_way: deque[_Window] = deque()
        try:
            with closing(self._tokenized(rows, soon)) as tokenized:
                for encoded in tokenized:
                    if under_way:  # or the next window's batches would take the cores first
                        self._run_lone(under_way[-1], decoder)
                    under_way.append(_Window())
                    self._fill(encoded, decoder, under_way, repeats)
                    if len(under_way) == _AT_ONCE:
                        yield under_way[0]
                        under_way.popleft()
            yield from under_way
        finally:
            for window in under_way:
                _cancel(window.futures)

    def _tokenized(
        self, rows: Iterable[Row | RowError], soon: bool
    ) -> Generator[Iterable[EncodedRows], None, None]:
        """Yield windows of tokenized rows: in parts made as they are asked for, or whole and made ahead."""
        waiting: deque[Future[EncodedRows]] = deque()
        try:
            for window in windows(rows, self._policy, soon=soon):
                if not self._policy.ahead:
                    yield map(self._encode, in_parts(window, self._policy.part_characters))
                    continue
                waiting.append(_submitted(self._ahead, self._encode, window))
                if len(waiting) > self._policy.ahead:
                    yield [_result(waiting.popleft())]
            while waiting:
                yield [_result(waiting.popleft())]
        finally:
            _cancel(waiting)

    def _encode(self, rows: Rows) -> EncodedRows:
        good = iter(self._tokenizer.encode([row for row in rows if isinstance(row, Row)]))
        return [next(good) if isinstance(row, Row) else row for row in rows]

    def _fill(
        self,
        tokenized: Iterable[EncodedRows],
        decoder: Decoder,
        under_way: Sequence[_Window],
        repeats: Repeats,
    ) -> None:
        """Put rows into the newest window, and let batches run from when every core has one."""
        window, groups, ready = under_way[-1], Groups(self._budget(decoder)), list[Batch]()
        for encoded in tokenized:
            if window.encoded:  # more rows have come, so cores that wait need not wait for all of them
                ready += groups.large(max(0, self._waiting(under_way) - len(ready)))
                self._start(window, ready, decoder)
            ready += self._sorted_in(encoded, window, groups, under_way, repeats)
            self._start(window, ready, decoder)
        ready += groups.rest()
        self._start(window, ready, decoder)
        window.lone = ready

    def _sorted_in(
        self,
        encoded: EncodedRows,
        window: _Window,
        groups: Groups,
        under_way: Iterable[_Window],
        repeats: Repeats,
    ) -> Iterator[Batch]:
        """Take rows into a window, and yield the batches that they make full."""
        window.encoded.extend(encoded)
        for item in encoded:
            for piece in item.pieces if isinstance(item, Encoded) else ():
                key = key_of(piece)
                slot = _known(key, piece, under_way, repeats)
                if slot is None:
                    slot = window.fresh[key] = Slot(piece)
                    batch = groups.add(slot)
                    if batch is not None:
                        yield batch
                window.slots.append(slot)

    def _waiting(self, under_way: Iterable[_Window]) -> int:
        """Return how many cores have nothing to do."""
        return self._runs - sum(not future.done() for window in under_way for future in window.futures)

    def _start(self, window: _Window, ready: list[Batch], decoder: Decoder) -> None:
        """Let batches run, and empty the list; but a window's first only when there is one for every core."""
        if self._closed:
            raise _closed()
        if not window.futures and len(ready) < self._runs:
            return
        for batch in ready:
            window.futures.append(_submitted(self._pool, self._run, batch, decoder))
        ready.clear()

    def _run_lone(self, window: _Window, decoder: Decoder) -> None:
        """Run batches that are fewer than the cores, in this thread: another would have to be woken first."""
        while window.lone:
            if self._closed:
                raise _closed()
            self._run(window.lone.pop(0), decoder, alone=True)

    def _budget(self, decoder: Decoder) -> int:
        vocabulary = decoder.fetch == ("logits",)
        tokens = self._policy.tokens_vocabulary if vocabulary else self._policy.tokens
        return min(tokens, self._most_tokens or tokens)

    def _run(self, batch: Batch, decoder: Decoder, *, alone: bool = False) -> None:
        by_itself = self._one_at_a_time
        try:
            with self._turns:
                self._run_batch(batch, decoder, alone=alone)
            return
        except OutOfMemoryError as error:
            failure: BertonnxError = error
            parts = self._smaller(batch, by_itself)
        except InferenceError as error:
            # One text alone may be what fails: the others must not suffer for it.
            failure, parts = error, [[slot] for slot in batch] if len(batch) > 1 else []
        if not parts:
            batch[0].kept = _failed(batch[0].piece, failure)
        for part in parts:
            self._run(part, decoder, alone=alone)

    def _smaller(self, batch: Batch, by_itself: bool) -> list[Batch]:
        """Return what a batch that found no memory is tried again as; nothing where it cannot be smaller.

        Args:
            batch: the batch.
            by_itself: whether no other batch ran beside it.
        """
        with self._lock:
            self._out_of_memory = True
            if not self._one_at_a_time:
                # Waits for those that run, and leaves one turn for all that come.
                for _ in range(self._runs - 1):
                    self._turns.acquire()
                self._one_at_a_time = True
            if not by_itself:
                return [batch]
            half = len(batch) // 2
            if half:
                tokens = half * len(batch[0].piece.ids)
                self._most_tokens = min(tokens, self._most_tokens or tokens)
            return [batch[:half], batch[half:]] if half else []

    def _run_batch(self, batch: Batch, decoder: Decoder, *, alone: bool) -> None:
        ids = np.stack([slot.piece.ids for slot in batch])
        feeds = {"input_ids": ids}
        if "attention_mask" in self._session.inputs:
            feeds["attention_mask"] = np.ones_like(ids)
        if "token_type_ids" in self._session.inputs:
            feeds["token_type_ids"] = np.stack([slot.piece.type_ids for slot in batch])
        outputs = self._session.run(decoder.fetch, feeds, alone=alone)
        for i, slot in enumerate(batch):
            named = {name: array[i] for name, array in zip(decoder.fetch, outputs, strict=True)}
            slot.kept = decoder.keep(slot.piece, named)

    def _collect(self, window: _Window, decoder: Decoder, repeats: Repeats) -> Iterator[Item | RowError]:
        self._run_lone(window, decoder)
        for future in window.futures:
            _result(future)
        for key, slot in window.fresh.items():
            if not isinstance(slot.kept, RowError):
                repeats.add(key, slot.kept)
        slots = iter(window.slots)
        for item in window.encoded:
            if isinstance(item, RowError):
                yield item
            else:
                yield _decoded(item, [next(slots).kept for _ in item.pieces], decoder)


def _known(key: Key, piece: Piece, under_way: Iterable[_Window], repeats: Repeats) -> Slot | None:
    """Return where the result of a piece is, or will be before it is needed."""
    for window in under_way:
        if key in window.fresh:
            return window.fresh[key]
    kept = repeats.find(key)
    return None if kept is None else Slot(piece, kept)


def _failed(piece: Piece, error: BertonnxError) -> RowError:
    message = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError):
        return RowError(
            "runtime",
            f"there was not memory enough for this text alone ({len(piece.ids)} tokens); a smaller "
            f"--max-length, or another provider, may do. ONNX Runtime said: {message}",
        )
    return RowError("runtime", f"the model failed on this text: {message}")


def _submitted(pool: ThreadPoolExecutor, work: Any, *arguments: Any) -> Future[Any]:
    try:
        return pool.submit(work, *arguments)
    except RuntimeError as error:  # closed by another thread meanwhile
        raise _closed() from error


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except CancelledError as error:
        raise _closed() from error


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


def _cancel(futures: Iterable[Future[Any]]) -> None:
    futures = list(futures)
    for future in futures:
        future.cancel()
    for future in futures:
        if not future.cancelled():
            future.exception()
