"""Predictions beside labels, of each kind: what they score, and how sure that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from bertonnx.runtime.evaluation.figures import Evaluation, Mistake
from bertonnx.runtime.evaluation.metrics import (
    Numbers,
    Places,
    Truths,
    calibration,
    confusion,
    entity_labels,
    entity_scores,
    interval,
    label_figures,
    multi_scores,
    number_scores,
    single_scores,
)
from bertonnx.runtime.evaluation.tagged import Span

__all__ = ["Amounts", "Entities", "Outcome", "Several", "Single", "evaluated"]

_MISTAKES = 20
_DOTS = 1000
_CHARACTERS = 300
"""Of a mistake's text that are kept."""


class Outcome(ABC):
    """Labels of some texts and what was predicted for them.

    Attributes:
        kind: as `Evaluation.kind`.
    """

    kind: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Return the figures of all rows, the one that counts first."""

    @abstractmethod
    def main(self, places: Places) -> float:
        """Return the figure that counts, of the rows at some places.

        Quick, for the bootstrap asks it a thousand times.
        """

    @abstractmethod
    def filled(self, evaluation: Evaluation, texts: Sequence[str]) -> Evaluation:
        """Return an evaluation with what there is besides for this kind: labels, mistakes and the like."""


@dataclass(frozen=True)
class Single(Outcome):
    """One label a text.

    Attributes:
        actual: the labels.
        predicted: as many.
        confidence: the predicted labels' scores, float64 of shape (rows,); None where there are none.
        names: the labels of the model, in its order.
    """

    actual: Sequence[str]
    predicted: Sequence[str]
    confidence: Numbers | None = None
    names: Sequence[str] = ()
    kind: str = "single_label_classification"

    def __len__(self) -> int:
        return len(self.actual)

    def scores(self) -> dict[str, float]:
        """Return accuracy and macro F1."""
        return single_scores(self.actual, self.predicted)

    @cached_property
    def right(self) -> Truths:
        """Which rows are predicted right, of shape (rows,)."""
        return np.array([a == b for a, b in zip(self.actual, self.predicted, strict=True)], dtype=np.bool_)

    def main(self, places: Places) -> float:
        """Return the accuracy."""
        return float(self.right[places].mean())

    def filled(self, evaluation: Evaluation, texts: Sequence[str]) -> Evaluation:
        """Add labels' figures, the confusion, calibration and mistakes."""
        known = set(self.names)
        names = [*self.names, *sorted({*self.actual, *self.predicted} - known)]
        right = self.right
        confidence = np.ones(len(self)) if self.confidence is None else self.confidence
        bins, error = calibration(confidence, right) if self.confidence is not None else ((), None)
        # The surest first: there the model, or the label, is most wrong.
        wrong = sorted(np.flatnonzero(~right).tolist(), key=lambda place: -confidence[place])
        mistakes = [
            Mistake(
                place,
                texts[place][:_CHARACTERS],
                self.actual[place],
                self.predicted[place],
                float(confidence[place]),
            )
            for place in wrong[:_MISTAKES]
        ]
        return replace(
            evaluation,
            labels=label_figures(self.actual, self.predicted, names),
            confusion=confusion(self.actual, self.predicted, names),
            bins=bins,
            ece=error,
            mistakes=tuple(mistakes),
        )


@dataclass(frozen=True)
class Several(Outcome):
    """Any number of labels a text.

    Attributes:
        actual: which hold, of shape (rows, labels).
        predicted: the same shape.
        names: the labels.
        confidence: of each label its score, float64 of shape (rows, labels).
    """

    actual: Truths
    predicted: Truths
    names: Sequence[str]
    confidence: Numbers
    kind: str = "multi_label_classification"

    def __len__(self) -> int:
        return len(self.actual)

    def scores(self) -> dict[str, float]:
        """Return macro F1, micro F1 and the share that is exactly right."""
        return multi_scores(self.actual, self.predicted)

    def main(self, places: Places) -> float:
        """Return the macro F1."""
        actual, predicted = self.actual[places], self.predicted[places]
        both = actual.sum(axis=0) + predicted.sum(axis=0)
        right = (actual & predicted).sum(axis=0)
        return float(np.divide(2 * right, both, out=np.zeros(len(both)), where=both > 0).mean())

    def filled(self, evaluation: Evaluation, texts: Sequence[str]) -> Evaluation:
        """Add labels' figures and mistakes."""
        wrong = self.actual != self.predicted
        sure = np.where(self.predicted, self.confidence, 1 - self.confidence)
        worst = np.where(wrong, sure, 0).max(axis=1, initial=0.0)
        places = [place for place in np.argsort(-worst, kind="stable").tolist() if wrong[place].any()]
        mistakes = [
            Mistake(
                place,
                texts[place][:_CHARACTERS],
                self._named(self.actual[place]),
                self._named(self.predicted[place]),
                float(worst[place]),
            )
            for place in places[:_MISTAKES]
        ]
        figures = label_figures(self.actual, self.predicted, self.names)
        return replace(evaluation, labels=figures, mistakes=tuple(mistakes))

    def _named(self, held: Truths) -> str:
        return ", ".join(name for name, holds in zip(self.names, held, strict=True) if holds)


