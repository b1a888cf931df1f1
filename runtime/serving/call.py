"""One request, as its handler sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any, TypeVar

from bertonnx.errors import RowError, UsageError
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Encoded, Item
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.fleet import Fleet
from bertonnx.runtime.serving.http import Header, in_parts, parsed
from bertonnx.runtime.serving.options import ServeOptions
from bertonnx.runtime.serving.served import Answer, Reading, Replayed, Served, Side
from bertonnx.wording import PYTHON, Face

__all__ = ["Call", "State"]

T = TypeVar("T")

_LISTED_HERE = 256
"""Results that the event loop's thread writes: to wake another takes longer."""


@dataclass
class State:
    """What handlers may know of the server.

    Attributes:
        fleet: its models.
        options: what the user chose.
        draining: whether it is about to end, and takes no new requests.
    """

    fleet: Fleet
    options: ServeOptions
    draining: bool = False


@dataclass
class Call:
    """One request.

    Attributes:
        state: of the server.
        headers: by their names in lower case.
        path: what follows the model in the path.
        named: the model that the path names; None where it names none.
        body: its bytes.
        begun: when it came, in seconds of `perf_counter`.
        served: the model that answered, once one was chosen.
        took: what it took, of all methods together.
        face: whose words its client reads errors in.
    """

    state: State
    headers: Mapping[bytes, bytes]
    path: str
    named: Served | None
    body: bytes
    begun: float
    served: Served | None = None
    took: Answer[None] = field(default_factory=lambda: Answer(None))
    face: Face = PYTHON

    @cached_property
    def fields(self) -> Fields:
        """The fields of its body.

        Raises:
            RefusedError: it is no JSON object.
        """
        return Fields(parsed(self.body))

    @property
    def fleet(self) -> Fleet:
        """All models."""
        return self.state.fleet

    def choose(self, method: str, name: str | None = None) -> Served:
        """Return the model that is to answer.

        Args:
            method: of `bertonnx.Model`, which it must have.
            name: what the body calls it; the path's name comes before it.

        Raises:
            RefusedError: there is none of that name, or none can.
        """
        asked = self.named
        if asked is None and name is not None:
            asked = self.fleet.named(name)
        self.served = self.fleet.serving(method, asked)
        return self.served

    async def ask(
        self,
        served: Served,
        method: Callable[[Replayed], T],
        texts: Sequence[str],
        *,
        truncate: bool | None = None,
        side: Side | None = None,
    ) -> T:
        """Return what a method of a model returns.

        Args:
            served: the model.
            method: calls it, and does the same each time that it is called.
            texts: all that it is about, for which there must be room.
            truncate: whether long texts are cut; None for what the server was told.
            side: the end that is cut; None for the model's.

        Raises:
            BertonnxError: as the method.
            RefusedError: too many texts wait.
        """
        answer = await served.answer(
            method, self.reading(served, truncate, side), texts=len(texts), characters=sum(map(len, texts))
        )
        self._add(answer)
        return answer.value

    def _add(self, answer: Answer[Any]) -> None:
        took = self.took
        took.texts += answer.texts
        took.characters += answer.characters
        took.tokens += answer.tokens
        took.truncated += answer.truncated
        took.tokenizing += answer.tokenizing
        took.queued += answer.queued
        took.computing += answer.computing

    async def lines(
        self,
        served: Served,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None,
        decode: DecodeOptions,
        reading: Reading,
    ) -> list[Item | RowError]:
        """Return a result for each text, with an error in place of one that failed.

        Raises:
            BertonnxError: as `Model.predict`, but for what is wrong with single texts.
            RefusedError: too many texts wait.
        """
        both = [*texts, *(pairs or ())]
        return await self.results(
            served, lambda methods: methods.results(texts, pairs, decode), both, reading, texts=len(texts)
        )

    async def results(
        self,
        served: Served,
        method: Callable[[Replayed], Iterable[Item | RowError]],
        about: Sequence[Any],
        reading: Reading,
        *,
        texts: int | None = None,
    ) -> list[Item | RowError]:
        """Return what a method gives of each text.

        Args:
            served: the model.
            method: calls it, and does the same each time that it is called.
            about: all that it is about, for which there must be room.
            reading: how long texts are read.
            texts: how many texts that is, where some of it is their pairs.

        Raises:
            BertonnxError: as the method.
            RefusedError: too many texts wait.
        """
        answer = await served.answer(
            lambda methods: list(method(methods)),
            reading,
            texts=len(about) if texts is None else texts,
            characters=sum(len(text) for text in about if isinstance(text, str)),
        )
        self._add(answer)
        return answer.value

    async def encoded(
        self,
        served: Served,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None,
        prompt: str | None,
        reading: Reading,
    ) -> list[Encoded | RowError]:
        """Return how each text reaches the model, an error in place of one that failed.

        Raises:
            BertonnxError: pairs are missing or too few, or there is no such prompt.
            RefusedError: too many texts wait.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise UsageError(
                "there are {texts} texts and {pairs} pairs; each text needs its own",
                texts=len(texts),
                pairs=len(pairs),
            )
        return await served.encoded(texts, pairs, prompt, reading)

    async def listed(self, make: Callable[[int, int], list[Any]], count: int) -> Any:
        """Return a list for `as_json`, of which `make(start, stop)` gives parts.

        Many are made and written in a thread, so that others are answered meanwhile.
        """
        return make(0, count) if count <= _LISTED_HERE else await self.apart(lambda: in_parts(make, count))

    async def apart(self, work: Callable[[], T]) -> T:
        """Do something in a thread, so that others are answered meanwhile."""
        return await self.fleet.workers.do(work)

    def reading(self, served: Served, truncate: bool | None, side: Side | None = None) -> Reading:
        """Return how long texts are read.

        Answers and entities are found in windows, of which none is cut.
        """
        own = served.model.tokenizer.long_text
        if own == "stride":
            return Reading(None, side)
        cut = self.state.options.auto_truncate if truncate is None else truncate
        return Reading("truncate" if cut else "error", side)

    def took_headers(self) -> list[Header]:
        """Return what a response says of what it took, times in milliseconds."""
        took, served = self.took, self.served
        # Of models and metrics there is nothing to tell.
        if served is None or not took.texts:
            return []
        total = perf_counter() - self.begun
        headers = [
            (b"x-compute-type", served.model.provider.encode()),
            (b"x-compute-time", _ms(took.tokenizing + took.computing)),
            (b"x-compute-characters", b"%d" % took.characters),
            (b"x-compute-tokens", b"%d" % took.tokens),
            (b"x-total-time", _ms(total)),
            (b"x-tokenization-time", _ms(took.tokenizing)),
            (b"x-queue-time", _ms(took.queued)),
            (b"x-inference-time", _ms(took.computing)),
        ]
        if took.truncated:
            headers.append((b"x-truncated", b"%d" % took.truncated))
        return headers


def _ms(seconds: float) -> bytes:
    return b"%d" % round(1000 * seconds)
