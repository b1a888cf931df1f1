"""One batch through the model: what is kept of it, and what becomes of one that fails."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from bertonnx.errors import BertonnxError, InferenceError, ModelFileError, OutOfMemoryError, RowError
from bertonnx.runtime.engine.batches import Batch, Chunk, Slot
from bertonnx.runtime.rows import by_text
from bertonnx.runtime.session.session import RaggedSession, Session
from bertonnx.wording import Call, Option

__all__ = ["Parts", "Runner", "closed"]

Parts = Sequence[list[Slot]]
"""All slots of a batch in smaller batches, or in one as before; empty where nothing is left to try."""


def closed() -> BertonnxError:
    """Return the error of who asks a closed model."""
    return BertonnxError("this model was closed; open it again with {load}", load=Call("load"))


class Runner:
    """Runs batches through a session. Safe to use from several threads at once.

    Attributes:
        out_of_memory: whether memory ran out. From then on, batches must run one at a time.
        most_tokens: more than these did not fit into memory.

    Args:
        session: the model.
        outputs: dimensions of outputs by their names, as `Task.outputs`.
        sizes: how large the dimensions are that do not depend on texts.
    """

    def __init__(
        self,
        session: Session,
        outputs: Mapping[str, Sequence[str]] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self._dimensions = outputs or {}
        self._sizes = sizes or {}
        self._session: Session | None = session
        self._provider = session.provider
        self.out_of_memory = False
        self.most_tokens = sys.maxsize

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of what happened so far: that memory ran out, and what was done."""
        if not self.out_of_memory:
            return ()
        size = f", of at most {self.most_tokens} tokens" if self.most_tokens < sys.maxsize else ""
        return (f"memory ran out on {self._provider}, so batches now run one at a time{size}",)

    def takes_together(self, batch: Batch) -> bool:
        """Return whether a batch may run together with others of other lengths, with the same results."""
        tokens, fetch, masked = batch.kind
        session = self._session
        if not isinstance(session, RaggedSession) or not session.ragged or self.out_of_memory:
            return False
        if masked or batch.apart or not tokens:
            return False
        return self._dimensions.keys() >= set(fetch)

    def run(self, batch: Batch, *, interruptible: bool) -> Parts:
        """Run a batch, and return what of it is to be tried again, and in which parts.

        Args:
            batch: the batch.
            interruptible: whether interrupts go to who calls; else they end the chunks of the batch, as
                faults of bertonnx do.
        """
        try:
            self._compute(batch)
        except OutOfMemoryError as error:
            return self._smaller(batch, error)
        except InferenceError as error:
            # One text alone may be what fails: the others must not suffer for it.
            return [[slot] for slot in batch.slots] if len(batch.slots) > 1 else _failed(batch, error)
        except BaseException as error:
            if interruptible and not isinstance(error, Exception):
                raise
            return _faulty(batch, error)
        return ()

    def release(self) -> None:
        """Let the session go, once what runs has ended."""
        self._session = None

    def _compute(self, batch: Batch) -> None:
        fetch = batch.kind[1]
        session = self._session
        if session is None:
            raise closed()
        feeds = batch.feeds(session.inputs)
        if batch.lengths and isinstance(session, RaggedSession):
            outputs = session.run_together(fetch, feeds, batch.lengths)
        else:
            outputs = session.run(fetch, feeds, alone=batch.alone)
        for name, array in zip(fetch, outputs, strict=True):
            self._require_shape(name, array.shape, batch)
        # A mean over no token is 0 by 0; where the sum is that of nothing, there is an answer.
        if not batch.tokens and not all(np.isfinite(array).all() for array in outputs):
            raise InferenceError("its outputs are no numbers")
        texts = {
            name: by_text(array, self._dimensions[name], batch.lengths) if batch.lengths else array
            for name, array in zip(fetch, outputs, strict=True)
        }
        for i, slot in enumerate(batch.slots):
            named = {name: of_texts[i] for name, of_texts in texts.items()}
            try:
                slot.kept = slot.chunk.caller.decoder.keep(slot.piece, named)
            except Exception as error:  # a fault, which is of this caller alone
                slot.chunk.error = error

    def _require_shape(self, name: str, shape: tuple[int, ...], batch: Batch) -> None:
        """Refuse what a damaged file puts out, rather than take some of its numbers for others."""
        dimensions = self._dimensions.get(name, ("batch", *(["any"] * (len(shape) - 1))))
        one_row = batch.lengths and "tokens" in dimensions
        texts, tokens = (1, batch.tokens) if one_row else (len(batch.slots), batch.kind[0])
        sizes = {"batch": texts, "tokens": tokens, **self._sizes}
        wanted = [sizes.get(dimension, size) for dimension, size in zip(dimensions, shape, strict=False)]
        if len(dimensions) != len(shape) or wanted != list(shape):
            raise ModelFileError(
                "the model puts out {name} of shape {shape}, and {wanted} is expected; the file is damaged, "
                "or its card is of another model: export the checkpoint again",
                name=name,
                shape=shape,
                wanted=tuple(sizes.get(dimension, dimension) for dimension in dimensions),
            )

    def _smaller(self, batch: Batch, error: OutOfMemoryError) -> Parts:
        """Return what a batch that found no memory is tried again as."""
        self.out_of_memory = True
        if not batch.exclusive or batch.lengths:
            return [batch.slots]
        half = len(batch.slots) // 2
        if not half:
            return _failed(batch, error)
        self.most_tokens = min(half * batch.kind[0], self.most_tokens)
        return [batch.slots[:half], batch.slots[half:]]


def _faulty(batch: Batch, error: BaseException) -> Parts:
    """Return a batch's slots by their chunks, or end the chunk where there is but one."""
    by_chunk: dict[Chunk, list[Slot]] = {}
    for slot in batch.slots:
        by_chunk.setdefault(slot.chunk, []).append(slot)
    if len(by_chunk) > 1:
        return list(by_chunk.values())
    for chunk in by_chunk:
        chunk.error = error
    return ()


def _failed(batch: Batch, error: BertonnxError) -> Parts:
    """Note that a batch's one piece failed; nothing is left to try."""
    slot = batch.slots[0]
    said = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError):
        slot.kept = RowError(
            "runtime",
            "there was not memory enough for this text alone ({tokens} tokens); a smaller {limit}, or "
            "another provider, may do. ONNX Runtime said: {said}",
            tokens=batch.tokens,
            limit=Option("max_length"),
            said=said,
        )
    elif not batch.tokens:
        slot.kept = RowError(
            "no-tokens",
            "the tokenizer makes no token of this text and puts none around it, so the model has nothing to "
            "read; give a text with words, or leave the row out",
        )
    else:
        slot.kept = RowError("runtime", "the model failed on this text: {said}", said=said)
    return ()
