"""Scores that can be taken at their word: a temperature for logits, fitted on labelled texts.

A temperature divides all logits before softmax or sigmoid (Guo et al. 2017, "On Calibration of Modern
Neural Networks"): the best label stays the best, and its score becomes what it is worth. The one that makes
the labels of a file most likely is found on PyTorch's logits, before the graph is made: graph and reference
have it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import InputError, UsageError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.options import require_calibrating
from bertonnx.exporters.verify.parity import fed, reference_outputs
from bertonnx.models.activations import ACTIVATIONS
from bertonnx.models.card import Card
from bertonnx.models.figures import ScoreFigures
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.evaluation.evaluate import aligned
from bertonnx.runtime.evaluation.labelled import Columns, Labelled, read_labelled
from bertonnx.runtime.evaluation.metrics import calibration
from bertonnx.runtime.rows import Encoded, Piece, Row, feeds_of
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Message, Option

__all__ = ["Scored", "calibrated", "fitted_temperature"]

Numbers = npt.NDArray[np.float64]

LEAST_ROWS = 20
"""Fewer say nothing: the error of a tenth of the scores would be that of two texts."""

_AT_ONCE = 32
"""Texts of one length that PyTorch reads together."""

_LEAST, _MOST = 0.01, 100.0
"""A temperature beyond these is none: scores would all be 1, or all alike."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Labelled texts as a model reads them.

    Attributes:
        pieces: the texts.
        truth: 1 for the labels that are right, of shape (texts, labels).
        temperature: what was found for them.
        classes: whether scores add up to 1 over the labels.
    """

    pieces: Sequence[Piece]
    truth: Numbers
    temperature: float
    classes: bool

    def figures(self, session: Session) -> ScoreFigures:
        """Return how far scores are from what they promise, as a finished graph gives them."""
        logits = np.empty_like(self.truth)
        scores = np.empty_like(self.truth)
        for places, batch in _batches(self.pieces):
            found = session.run(("logits", "scores"), feeds_of(batch, session.inputs))
            logits[places], scores[places] = found
        before = _softmax(logits) if self.classes else _sigmoid(logits)
        return ScoreFigures(
            temperature=self.temperature,
            rows=len(self.truth),
            ece_before=self._error(before),
            ece_after=self._error(scores),
            nll_before=_surprise(logits, self.truth, 1.0, classes=self.classes),
            nll_after=_surprise(logits, self.truth, self.temperature, classes=self.classes),
        )

    def _error(self, scores: Numbers) -> float:
        """Return the expected calibration error: of the best label, or of each label that may be there."""
        if self.classes:
            best = scores.argmax(axis=1)
            rows = np.arange(len(best))
            return calibration(scores[rows, best], self.truth[rows, best] > 0)[1]
        return calibration(scores.reshape(-1), self.truth.reshape(-1) > 0)[1]


def calibrated(checkpoint: Checkpoint, path: Path) -> tuple[Checkpoint, Scored]:
    """Return a checkpoint with the temperature that suits labelled texts, and these texts.

    Raises:
        UsageError: its scores are no probabilities of labels.
        InputError: the file cannot be read, has a label that the model does not know, too few rows, only one
            label, or labels for which no temperature is best.
    """
    _require_probabilities(checkpoint)
    labelled = _read(checkpoint, path)
    # All that reading a text needs of it.
    card = Card(
        checkpoint.task,
        checkpoint.family,
        checkpoint.max_length,
        inputs=(),
        outputs=(),
        labels=checkpoint.labels,
        problem_type=checkpoint.problem_type,
        pairs=checkpoint.pairs,
        truncation_side=checkpoint.truncation_side,
    )
    names, messages = aligned(labelled.names, card, labelled.path)
    pieces = _pieces(TextTokenizer(checkpoint.tokenizer_text, card), labelled)
    truth = _truth(labelled, names, checkpoint.labels)
    logits = np.empty_like(truth)
    for places, batch in _batches(pieces):
        logits[places] = reference_outputs(checkpoint, feeds_of(batch, fed(checkpoint)))["logits"]
    classes = ACTIVATIONS[checkpoint.activation].over_classes
    temperature = fitted_temperature(logits, truth, classes=classes, path=labelled.path)
    left_out = [
        Message("{count} rows of {path} {why} were left out", count=count, path=labelled.path, why=why)
        for why, count in labelled.left_out.items()
    ]
    notes = (*checkpoint.notes, *labelled.messages, *messages, *left_out)
    return replace(checkpoint, temperature=temperature, notes=notes), Scored(
        pieces, truth, temperature, classes
    )


def fitted_temperature(logits: Numbers, truth: Numbers, *, classes: bool, path: str) -> float:
    """Return the temperature that makes labels most likely, as float32 holds it.

    Args:
        logits: of shape (texts, labels).
        truth: 1 for the labels that are right, of the same shape.
        classes: whether softmax follows; else sigmoid.
        path: of the file, for errors.

    Raises:
        InputError: none is best, for the labels are all right, or no better than chance.
    """

    def slope(sharpness: float) -> float:
        scores = _softmax(sharpness * logits) if classes else _sigmoid(sharpness * logits)
        return float(((scores - truth) * logits).sum(axis=1).mean())

    # The likelihood is concave in 1 / temperature, so that its slope has one zero, if any.
    low, high = 1 / _MOST, 1 / _LEAST
    if slope(high) <= 0:
        raise InputError(
            "the model is right about every row of {path}, so that no temperature is best: all scores would "
            "become 1; give texts that it was not trained on, more of them or harder ones",
            path=path,
        )
    if slope(low) >= 0:
        raise InputError(
            "the model's scores say no more of the labels of {path} than chance, so that no temperature is "
            "best; look whether these are the texts and labels that it was trained for",
            path=path,
        )
    for _ in range(200):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(np.float32(1 / np.sqrt(low * high)))


def _require_probabilities(checkpoint: Checkpoint) -> None:
    option = Option("calibrate_scores")
    require_calibrating(task_named(checkpoint.task))
    if checkpoint.problem_type == "regression":
        raise UsageError(
            "{option} is for probabilities of labels, and this model gives a number (regression); leave "
            "it out",
            option=option,
        )
    if ACTIVATIONS[checkpoint.activation].scale != "probability":
        raise UsageError(
            "{option} is for probabilities, and this model's scores are made by {activation}; leave it out, "
            "or add {softmax}",
            option=option,
            activation=checkpoint.activation,
            softmax=Option("activation", "softmax"),
        )


def _read(checkpoint: Checkpoint, path: Path) -> Labelled:
    columns = Columns(problem_type=checkpoint.problem_type)
    try:
        labelled = read_labelled(path, columns, needs_pair=bool(checkpoint.pairs))
    except InputError as error:
        if "say" not in error.facts:
            raise
        # An export has no options for columns.
        raise InputError(
            "{path}: nothing says which columns hold texts and labels (they are: {columns}); call them "
            "text and label, and second texts pair",
            path=path,
            columns=error.facts.get("columns", ""),
        ) from error
    if len(labelled) < LEAST_ROWS:
        raise InputError(
            "{path} has {rows} labelled rows, and a temperature needs at least {least}; some hundreds are "
            "better",
            path=path,
            rows=len(labelled),
            least=LEAST_ROWS,
        )
    if len({tuple(sorted(one)) if isinstance(one, tuple) else one for one in labelled.labels}) < 2:
        raise InputError(
            "all rows of {path} have the same label, which says nothing of scores; give rows of each label",
            path=path,
        )
    return labelled


def _pieces(tokenizer: TextTokenizer, labelled: Labelled) -> list[Piece]:
    pairs: Sequence[str | None] = labelled.pairs or [None] * len(labelled)
    rows = [Row(text, pair) for text, pair in zip(labelled.texts, pairs, strict=True)]
    pieces = []
    for encoded in tokenizer.encode(rows):
        if not isinstance(encoded, Encoded):
            raise InputError("{path}: {why}", path=labelled.path, why=encoded.message)
        pieces.append(encoded.pieces[0])
    return pieces


def _truth(labelled: Labelled, names: dict[str, str], labels: Sequence[str]) -> Numbers:
    truth = np.zeros((len(labelled), len(labels)))
    place = {name: number for number, name in enumerate(labels)}
    for row, held in zip(truth, labelled.labels, strict=True):
        for label in held if isinstance(held, tuple) else (held,):
            row[place[names[label]]] = 1.0
    return truth


def _batches(pieces: Sequence[Piece]) -> Iterator[tuple[list[int], list[Piece]]]:
    """Yield texts of one length, with their places."""
    lengths: dict[int, list[int]] = defaultdict(list)
    for place, piece in enumerate(pieces):
        lengths[len(piece.ids)].append(place)
    for places in lengths.values():
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            yield some, [pieces[place] for place in some]


def _softmax(logits: Numbers) -> Numbers:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Numbers = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _sigmoid(logits: Numbers) -> Numbers:
    # Neither exponential can overflow: each is of a number below 0.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def _surprise(logits: Any, truth: Numbers, temperature: float, *, classes: bool) -> float:
    """Return the mean negative log likelihood of the labels; of several, of each yes and no."""
    scaled = logits / temperature
    if classes:
        top = scaled.max(axis=1)
        total = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float((total - (truth * scaled).sum(axis=1)).mean())
    # log(1 + exp(x)) without overflow.
    return float((np.logaddexp(0.0, scaled) - truth * scaled).mean())
