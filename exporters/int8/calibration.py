"""What goes into linear layers on real text: the rows to look at, and the figures to keep of them.

What tunes never judges: texts take turns, one to calibrate on, one to judge by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import onnx

from bertonnx.errors import InputError, RowError
from bertonnx.exporters.beside import beside
from bertonnx.exporters.int8.texts import QUESTIONS, TEXTS
from bertonnx.exporters.onnxgraph.probe import open_values
from bertonnx.runtime.io.inputs import Input
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.rows import Array, Encoded, Piece, Row, feeds_of
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Message, Option

__all__ = [
    "LEAST_ROWS",
    "MOST_ROWS",
    "CalibrationRows",
    "Statistics",
    "calibration_pieces",
    "calibration_rows",
    "observe",
]

LEAST_ROWS, MOST_ROWS = 32, 1000
"""Different texts that a calibration file must hold, and at most how many of it are read.

With fewer, neither half is worth anything: one answer among 16 that differs is 6% already.
"""

_OBSERVED_ROWS = 256
_SAMPLE_BYTES, _LEAST_TOKENS = 1 << 30, 1024
"""Memory for whole vectors: of all tokens where they fit, else of evenly taken ones, but of so many at
least. The more there are, the better weights are rounded (`exporters.int8.rounding`). Figures are over
all."""

_LONGEST = 512

_BATCH_TOKENS = 256
"""Tokens that run at once, one text at least: what goes into every layer is held of all of them."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of one input of linear layers, over all tokens seen; float32.

    Attributes:
        largest: largest absolute number of each channel, (width,).
        mean: (width,).
        square: mean square, (width,).
        sample: some whole vectors, (tokens, width).
        per_token: whether there is one vector for every token of the input.
    """

    largest: Array
    mean: Array
    square: Array
    sample: Array
    per_token: bool = True

    def divided(self, factors: Array) -> Statistics:
        """Return the statistics of the same input with each channel divided by its factor."""
        return Statistics(
            self.largest / factors,
            self.mean / factors,
            self.square / factors**2,
            self.sample / factors,
            self.per_token,
        )


@dataclass(frozen=True)
class CalibrationRows:
    """Texts in two halves that share none, each in the order of the file.

    Attributes:
        tune: to calibrate on.
        judge: held out, to judge by.
    """

    tune: list[Row]
    judge: list[Row]


def calibration_rows(path: str | Path | None, *, pairs: bool, mask_token: str | None) -> CalibrationRows:
    """Return the texts to calibrate on and those to judge by.

    Args:
        path: the user's file, in any format of `runtime.io.readers`; None for our own texts.
        pairs: whether the model reads pairs (question and context, or two texts).
        mask_token: where texts must hold one: it takes the place of a word where a text has none.

    Raises:
        InputError: the file cannot be read, does not say which column holds the text, or holds fewer
            than `LEAST_ROWS` different texts that are not empty.
    """
    if path is None:
        # Halved before contexts are made of neighbours, so that no context reaches into the other half.
        tune, judge = (_own_rows(TEXTS[half::2], pairs=pairs) for half in (0, 1))
    else:
        rows = _read(Path(path), pairs=pairs)
        # In turns, so that of a sorted file both halves get the same mix.
        tune, judge = rows[0::2], rows[1::2]
    if mask_token is not None:
        tune, judge = ([Row(_masked(row.text, mask_token)) for row in half] for half in (tune, judge))
    return CalibrationRows(tune, judge)


def calibration_pieces(rows: Sequence[Row], tokenizer: TextTokenizer) -> list[Piece]:
    """Return what the model sees of at most 256 rows, evenly taken, each at most 512 tokens long.

    Raises:
        InputError: the model can read none of them.
    """
    places = np.linspace(0, len(rows) - 1, min(len(rows), _OBSERVED_ROWS)).round().astype(int)
    limited = tokenizer.encode([rows[place] for place in places])
    pieces = [item.pieces[0] for item in limited if isinstance(item, Encoded)]
    if not pieces:
        raise InputError(
            "the model can read none of the calibration texts, so INT8 cannot be tuned; give other texts "
            "with {file}",
            file=Option("calibration", "FILE"),
        )
    return [Piece(piece.ids[:_LONGEST], piece.type_ids[:_LONGEST], piece.encoding) for piece in pieces]


def observe(model: onnx.ModelProto, values: Sequence[str], pieces: Sequence[Piece]) -> dict[str, Statistics]:
    """Run the pieces and return the statistics of each value; shorter pieces come first.

    Args:
        model: the fp32 graph.
        values: names inside the graph, each float32 of shape (..., width).
        pieces: inputs, at least one.
    """
    # What comes after these values, such as logits of a whole vocabulary, need not be computed.
    session = open_values(model, values)
    tokens, totals = sum(len(piece.ids) for piece in pieces), dict[str, _Total]()

    def run(batch: Sequence[Piece]) -> list[Array]:
        return session.run(values, feeds_of(batch, session.inputs))

    for batch, done in beside(run, _alike(pieces)):
        arrays = done.result()
        if not totals:
            widths = [array.shape[-1] for array in arrays]
            keep = _every(tokens, sum(widths))
            totals = {value: _Total(keep, tokens, width) for value, width in zip(values, widths, strict=True)}
        for value, array in zip(values, arrays, strict=True):
            totals[value].add(
                array.reshape(-1, array.shape[-1]),
                per_token=array.shape[:-1] == (len(batch), len(batch[0].ids)),
            )
    return {value: total.statistics() for value, total in totals.items()}


def _alike(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces in batches of one length: padding would count as vectors of its own."""

    def length_of(piece: Piece) -> int:
        return len(piece.ids)

    for length, found in groupby(sorted(pieces, key=length_of), length_of):
        alike, most = list(found), max(1, _BATCH_TOKENS // max(1, length))
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def _every(tokens: int, width: int) -> int:
    """Return how many tokens there are for each whose vectors, of `width` float32 together, are kept."""
    return max(1, -(-tokens // max(_LEAST_TOKENS, _SAMPLE_BYTES // (4 * width))))


class _Total:
    """Adds up over batches; keeps every `keep`th vector of about as many as are expected."""

    def __init__(self, keep: int, expected: int, width: int) -> None:
        self._keep, self._count, self._per_token = keep, 0, True
        self._largest: Array = np.zeros(1, dtype=np.float32)
        self._sum = self._square = np.zeros(1)
        self._kept, self._sample = 0, np.empty((-(-expected // keep), width), dtype=np.float32)

    def add(self, vectors: Array, *, per_token: bool) -> None:
        self._per_token = self._per_token and per_token
        # The count goes on from text to text, or every text would give its first token.
        self._take(vectors[-self._count % self._keep :: self._keep])
        self._largest = np.maximum(self._largest, np.maximum(vectors.max(axis=0), -vectors.min(axis=0)))
        exact = vectors.astype(np.float64)
        self._sum = self._sum + exact.sum(axis=0)
        self._square = self._square + np.square(exact, out=exact).sum(axis=0)
        self._count += len(vectors)

    def _take(self, vectors: Array) -> None:
        end = self._kept + len(vectors)
        if end > len(self._sample):  # a value with more vectors than its text has tokens
            self._sample = np.concatenate([self._sample, np.empty_like(self._sample), vectors])
        self._sample[self._kept : end] = vectors
        self._kept = end

    def statistics(self) -> Statistics:
        """Return the figures."""
        return Statistics(
            self._largest,
            (self._sum / self._count).astype(np.float32),
            (self._square / self._count).astype(np.float32),
            self._sample[: self._kept],
            self._per_token,
        )


def _own_rows(texts: Sequence[str], *, pairs: bool) -> list[Row]:
    if not pairs:
        return [Row(text) for text in texts]
    # Every text has both roles once: a context of three texts, and half of the time a first text.
    contexts = [" ".join((*texts[i:], *texts[:i])[:3]) for i in range(len(texts))]
    firsts = [QUESTIONS[i // 2 % len(QUESTIONS)] if i % 2 else texts[i] for i in range(len(texts))]
    return [Row(first, context) for first, context in zip(firsts, contexts, strict=True)]


def _read(path: Path, *, pairs: bool) -> list[Row]:
    with _opened(path, pairs=pairs) as texts:
        # More than are used: empty ones, unreadable ones and repetitions fall away.
        found = list(islice(texts, 10 * MOST_ROWS))
    rows = [row for row in found if isinstance(row, Row)]
    rows = [row for row in rows if row.text.strip() and (not pairs or (row.pair or "").strip())]
    rows = list(dict.fromkeys(rows))[:MOST_ROWS]  # a text that comes twice would tune and judge
    if len(rows) < LEAST_ROWS:
        raise InputError(
            "the calibration file {path} holds {count} different {what} that are not empty{why}, and at "
            "least {least} are needed, half to tune and half to judge; give more (256 or so, of the kind "
            "that the model will read), or leave {option} out to use the texts that come with bertonnx",
            path=path,
            count=len(rows),
            what="pairs of texts" if pairs else "texts",
            why=_unreadable([row for row in found if isinstance(row, RowError)]),
            least=LEAST_ROWS,
            option=Option("calibration"),
        )
    return rows


def _unreadable(errors: Sequence[RowError]) -> Message:
    if not errors:
        return Message("")
    return Message(
        " ({count} rows cannot be read, the first because {why})", count=len(errors), why=errors[0]
    )


def _opened(path: Path, *, pairs: bool) -> Input:
    try:
        return open_rows(path, needs_pair=pairs)
    except InputError as error:
        # The reader says which column to name, which prediction takes and export does not.
        if "say" not in error.facts:
            raise
        mend = (
            "rename the columns to text and text_pair"
            if pairs
            else "rename the column to text, or write one text a line in a file that ends in .txt"
        )
        raise InputError(
            "{option}: {problem}; {mend}",
            option=Option("calibration"),
            problem=error.facts["problem"],
            mend=mend,
        ) from error


def _masked(text: str, mask_token: str) -> str:
    if mask_token in text:
        return text
    words = text.split(" ")
    if len(words) == 1:  # as in Chinese, where a word is a character or two
        return text[: len(text) // 2] + mask_token + text[len(text) // 2 + 1 :]
    words[len(words) // 2] = mask_token
    return " ".join(words)
