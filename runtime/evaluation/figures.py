"""What was measured of a model on labelled texts, as the card, a report and JSON keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bertonnx.wording import Message

__all__ = ["Bin", "Evaluation", "LabelFigures", "Mistake"]


@dataclass(frozen=True)
class LabelFigures:
    """Of one label.

    Attributes:
        precision: share of those predicted so that are so.
        recall: share of those that are so that were predicted so.
        f1: their harmonic mean.
        rows: how many are so (of entities: how many entities).
    """

    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True)
class Bin:
    """Rows whose score lies in one tenth of 0 to 1: how sure the model was, and how often it was right.

    Attributes:
        rows: how many.
        confidence: their mean score.
        accuracy: share of them that is right.
    """

    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrong.

    Attributes:
        row: its place in the data that it was read from, from 0.
        text: the text.
        label: what it is.
        predicted: what the model says.
        score: how sure the model was; of a regression by how much it is wrong.
    """

    row: int
    text: str
    label: str
    predicted: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled texts.

    Attributes:
        kind: a `problem_type` of transformers, or "entities".
        rows: how many texts.
        scores: name -> figure, the one that counts first: of single labels "accuracy" and "macro_f1"; of
            several "macro_f1", "micro_f1" and "exact"; of numbers "pearson", "spearman", "mae" and "rmse"; of
            entities "f1", "precision", "recall" and "macro_f1".
        intervals: name -> bounds of its 95% confidence interval.
        labels: label -> its figures.
        confusion: of single labels, (actual, predicted) -> rows, in the order of `labels`.
        bins: of single labels: how far scores are what they promise, in tenths.
        ece: expected calibration error: mean |confidence - accuracy| over all rows.
        baselines: name -> figures as `scores` of something simple on the same rows.
        better: name of a baseline -> whether the model is better than it, beyond chance (95%).
        mistakes: the worst, the surest first.
        amounts: of a regression, what is and what is predicted, of each row, or of that many rows evenly
            spread.
        messages: what was taken to be meant when the labels were read, and what was left out.
        min_f1: the least macro F1 (of a regression: Pearson correlation) that was asked for.
    """

    kind: str
    rows: int
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    labels: Mapping[str, LabelFigures] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    bins: tuple[Bin, ...] = ()
    ece: float | None = None
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    better: Mapping[str, bool] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()
    amounts: tuple[tuple[float, float], ...] = ()
    messages: tuple[Message, ...] = ()
    min_f1: float | None = None

    @property
    def enough(self) -> bool:
        """Whether it is as good as was asked."""
        return self.min_f1 is None or self.scores[self.judged] >= self.min_f1

    @property
    def judged(self) -> str:
        """The figure that `min_f1` is about."""
        return "macro_f1" if "macro_f1" in self.scores else self.main

    @property
    def main(self) -> str:
        """The figure that counts first."""
        return next(iter(self.scores))

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {**asdict(replace(self, messages=())), "messages": [str(message) for message in self.messages]}
