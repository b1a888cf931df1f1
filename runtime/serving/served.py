"""A model that is served: its methods, answered by the one engine, for many requests at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter, time
from typing import Any, Generic, Literal, TypeVar

from bertonnx.errors import RowError
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.decoders.tokens import TokenOptions
from bertonnx.runtime.decoders.uses import Answers
from bertonnx.runtime.engine.batches import Chunk
from bertonnx.runtime.methods import in_row
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import DecodeOptions, LongText
from bertonnx.runtime.rows import Decoder, Encoded, Item, Row, as_rows
from bertonnx.runtime.serving.admission import Admission
from bertonnx.runtime.serving.bell import Bell
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.token_methods import TokenMethods
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Answer", "Reading", "Replayed", "Results", "Served", "Workers"]

T = TypeVar("T")

Side = Literal["left", "right"]
Results = Sequence[Item | RowError]
AnyRow = Row | Encoded | RowError
"""What a method asks about: texts, texts that are tokenized already, or what stands for one that failed."""

_HERE_CHARACTERS = 8_000
"""Texts of so many characters are tokenized in the event loop's thread: to wake another takes longer."""

_HERE_ROWS = 64

_PART_ROWS, _PART_CHARACTERS = 256, 200_000
"""Of a large request, what is tokenized and put into the engine together."""

_MOST_ROWS, _MOST_CHARACTERS = 500_000, 100_000_000
"""Of one request, once its texts stand beside its labels or query."""

_PARTS = 3
"""Parts of one request under way."""


@dataclass(frozen=True)
class Reading:
    """How long texts are read.

    Attributes:
        long_text: what happens to them; None for what the model does by itself.
        side: the end that is cut; None for the model's.
    """

    long_text: LongText | None = None
    side: Side | None = None


@dataclass
class Answer(Generic[T]):
    """What a method answered, and what it took.

    Attributes:
        value: what the method returned.
        texts: texts that went through the model.
        characters: of them.
        tokens: of them, special tokens included.
        truncated: texts of which tokens were cut.
        tokenizing: seconds until they were tokens.
        queued: seconds until the first of them was computed.
        computing: seconds until all were.
    """

    value: T
    texts: int = 0
    characters: int = 0
    tokens: int = 0
    truncated: int = 0
    tokenizing: float = 0.0
    queued: float = 0.0
    computing: float = 0.0


