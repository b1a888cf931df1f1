"""Linear heads on vectors that do not change, fitted by scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.training.options import TrainOptions
from bertonnx.runtime.evaluation.labelled import MULTI, REGRESSION, SINGLE, Labelled
from bertonnx.runtime.rows import Array

__all__ = ["Head", "quietly", "text_head", "token_head"]

_STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of regularization that are tried, on vectors of mean square length 1."""

_FOLDS = 5
_MOST_TOKENS = 30_000
"""Tokens that an entity head is fitted on at most: more take minutes and change little."""

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """A linear layer on vectors.

    Attributes:
        weight: float32 of shape (labels, width).
        bias: float32 of shape (labels,).
        labels: the labels, in the order of the rows of `weight`.
        kind: a `problem_type` of transformers; of entities that of single labels.
        activation: name of a row of `models.activations`: what makes scores of logits.
        strength: the inverse strength of regularization that was chosen.
    """

    weight: Array
    bias: Array
    labels: tuple[str, ...]
    kind: str
    activation: str
    strength: float

    def logits(self, vectors: Array) -> Array:
        """Return the logits of vectors, float32 of shape (rows, labels)."""
        found: Array = vectors @ self.weight.T + self.bias
        return found


def text_head(vectors: Array, data: Labelled, options: TrainOptions) -> Head:
    """Fit a head of whole texts.

    Single labels by multinomial logistic regression, several by one logistic regression each, numbers by
    ridge regression. How strongly it is regularized is chosen by cross-validation on these rows.

    Args:
        vectors: float32 of shape (rows, width).
        data: as many labels.
        options: class weights and seed.
    """
    if data.kind == REGRESSION:
        return _ridge(vectors, np.array(data.labels, dtype=np.float64))
    if data.kind == MULTI:
        return _several(vectors, data, options)
    weight, bias, strength, classes = _logistic(vectors, np.array(data.labels), options)
    order = [classes.index(name) for name in data.names]
    return Head(weight[order], bias[order], data.names, SINGLE, "softmax", strength)


def token_head(vectors: Array, tags: npt.NDArray[np.str_], options: TrainOptions) -> Head:
    """Fit a head of tokens; `tags` are BIO tags, one a row of `vectors`."""
    if len(tags) > _MOST_TOKENS:
        chosen = np.random.default_rng(options.seed).permutation(len(tags))[:_MOST_TOKENS]
        chosen.sort()
        # Every entity stays: they are what is rare.
        chosen = np.union1d(chosen, np.flatnonzero(tags != "O"))
        vectors, tags = vectors[chosen], tags[chosen]
    weight, bias, strength, classes = _logistic(vectors, tags, options, strengths=(10.0,))
    names = tuple(sorted(classes, key=lambda tag: (tag != "O", tag[2:], tag)))
    order = [classes.index(name) for name in names]
    return Head(weight[order], bias[order], names, SINGLE, "softmax", strength)


def _logistic(
    vectors: Array, labels: Any, options: TrainOptions, *, strengths: Sequence[float] = _STRENGTHS
) -> tuple[Array, Array, float, list[str]]:
    from sklearn.linear_model import LogisticRegression

    # Of one length on average, so that the same strengths fit all encoders.
    scaled, mean, scale = _scaled(vectors)
    strength = _chosen(scaled, labels, options, strengths)
    fitted = LogisticRegression(
        C=strength, class_weight=_class_weight(options), max_iter=1000, random_state=options.seed
    )
    with quietly():
        fitted.fit(scaled, labels)
    classes = [str(name) for name in fitted.classes_]
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(classes) == 2:
        # Of two classes it keeps the second alone, whose logit is told against 0.
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return *_unscaled(coefficients, intercepts, mean, scale), strength, classes


def _several(vectors: Array, data: Labelled, options: TrainOptions) -> Head:
    names = data.names
    parts: list[tuple[Weights | Array, Weights | Array, float]] = []
    for name in names:
        held = np.array([name in row for row in data.labels])
        if held.all() or not held.any():
            # Nothing to tell apart: the logit says what always is.
            parts.append((np.zeros((1, vectors.shape[1])), np.array([6.0 if held.all() else -6.0]), 1.0))
            continue
        weight, bias, strength, _ = _logistic(vectors, held.astype(str), options)
        parts.append((weight[1:] - weight[:1], bias[1:] - bias[:1], strength))
    weight = np.concatenate([part[0] for part in parts]).astype(np.float32)
    bias = np.concatenate([part[1] for part in parts]).astype(np.float32)
    return Head(weight, bias, names, MULTI, "sigmoid", float(np.median([part[2] for part in parts])))


def _ridge(vectors: Array, labels: Weights) -> Head:
    from sklearn.linear_model import RidgeCV

    scaled, mean, scale = _scaled(vectors)
    strengths = np.array(_STRENGTHS)
    with quietly():
        fitted = RidgeCV(alphas=1 / strengths).fit(scaled, labels)
    weight, bias = _unscaled(fitted.coef_[None, :], np.array([fitted.intercept_]), mean, scale)
    return Head(weight, bias, ("score",), REGRESSION, "none", float(1 / fitted.alpha_))


def _chosen(scaled: Weights, labels: Any, options: TrainOptions, strengths: Sequence[float]) -> float:
    """Return the strength with the best log loss in cross-validation; 1.0 where a label has too few rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    rows = int(np.unique(labels, return_counts=True)[1].min())
    if len(strengths) == 1 or rows < 2:
        return strengths[0] if len(strengths) == 1 else 1.0
    folds = StratifiedKFold(min(_FOLDS, rows), shuffle=True, random_state=options.seed)
    search = GridSearchCV(
        LogisticRegression(class_weight=_class_weight(options), max_iter=300),
        {"C": list(strengths)},
        scoring="neg_log_loss",
        cv=folds,
        refit=False,
    )
    with quietly():
        search.fit(scaled, labels)
    return float(search.best_params_["C"])


def _scaled(vectors: Array) -> tuple[Weights, Weights, float]:
    """Return vectors with mean 0 and mean square length 1, and what was taken off and divided by."""
    exact = vectors.astype(np.float64)
    mean = exact.mean(axis=0)
    centred = exact - mean
    scale = float(np.sqrt((centred**2).sum(axis=1).mean())) or 1.0
    return centred / scale, mean, scale


def _unscaled(weight: Weights, bias: Weights, mean: Weights, scale: float) -> tuple[Array, Array]:
    weight = weight / scale
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def _class_weight(options: TrainOptions) -> str | None:
    return None if options.class_weights == "none" else options.class_weights


@contextmanager
def quietly() -> Iterator[None]:
    """Silence scikit-learn where it did not converge to the last digit, and let it have one thread.

    Its solver calls BLAS for vectors so short that threads wait for one another far longer than they compute.
    And the same rows give the same head, whatever the cores.
    """
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        yield
