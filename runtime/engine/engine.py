"""Rows in, items out in the same order, whatever the lengths.

Rows are taken in bounded chunks; their pieces go to a queue that all callers share, where those of *exactly*
equal length make batches, so nothing is padded and a text's result cannot depend on its neighbours. Small
batches of several lengths run as one where the session gives the same bits then (`modelfile.ragged`). On CPU
each batch runs on one thread, as many batches at once as there are threads, while the rest of the chunk is
still tokenized; what else a provider likes is in its row (`models.providers`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

from bertonnx.errors import InferenceError, RowError
from bertonnx.models.providers import provider
from bertonnx.runtime.engine.batches import Caller, Chunk, Slot
from bertonnx.runtime.engine.cores import Cores
from bertonnx.runtime.engine.intake import Intake, Room, in_parts
from bertonnx.runtime.engine.queue import Counters, Queue
from bertonnx.runtime.engine.repeats import Key, Repeats, key_of
from bertonnx.runtime.engine.running import Runner, closed
from bertonnx.runtime.rows import Decoder, Encoded, Item, Piece, Row
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Call

__all__ = ["Engine"]

_AT_ONCE = 2
"""Chunks of a caller under way: while one runs, the next is read and tokenized."""

_SORTED_AT_ONCE = 512
"""Rows whose pieces go to the queue together, while other threads wait for its lock."""

Rows = Sequence[Row | Encoded | RowError]
EncodedRows = Sequence[Encoded | RowError]


class Engine:
    """Runs rows through a session. Safe to use from several threads at once, which share its batches.

    Args:
        session: the model.
        tokenizer: makes pieces of rows.
        threads: batches at a time on CPU.
        outputs: dimensions of the outputs (`Task.outputs`): batches are smaller where every token puts out a
            vocabulary.
        sizes: how large those dimensions are that do not depend on texts.
        cores: what engines share that run side by side; default an engine has its threads to itself.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: TextTokenizer,
        *,
        threads: int,
        outputs: Mapping[str, Sequence[str]] | None = None,
        sizes: Mapping[str, int] | None = None,
        cores: Cores | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = {
            name for name, dimensions in (outputs or {}).items() if "vocabulary" in dimensions
        }
        self._batching = provider(session.provider).batching
        self._room = Room(self._batching)
        runs = self._batching.runs or threads
        # A device has no cores to share; it runs as many batches as it likes beside them.
        shared = cores if self._batching.runs is None else None
        self._queue = Queue(Runner(session, outputs, sizes), runs, self._tokens, shared)
        # Each holds Python's lock for half of its time, when tokens become arrays.
        ahead = max(1, self._batching.ahead)
        self._ahead = ThreadPoolExecutor(ahead, thread_name_prefix="bertonnx-tokenize")
        self._process = os.getpid()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of what happened so far: that memory ran out, and what was done."""
        return self._queue.notes

    @property
    def counters(self) -> Counters:
        """What waits and runs now, and what ran so far."""
        return self._queue.counters()

    def close(self) -> None:
        """Let the threads and the model go; what waits is dropped, and who waits for it gets an error."""
        if self._forked:  # the threads are the other process's, and a lock of theirs may be held for ever
            return
        self._queue.close()
        self._ahead.shutdown(wait=True, cancel_futures=True)

    def map(
        self, rows: Iterable[Row | Encoded | RowError], decoder: Decoder, *, soon: bool = True
    ) -> Generator[Item | RowError, None, None]:
        """Yield one result a row, in order; an error in place of the result where a row failed.

        Args:
            rows: the rows; those that are tokenized already stay as they are.
            decoder: makes results of what the model puts out.
            soon: whether the first results should come soon; else all of them come sooner.

        While one chunk runs, the next is read and tokenized, and begins to run as it is. Closing the
        generator drops what has not started and waits for what has.

        Raises:
            BertonnxError: the engine is closed.
            InferenceError: this process was forked after the engine was made.
            Exception: a fault of bertonnx, or of what gives the rows; it ends the job.
        """
        self._require_own_process()
        caller, repeats = Caller(decoder), Repeats()
        # A device would wait for a large first chunk to be tokenized.
        intake = Intake(rows, self._batching, self._room, soon=soon or self._batching.ahead > 0)
        under_way: deque[Chunk] = deque()
        try:
            with closing(self._tokenized(intake)) as tokenized:
                for parts in tokenized:
                    if under_way:  # before the next chunk is tokenized, which it need not wait for
                        self._queue.run_alone(under_way[-1])
                    under_way.append(Chunk(caller))
                    self._fill(under_way, parts, repeats)
                    if len(under_way) == _AT_ONCE:
                        yield from self._collected(under_way, repeats)
                        intake.collected()
            while under_way:
                yield from self._collected(under_way, repeats)
        finally:
            if not self._forked:
                self._queue.drop(under_way)
                intake.close()

    def submit(self, rows: Rows, decoder: Decoder, done: Callable[[Chunk], object]) -> Chunk:
        """Tokenize rows in this thread, let others compute them, and return at once.

        Args:
            rows: the rows, all of which are held until they are computed.
            decoder: makes results of what the model puts out.
            done: called with the chunk in one of the threads, or in this one where there is nothing to
                compute. It must not wait for anything. `Chunk.items()` then gives the results, or raises
                what ended the chunk. It is not called for a chunk that was cancelled.

        Raises:
            BertonnxError: the engine is closed.
        """
        return self.submit_encoded(self._encode(rows), decoder, done)

    def submit_encoded(
        self, encoded: EncodedRows, decoder: Decoder, done: Callable[[Chunk], object]
    ) -> Chunk:
        """As `submit`, with rows that are tokenized already."""
        self._require_own_process()
        chunk = Chunk(Caller(decoder), done)
        try:
            self._fill([chunk], [encoded], Repeats())
        except BaseException:
            self._queue.drop([chunk])
            raise
        self._queue.start()
        return chunk

    def cancel(self, chunk: Chunk) -> None:
        """Drop what has not started of a chunk that was submitted."""
        self._queue.cancel(chunk)

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._process

    def _require_own_process(self) -> None:
        # A fork takes along the memory and none of the threads: what waits for them waits for ever.
        if self._forked:
            raise InferenceError(
                "this process was forked after the model was opened, and the model's threads did not come "
                "along; open it again here with {load}, or start processes by spawn "
                '(multiprocessing.get_context("spawn")), which opens it by itself',
                load=Call("load"),
            )

    def _tokens(self, fetch: tuple[str, ...]) -> int:
        """Return the tokens of a full batch."""
        batching = self._batching
        return batching.tokens if self._vocabulary.isdisjoint(fetch) else batching.tokens_vocabulary

    def _tokenized(self, intake: Iterable[Rows]) -> Generator[Iterable[EncodedRows], None, None]:
        """Yield chunks of tokenized rows: in parts made as they are asked for, or whole and made ahead."""
        waiting: deque[Future[EncodedRows]] = deque()
        ahead = 0
        try:
            for chunk in intake:
                if not ahead:
                    # The first one in this thread: a text that comes alone does not wait for another's chunk.
                    yield map(self._encode, in_parts(chunk, self._batching.part_characters))
                    ahead = self._batching.ahead
                    continue
                waiting.append(_submitted(self._ahead, self._encode, chunk))
                if len(waiting) > ahead:
                    yield [_result(waiting.popleft())]
            while waiting:
                yield [_result(waiting.popleft())]
        finally:
            # No waiting: the garbage collector may do this, in the very thread that tokenizes.
            for future in waiting:
                future.cancel()

    def _encode(self, rows: Rows) -> EncodedRows:
        good = iter(self._tokenizer.encode([row for row in rows if isinstance(row, Row)]))
        return [next(good) if isinstance(row, Row) else row for row in rows]

    def _fill(self, under_way: Sequence[Chunk], tokenized: Iterable[EncodedRows], repeats: Repeats) -> None:
        """Put rows into the newest chunk, and its pieces into the queue."""
        chunk = under_way[-1]
        for encoded in tokenized:
            more = bool(chunk.encoded)
            for start in range(0, len(encoded), _SORTED_AT_ONCE):
                part = encoded[start : start + _SORTED_AT_ONCE]
                self._queue.add(chunk, _slots(part, under_way, repeats), more=more)
        self._queue.end(chunk)

    def _collected(self, under_way: deque[Chunk], repeats: Repeats) -> Iterator[Item | RowError]:
        """Yield the results of the oldest chunk, which is no longer under way then."""
        chunk = under_way[0]
        self._queue.wait(chunk)
        for key, slot in chunk.fresh.items() if chunk.error is None else ():
            if not isinstance(slot.kept, RowError):
                repeats.add(key, slot.kept)
        yield from chunk.items()
        under_way.popleft()


def _slots(encoded: EncodedRows, under_way: Sequence[Chunk], repeats: Repeats) -> list[Slot]:
    """Take rows into the newest chunk, and return the slots that it has to compute for them."""
    chunk = under_way[-1]
    chunk.encoded.extend(encoded)
    new = []
    for item in encoded:
        for piece in item.pieces if isinstance(item, Encoded) else ():
            key = key_of(piece)
            slot = _known(key, piece, under_way, repeats)
            if slot is None:
                slot = chunk.fresh[key] = Slot(piece, chunk)
                new.append(slot)
            chunk.slots.append(slot)
    return new


def _known(key: Key, piece: Piece, under_way: Sequence[Chunk], repeats: Repeats) -> Slot | None:
    """Return where the result of a piece is, or will be before it is needed."""
    for chunk in under_way:
        if key in chunk.fresh:
            return chunk.fresh[key]
    kept = repeats.find(key)
    return None if kept is None else Slot(piece, under_way[-1], kept)


def _submitted(pool: ThreadPoolExecutor, work: Any, *arguments: Any) -> Future[Any]:
    try:
        return pool.submit(work, *arguments)
    except RuntimeError as error:  # closed by another thread meanwhile
        raise closed() from error


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except CancelledError as error:
        raise closed() from error
