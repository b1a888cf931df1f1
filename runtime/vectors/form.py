"""The form in which embeddings are given: how many dimensions, of length 1 or not, in which encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.options import DecodeOptions, Encoding
from bertonnx.runtime.rows import Array
from bertonnx.runtime.vectors.encodings import DTYPES, encode, encoded_width, has_ranges
from bertonnx.runtime.vectors.similarity import unit
from bertonnx.wording import Call, Message, Option

__all__ = ["Form", "form_of"]


@dataclass(frozen=True, eq=False)
class Form:
    """What becomes of an embedding once the graph has put it out, as Sentence-Transformers' `encode` does it.

    First it is cut, then normalized, then encoded.

    Attributes:
        width: how many numbers the graph puts out; None where the file does not say.
        dimensions: how many of them are kept; None for all.
        normalize: whether those get length 1, whatever length they have.
        encoding: of the numbers.
        ranges: of int8 and uint8: float32 of shape (2, dimensions).
    """

    width: int | None
    dimensions: int | None = None
    normalize: bool = False
    encoding: Encoding = "float32"
    ranges: Array | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of an embedding's numbers."""
        return np.dtype(DTYPES[self.encoding])

    @property
    def length(self) -> int | None:
        """How many numbers an embedding has in the end; None where the file does not say its width."""
        kept = self.dimensions or self.width
        return None if kept is None else encoded_width(self.encoding, kept)

    def of(self, embedding: Array) -> npt.NDArray[Any]:
        """Return an embedding, float32 of shape (width,), in this form, of shape (length,).

        Raises:
            RowError: it holds NaN or infinity, which the encoding has no number for.
            UsageError: it has fewer numbers than are kept, or no multiple of 8 where bits are packed.
        """
        vectors = embedding[None]
        if self.dimensions is not None:
            _require_within(self.dimensions, len(embedding))
            vectors = vectors[:, : self.dimensions]
        if self.normalize:
            vectors = unit(vectors)
        if self.encoding != "float32" and not np.isfinite(vectors).all():
            raise RowError("runtime", "the model gave an embedding with NaN or infinity for this text")
        encoded: npt.NDArray[Any] = encode(vectors, self.encoding, self.ranges)[0]
        return encoded


def form_of(card: Card, options: DecodeOptions) -> Form:
    """Return the form that a user asks for.

    Raises:
        UsageError: the embeddings have fewer dimensions, or cannot be had without length 1, or there are no
            ranges for the encoding, or no multiple of 8 dimensions.
    """
    if options.normalize is False and card.normalize:
        raise UsageError(
            "{asked}: the graph in this file gives embeddings of length 1; leave it out, or export the "
            "checkpoint again with: {export}",
            asked=Option("normalize", False),
            export=Call("export", "SOURCE", normalize=False),
        )
    if options.dimensions is not None and card.width is not None:
        _require_within(options.dimensions, card.width)
    form = Form(
        card.width,
        dimensions=options.dimensions,
        normalize=bool(options.normalize),
        encoding=options.encoding,
        ranges=_ranges(card, options) if has_ranges(options.encoding) else None,
    )
    # Asked for now: that there is no such number of bytes shall not be found at the first text.
    _ = form.length
    return form


def _require_within(dimensions: int, width: int) -> None:
    if dimensions > width:
        raise UsageError(
            "{asked} is more than this model's embeddings have ({width}); give a number of at most {width}",
            asked=Option("dimensions", dimensions),
            width=width,
        )


def _ranges(card: Card, options: DecodeOptions) -> Array:
    kept = options.dimensions or card.width
    changed = bool(options.normalize) and not (card.normalize and kept == card.width)
    # A cut changes no number that is kept; length 1 changes all of them.
    whole = next((each for each in card.ranges if not each.normalized), None)
    own = next((each for each in card.ranges if each.normalized and each.dimensions == kept), None)
    found = own if changed else whole
    if found is None:
        raise _no_ranges(card, options, changed=changed and whole is not None)
    return np.array([found.least[:kept], found.largest[:kept]], dtype=np.float32)


def _no_ranges(card: Card, options: DecodeOptions, *, changed: bool) -> UsageError:
    made = ", ".join(str(each.dimensions) for each in card.ranges if each.normalized) or "none"
    return UsageError(
        "{asked} needs the range of each dimension, and this file has none{of}; make it with: {export}, or "
        "ask for {float} or {binary}",
        asked=Option("encoding", options.encoding),
        of=_changed(options, made) if changed else "",
        export=Call("export", "SOURCE", dimensions=options.dimensions if changed else None),
        float=Option("encoding", "float32"),
        binary=Option("encoding", "binary"),
    )


def _changed(options: DecodeOptions, made: str) -> Message:
    if options.dimensions is None:
        return Message(" of embeddings that are normalized (it has some of {made})", made=made)
    return Message(
        " of embeddings that are cut to {kept} and then normalized (it has some of {made})",
        kept=options.dimensions,
        made=made,
    )