@dataclass(frozen=True)
class Amounts(Outcome):
    """A number a text: float64 arrays of shape (rows,)."""

    actual: Numbers
    predicted: Numbers
    kind: str = "regression"

    def __len__(self) -> int:
        return len(self.actual)

    def scores(self) -> dict[str, float]:
        """Return correlations and errors."""
        return number_scores(self.actual, self.predicted)

    def main(self, places: Places) -> float:
        """Return Pearson's correlation."""
        return number_scores(self.actual[places], self.predicted[places])["pearson"]

    def filled(self, evaluation: Evaluation, texts: Sequence[str]) -> Evaluation:
        """Add the largest errors, and rows to draw."""
        gaps = np.abs(self.predicted - self.actual)
        mistakes = [
            Mistake(
                place,
                texts[place][:_CHARACTERS],
                f"{self.actual[place]:g}",
                f"{self.predicted[place]:.4g}",
                float(gaps[place]),
            )
            for place in np.argsort(-gaps, kind="stable").tolist()[:_MISTAKES]
        ]
        # More dots than these make no other picture, and a report that is too large.
        shown = np.unique(np.linspace(0, len(self) - 1, min(len(self), _DOTS)).round().astype(int))
        amounts = zip(self.actual[shown].tolist(), self.predicted[shown].tolist(), strict=True)
        return replace(evaluation, mistakes=tuple(mistakes), amounts=tuple(amounts))


@dataclass(frozen=True)
class Entities(Outcome):
    """Any number of entities a text."""

    actual: Sequence[Sequence[Span]]
    predicted: Sequence[Sequence[Span]]
    kind: str = "entities"
    _counts: Numbers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = [
            (len(set(a) & set(b)), len(a) + len(b)) for a, b in zip(self.actual, self.predicted, strict=True)
        ]
        object.__setattr__(self, "_counts", np.array(counts, dtype=np.float64).reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.actual)

    def scores(self) -> dict[str, float]:
        """Return F1, precision, recall and macro F1."""
        return entity_scores(self.actual, self.predicted)

    def main(self, places: Places) -> float:
        """Return the F1 over all entities."""
        right, both = self._counts[places].sum(axis=0)
        return float(2 * right / both) if both else 0.0

    def filled(self, evaluation: Evaluation, texts: Sequence[str]) -> Evaluation:
        """Add the types' figures, and texts with entities that are missing, wrong or made up."""
        wrong = [
            place
            for place, (a, b) in enumerate(zip(self.actual, self.predicted, strict=True))
            if set(a) != set(b)
        ]
        wrong.sort(key=lambda place: -len(set(self.actual[place]) ^ set(self.predicted[place])))
        mistakes = [
            Mistake(
                place,
                texts[place][:_CHARACTERS],
                _marked(texts[place], self.actual[place]),
                _marked(texts[place], self.predicted[place]),
                float(len(set(self.actual[place]) ^ set(self.predicted[place]))),
            )
            for place in wrong[:_MISTAKES]
        ]
        figures = entity_labels(self.actual, self.predicted)
        return replace(evaluation, labels=figures, mistakes=tuple(mistakes))


def evaluated(
    outcome: Outcome,
    texts: Sequence[str],
    baselines: Mapping[str, Outcome] | None = None,
    rows: Sequence[int] = (),
) -> Evaluation:
    """Return the figures of an outcome, and of simple things on the same rows.

    Args:
        outcome: of the model.
        texts: the texts, for the mistakes.
        baselines: name -> outcome of the same rows.
        rows: of each text its row in the data, from 0; empty where they are all there.
    """
    scores = outcome.scores()
    baselines = baselines or {}
    count = len(outcome)
    base = Evaluation(
        kind=outcome.kind,
        rows=count,
        scores=scores,
        intervals={next(iter(scores)): interval(outcome.main, count)},
        baselines={name: other.scores() for name, other in baselines.items()},
        better={name: _is_better(outcome, other) for name, other in baselines.items()},
    )
    found = outcome.filled(base, texts)
    if not rows:
        return found
    # Who looks one up looks in the data, where rows that were left out count.
    return replace(found, mistakes=tuple(replace(one, row=rows[one.row]) for one in found.mistakes))


def _is_better(outcome: Outcome, other: Outcome) -> bool:
    """Return whether an outcome is better beyond chance: the gap's interval on the same rows is over 0."""
    # On the same rows at once: the two figures move together, and their own intervals would hide the gap.
    low, _ = interval(partial(_gap, outcome, other), len(outcome))
    return low > 0


def _gap(outcome: Outcome, other: Outcome, places: Places) -> float:
    return outcome.main(places) - other.main(places)


def _marked(text: str, spans: Sequence[Span]) -> str:
    return ", ".join(f"{text[span.start : span.end]} ({span.label})" for span in spans)
