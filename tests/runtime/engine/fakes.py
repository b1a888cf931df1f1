"""A session that is not ONNX Runtime's, which tests can hold at a batch, and what goes with it."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.models.providers import PROVIDERS, Batching, provider
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.options import LongText
from bertonnx.runtime.rows import Encoded, Item, Outputs, Piece, Row
from bertonnx.runtime.session.session import Feeds
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import wordpiece

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CARD = Card(task="feature-extraction", family="bert", max_length=64, inputs=INPUTS, outputs=("sums",))

PATIENCE = 120
"""Seconds until a test that waits for an event has failed."""


class FakeSession:
    """Answers the sum of the ids, and how many there are; notes every batch; does `hook` before each.

    One that is ragged takes texts of several lengths in a batch.
    """

    def __init__(
        self,
        hook: Callable[[Feeds], None] = lambda _: None,
        *,
        inputs: tuple[str, ...] = INPUTS,
        provider: str = "cpu",
        ragged: bool = False,
    ) -> None:
        self.provider = provider
        self.ragged = ragged
        self.inputs = inputs
        self.outputs: tuple[str, ...] = ("sums", "counts", "means")
        self.hook = hook
        self.batches: list[dict[str, npt.NDArray[np.int64]]] = []
        self.alone: list[bool] = []
        self.together: list[list[int]] = []
        self.threads: list[threading.Thread] = []

    def run(
        self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        return self._answers(outputs, feeds, list(feeds["input_ids"]), alone=alone)

    def run_together(
        self, outputs: Sequence[str], feeds: Feeds, lengths: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        texts = np.split(feeds["input_ids"][0], np.cumsum(lengths)[:-1])
        return self._answers(outputs, feeds, texts, lengths=lengths)

    def _answers(
        self,
        outputs: Sequence[str],
        feeds: Feeds,
        texts: Sequence[npt.NDArray[np.int64]],
        *,
        alone: bool = False,
        lengths: Sequence[int] = (),
    ) -> list[npt.NDArray[np.float32]]:
        self.alone.append(alone)
        self.batches.append(dict(feeds))
        self.threads.append(threading.current_thread())
        self.together.append(list(lengths))
        self.hook(feeds)
        answers = {
            "sums": np.array([text.sum() for text in texts]),
            "counts": np.array([len(text) for text in texts]),
        }
        with np.errstate(invalid="ignore"):
            answers["means"] = answers["sums"] / answers["counts"]
        return [answers[name].astype(np.float32) for name in outputs]

    @property
    def sizes(self) -> list[int]:
        """Pieces in each batch so far."""
        return [len(batch["input_ids"]) for batch in self.batches]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each piece of each batch so far."""
        return [batch["input_ids"].shape[1] for batch in self.batches]


class HeldSession(FakeSession):
    """Holds batches until `let(n)` lets the next `n` go on, in the order in which they began."""

    def __init__(self, *, provider: str = "cpu") -> None:
        super().__init__(self._hold, provider=provider)
        self._changed = threading.Condition()
        self._begun = self._allowed = 0

    def _hold(self, _: Feeds) -> None:
        with self._changed:
            self._begun += 1
            number = self._begun
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: number <= self._allowed, PATIENCE), "nobody let it go on"

    def let(self, batches: int = 1_000_000) -> None:
        """Let so many batches go on."""
        with self._changed:
            self._allowed += batches
            self._changed.notify_all()

    def wait_for(self, batches: int) -> None:
        """Return when so many batches have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._begun >= batches, PATIENCE), self.sizes


class Sums:
    """Decodes to the sum over all pieces and the number of pieces."""

    fetch: tuple[str, ...] = ("sums",)

    def keep(self, piece: Piece, outputs: Outputs) -> float:
        assert int(outputs["sums"]) == int(piece.ids.sum())
        return float(outputs["sums"])

    def decode(self, encoded: Encoded, kept: Sequence[Any]) -> Item:
        if "undecodable" in encoded.row.text:
            raise RowError("no-mask", "cannot be decoded")
        return {"text": encoded.row.text, "sum": sum(kept), "pieces": len(kept)}


def engine_with(
    session: FakeSession, *, threads: int = 2, long_text: LongText = "truncate", **more: Any
) -> Engine:
    tokenizer = TextTokenizer(wordpiece().to_str(), CARD, long_text=long_text)
    return Engine(session, tokenizer, threads=threads, **more)


@contextmanager
def batching(name: str, **changes: Any) -> Iterator[Batching]:
    """Register a provider called `name`, whose batching is the CPU's with some changes."""
    row = replace(provider("cpu"), name=name, batching=replace(provider("cpu").batching, **changes))
    PROVIDERS.register(row)
    try:
        yield row.batching
    finally:
        PROVIDERS.unregister(name)


def piece_of(length: int, token: int = 1) -> Piece:
    """Return a piece of so many tokens."""
    ids = np.full(length, token, dtype=np.int64)
    return Piece(ids, np.zeros_like(ids), Encoding())


def until(condition: Callable[[], bool]) -> None:
    """Return when other threads, which do not tell, have come to a state."""
    tick = threading.Event()
    for _ in range(1000 * PATIENCE):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("it never came to that")


def in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Do something in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def some_texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [f"{i} " + "the film " * chance.randrange(12) for i in range(count)]


def texts_of(tokens: int, count: int = 1, start: int = 0) -> list[str]:
    """Return different texts that have so many tokens each; other starts give other texts."""
    tokenizer, texts = wordpiece(), list[str]()
    for number in itertools.count(1000 * start):
        text = str(number)
        text += " the" * (tokens - len(tokenizer.encode(text).ids))
        if len(tokenizer.encode(text).ids) == tokens:
            texts.append(text)
            if len(texts) == count:
                break
    return texts


def rows_of(texts: Sequence[str]) -> list[Row]:
    return [Row(text) for text in texts]


def text_of(results: Sequence[Item | RowError]) -> list[Any]:
    return [item.kind if isinstance(item, RowError) else item["text"] for item in results]