@dataclass
class Workers:
    """What all models of a server share.

    Attributes:
        bell: wakes the event loop.
        pool: threads for work that would hold the loop up.
    """

    bell: Bell
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "bertonnx-serve"))

    async def do(self, work: Callable[[], T]) -> T:
        """Do something in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)


class _AskedError(Exception):
    """A method asks for results that are not there yet."""

    def __init__(self, rows: list[AnyRow], decoder: Decoder) -> None:
        super().__init__()
        self.rows = rows
        self.decoder = decoder


class Replayed(TokenMethods):
    """The methods of a model whose results come later.

    A method runs until it asks for results, which ends it. Once they are there it runs again from its
    beginning and finds them. So what becomes of results is written once, for `Model` and here.
    """

    def __init__(self, model: Model, tokenizer: TextTokenizer) -> None:
        self.card = model.card
        self.there: list[Results] = []
        self._model = model
        self._tokenizer = tokenizer
        self._next = 0

    @property
    def max_length(self) -> int:
        """Longest input in tokens."""
        return self._model.max_length

    def again(self) -> None:
        """Begin anew."""
        self._next = 0

    def _results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        return self._model.answers(as_rows(texts, pairs), decode, self._run, self._tokenizer)

    def _token_results(self, texts: Sequence[str], asked: TokenOptions) -> Iterator[Item | RowError]:
        return self._model.token_answers(texts, asked, self._run)

    def _encoded(
        self, texts: Sequence[str], pairs: Sequence[str] | None, prompt: str | None
    ) -> Iterator[Encoded | RowError]:
        return iter(_encoded(self._tokenizer, list(self._model.prompted(as_rows(texts, pairs), prompt))))

    def items(self, rows: Iterable[Encoded | RowError], decode: DecodeOptions) -> list[Item]:
        """Return the results of what is tokenized already.

        Raises:
            RowError: one failed; its place is in the message.
        """
        found = []
        for place, item in enumerate(self._run(rows, self._model.decoder(decode))):
            if isinstance(item, RowError):
                raise in_row(place, item) from item
            found.append(item)
        return found

    def _run(self, rows: Iterable[AnyRow], decoder: Decoder) -> Answers:
        self._next += 1
        if self._next > len(self.there):
            raise _AskedError(_bounded(rows), decoder)
        # A use may note something of each row as it gives it (zero-shot counts them), and finds it so again.
        deque(rows, maxlen=0)
        yield from self.there[self._next - 1]

    def _say_cut(self, cut: int, texts: int) -> None:
        """Nothing is said here: the response tells it."""


class Served:
    """A model under its name.

    Args:
        name: what clients call it.
        model: the model.
        workers: shared by all models.
        max_queue: texts that may wait for it.
        characters: of all texts that may wait.
    """

    def __init__(self, name: str, model: Model, workers: Workers, *, max_queue: int, characters: int) -> None:
        self.name = name
        self.model = model
        self.card = model.card
        self.opened = int(time())
        self.task = task_named(model.card.task)
        self.admission = Admission(max_queue, characters, lambda: model.engine.counters.pieces)
        self._workers = workers
        self._tokenizer = lru_cache(maxsize=8)(self._make_tokenizer)

    async def answer(
        self, method: Callable[[Replayed], T], reading: Reading, *, texts: int, characters: int
    ) -> Answer[T]:
        """Return what a method of the model returns.

        Args:
            method: calls it; it is called several times and must do the same each time.
            reading: how long texts are read.
            texts: how many texts it is about, for which there must be room.
            characters: of them.

        Raises:
            BertonnxError: as the method.
            RefusedError: too many texts wait.
        """
        # Of each request its own, since it counts what was asked for.
        replayed = Replayed(self.model, self._tokenizer(reading))
        took: Answer[Any] = Answer(None)
        with self.admission.admitted(texts, characters):
            while True:
                try:
                    value = await self._value(method, replayed, texts)
                    break
                except _AskedError as asked:
                    replayed.again()
                    replayed.there.append(await self._computed(asked, reading, took))
        took.value = value
        return took

    async def _value(self, method: Callable[[Replayed], T], replayed: Replayed, texts: int) -> T:
        if texts <= _PART_ROWS:
            return method(replayed)
        # Thousands of texts are gone through elsewhere, so that others are answered meanwhile.
        return await self._workers.do(lambda: method(replayed))

    async def _computed(self, asked: _AskedError, reading: Reading, took: Answer[Any]) -> Results:
        rows, decoder = asked.rows, asked.decoder
        tokenizer = self._tokenizer(reading)
        characters = sum(map(_characters, rows))
        took.texts += len(rows)
        took.characters += characters
        if characters <= _HERE_CHARACTERS and len(rows) <= _HERE_ROWS:
            begun = perf_counter()
            encoded = _encoded(tokenizer, rows)
            took.tokenizing += perf_counter() - begun
            return await self._ran(encoded, decoder, took, here=True)
        return await self._in_parts(rows, decoder, tokenizer, took)

    async def _in_parts(
        self,
        rows: Sequence[AnyRow],
        decoder: Decoder,
        tokenizer: TextTokenizer,
        took: Answer[Any],
    ) -> Results:
        """Compute a large request, a few parts at a time."""
        room = asyncio.Semaphore(_PARTS)

        async def done(part: Sequence[AnyRow]) -> Results:
            async with room:
                begun = perf_counter()
                encoded = await self._workers.do(lambda: _encoded(tokenizer, part))
                took.tokenizing += perf_counter() - begun
                return await self._ran(encoded, decoder, took, here=False)

        # One that fails takes the others with it, and so does the client that leaves.
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(done(part)) for part in _parts(rows)]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        return [result for task in tasks for result in task.result()]

    async def _ran(
        self, encoded: Sequence[Encoded | RowError], decoder: Decoder, took: Answer[Any], *, here: bool
    ) -> Results:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ring = self._workers.bell.ring
        sent = perf_counter()
        chunk = self.model.engine.submit_encoded(encoded, decoder, lambda _: ring(future))
        try:
            await future
        except asyncio.CancelledError:
            self.model.engine.cancel(chunk)
            raise
        ended = perf_counter()
        started = chunk.started or ended
        took.queued += started - sent
        took.computing += ended - started
        _count(encoded, took)
        # Here too results of a few texts are made sooner than a thread is woken.
        return list(chunk.items()) if here else await self._workers.do(lambda: _items(chunk))

    async def encoded(
        self, texts: Sequence[object], pairs: Sequence[object] | None, prompt: str | None, reading: Reading
    ) -> list[Encoded | RowError]:
        """Return how texts reach the model, an error in place of one that failed.

        Raises:
            RefusedError: too many texts wait.
            UsageError: there is no such prompt.
        """
        rows = list(self.model.prompted(as_rows(texts, pairs), prompt))
        with self.admission.admitted(len(rows), sum(map(_characters, rows))):
            return await self._workers.do(lambda: _encoded(self._tokenizer(reading), rows))

    def tokenizer(self, reading: Reading) -> TextTokenizer:
        """Return what reads texts so."""
        return self._tokenizer(reading)

    def _make_tokenizer(self, reading: Reading) -> TextTokenizer:
        own = self.model.tokenizer
        if reading.long_text in (None, own.long_text) and reading.side in (None, self.card.truncation_side):
            return own
        return own.reading(reading.long_text or own.long_text, reading.side or self.card.truncation_side)


def _bounded(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """Return rows as a list, unless they are more than a body can mean.

    Texts with labels, or a query with documents, are as many rows as the product of the two: a body of two
    megabytes could ask for billions.

    Raises:
        RefusedError: they are too many, or too long all together.
    """
    found: list[AnyRow] = []
    characters = 0
    for row in rows:
        found.append(row)
        characters += _characters(row)
        if len(found) > _MOST_ROWS or characters > _MOST_CHARACTERS:
            raise RefusedError(
                "too_large",
                f"texts with all that they are read with are more than {_MOST_ROWS} rows or "
                f"{_MOST_CHARACTERS} characters; send fewer at a time",
            )
    return found


def _items(chunk: Chunk) -> Results:
    return list(chunk.items())


def _encoded(tokenizer: TextTokenizer, rows: Sequence[AnyRow]) -> list[Encoded | RowError]:
    good = iter(tokenizer.encode([row for row in rows if isinstance(row, Row)]))
    return [next(good) if isinstance(row, Row) else row for row in rows]


def _count(encoded: Iterable[Encoded | RowError], took: Answer[Any]) -> None:
    for item in encoded:
        if isinstance(item, Encoded):
            took.truncated += item.truncated
            for piece in item.pieces:
                took.tokens += len(piece.ids)


def _characters(row: AnyRow) -> int:
    if isinstance(row, RowError):
        return 0
    text = row if isinstance(row, Row) else row.row
    return len(text.text) + len(text.pair or "")


def _parts(rows: Sequence[AnyRow]) -> Iterator[Sequence[AnyRow]]:
    start = characters = 0
    for place, row in enumerate(rows):
        characters += _characters(row)
        if place + 1 - start >= _PART_ROWS or characters >= _PART_CHARACTERS:
            yield rows[start : place + 1]
            start, characters = place + 1, 0
    if start < len(rows):
        yield rows[start:]
