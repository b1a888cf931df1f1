"""Figures of predictions against labels; the metrics are scikit-learn's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.evaluation.figures import Bin, LabelFigures
from bertonnx.runtime.evaluation.sklearn_seam import require_sklearn
from bertonnx.runtime.evaluation.tagged import Span

__all__ = [
    "calibration",
    "confusion",
    "entity_labels",
    "entity_scores",
    "interval",
    "label_figures",
    "multi_scores",
    "number_scores",
    "single_scores",
]

Numbers = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Score = Callable[[Places], float]
"""A figure of some rows, by their places."""

_RESAMPLES = 1000
_BINS = 10


def single_scores(actual: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Return accuracy and macro F1 (over the labels that are there, actual or predicted)."""
    metrics = require_sklearn().metrics
    return {
        "accuracy": float(metrics.accuracy_score(actual, predicted)),
        "macro_f1": float(metrics.f1_score(actual, predicted, average="macro", zero_division=0.0)),
    }


def multi_scores(actual: Truths, predicted: Truths) -> dict[str, float]:
    """Return macro and micro F1, and the share of rows with exactly the right labels.

    Args:
        actual: which labels hold, of shape (rows, labels).
        predicted: the same shape.
    """
    metrics = require_sklearn().metrics
    return {
        "macro_f1": float(metrics.f1_score(actual, predicted, average="macro", zero_division=0.0)),
        "micro_f1": float(metrics.f1_score(actual, predicted, average="micro", zero_division=0.0)),
        "exact": float(np.mean((actual == predicted).all(axis=1))),
    }


def number_scores(actual: Numbers, predicted: Numbers) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation (else 0), and errors in the labels' units."""
    gaps = predicted - actual
    return {
        "pearson": _correlation(actual, predicted),
        "spearman": _correlation(_ranks(actual), _ranks(predicted)),
        "mae": float(np.abs(gaps).mean()),
        "rmse": float(np.sqrt((gaps**2).mean())),
    }


def entity_scores(actual: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, float]:
    """Return F1, precision and recall over all entities, as CoNLL-2003 counts, and the types' mean F1.

    An entity is right where its start, end and type are.
    """
    labels = entity_labels(actual, predicted)
    right = sum(len(set(a) & set(b)) for a, b in zip(actual, predicted, strict=True))
    f1, precision, recall = _f1(right, sum(map(len, predicted)), sum(map(len, actual)))
    macro = float(np.mean([item.f1 for item in labels.values()])) if labels else 0.0
    return {"f1": f1, "precision": precision, "recall": recall, "macro_f1": macro}


def entity_labels(
    actual: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]
) -> dict[str, LabelFigures]:
    """Return the figures of each type of entity."""
    # Also those that are only said: a type made up costs precision.
    names = sorted({span.label for spans in (*actual, *predicted) for span in spans})
    found = {}
    for name in names:
        pairs = [
            ({span for span in a if span.label == name}, {span for span in b if span.label == name})
            for a, b in zip(actual, predicted, strict=True)
        ]
        right, said, there = (
            sum(len(a & b) for a, b in pairs),
            sum(len(b) for _, b in pairs),
            sum(len(a) for a, _ in pairs),
        )
        f1, precision, recall = _f1(right, said, there)
        found[name] = LabelFigures(precision, recall, f1, there)
    return found


def label_figures(actual: Any, predicted: Any, names: Sequence[str]) -> dict[str, LabelFigures]:
    """Return the figures of each label.

    Args:
        actual: labels, or which of them hold, of shape (rows, labels).
        predicted: the same.
        names: the labels; of single labels also which figures are wanted.
    """
    metrics = require_sklearn().metrics
    # Of several labels scikit-learn names columns, of single ones their values.
    labels = list(range(len(names))) if isinstance(actual, np.ndarray) else list(names)
    values = metrics.precision_recall_fscore_support(actual, predicted, labels=labels, zero_division=0.0)
    return {
        name: LabelFigures(float(precision), float(recall), float(f1), int(rows))
        for name, precision, recall, f1, rows in zip(names, *values, strict=True)
    }


def confusion(
    actual: Sequence[str], predicted: Sequence[str], names: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Return how many rows of each label (first axis) were predicted as each (second)."""
    table = require_sklearn().metrics.confusion_matrix(actual, predicted, labels=list(names))
    return tuple(tuple(int(count) for count in row) for row in table)


def calibration(confidence: Numbers, right: Truths) -> tuple[tuple[Bin, ...], float]:
    """Return tenths of 0 to 1 with what scores promise and keep, and the expected calibration error.

    The error is the mean over all rows of the gap of their tenth (Guo et al. 2017, equation 3).

    Args:
        confidence: the predicted label's score, of shape (rows,).
        right: whether that label is right, of shape (rows,).
    """
    # A score of 1 belongs to the last tenth, and to none of its own.
    tenths = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins, error = [], 0.0
    for tenth in range(_BINS):
        held = tenths == tenth
        rows = int(held.sum())
        mean, share = (float(confidence[held].mean()), float(right[held].mean())) if rows else (0.0, 0.0)
        bins.append(Bin(rows, mean, share))
        error += rows * abs(mean - share)
    return tuple(bins), error / max(len(confidence), 1)


def interval(score: Score, rows: int, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95% confidence interval of a figure, by drawing the rows again (percentile bootstrap).

    Args:
        score: the figure of the rows at some places.
        rows: how many there are.
        seed: of what is drawn.
    """
    # Of its own, so that nothing else that is drawn changes it.
    draws = np.random.default_rng(seed)
    with warnings.catch_warnings():
        # A draw may lack a label, of which scikit-learn then warns.
        warnings.simplefilter("ignore")
        values = [score(draws.integers(0, rows, rows)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _f1(right: int, said: int, there: int) -> tuple[float, float, float]:
    precision = right / said if said else 0.0
    recall = right / there if there else 0.0
    return (2 * right / (said + there) if said + there else 0.0), precision, recall


def _correlation(first: Numbers, second: Numbers) -> float:
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Numbers) -> Numbers:
    """Return ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Numbers = (last - (counts + 1) / 2)[inverse]
    return ranks
