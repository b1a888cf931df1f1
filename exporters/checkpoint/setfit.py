"""SetFit folders: a Sentence-Transformers folder with a classifier of scikit-learn in a pickle.

Read as SetFit 1.2 does (setfit/modeling.py, `_from_pretrained`, `predict_proba`), and the classifier's
`predict_proba` as the scikit-learn that saved it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import SETFIT_CONFIG, SETFIT_HEAD, read_json
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.sentence_layers import (
    SCORES,
    SENTENCE,
    Cut,
    Dense,
    Layer,
    Normalize,
    Pool,
    widths,
)
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules
from bertonnx.exporters.checkpoint.sklearn_pickle import Part, read_classifier
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.task import Head
from bertonnx.models.tasks import CLASSIFIER, ENCODER, Task
from bertonnx.wording import Message, Option

__all__ = ["SetFit", "read_setfit"]

_LOGISTIC = ("LogisticRegression", "LogisticRegressionCV")
_ONE_VS_REST = ("ovr", "warn")
_CONSTANT = "_ConstantPredictor"
_SURE = 100.0
"""A logit whose sigmoid is 1 as a float32."""

_BEST, _EACH = "single_label_classification", "multi_label_classification"

_Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SetFit:
    """A SetFit model's classifier.

    Attributes:
        layers: what makes logits of token vectors.
        head: labels, problem type and activation.
        note: what was merged, for the user.
        task: what it is exported for.
    """

    layers: tuple[Layer, ...]
    head: Head
    note: Message
    task: Task = CLASSIFIER


@dataclass(frozen=True, eq=False)
class _Linear:
    """What a classifier computes: a linear layer, an activation of it, and softmax or sigmoids.

    Attributes:
        classes: what stands for each row of `weight`; empty where each row is a label of its own.
        weight: of shape (labels, width).
        bias: of shape (labels,).
        activation: of the linear layer.
    """

    classes: tuple[Any, ...]
    weight: _Weights
    bias: _Weights
    activation: str = "none"


def read_setfit(
    source: Source, modules: SentenceModules | None, hidden: int, asked: Task | None, account: Account
) -> SetFit | None:
    """Return the classifier of a SetFit folder; None for another, and where another task is asked for.

    Raises:
        SourceError: the classifier's pickle is not trusted.
        UnsupportedError: it is of a kind that no linear layer computes.
        CheckpointError: a file is missing, damaged, or contradicts another.
    """
    folder = source.folder
    found = [name for name in (SETFIT_CONFIG, SETFIT_HEAD) if (folder / name).is_file()]
    if not found or asked not in (None, CLASSIFIER):
        return None
    _require_readable(source, found)
    settings = _settings(folder, account)
    linear = _linear(read_classifier(folder / SETFIT_HEAD), folder / SETFIT_HEAD)
    layers = _layers(modules, normalize=bool(settings.get("normalize_embeddings", False)))
    width = widths(layers, hidden, folder=folder)[SENTENCE]
    if linear.weight.shape[1] != width:
        raise CheckpointError(
            "{path} reads {reads} numbers, and the embedding has {width}; the two do not belong together",
            path=folder / SETFIT_HEAD,
            reads=linear.weight.shape[1],
            width=width,
        )
    last = Dense(
        weight=linear.weight.astype(np.float32),
        bias=linear.bias.astype(np.float32),
        activation=linear.activation,
        writes=SCORES,
        module=SETFIT_HEAD,
    )
    labels = _labels(linear, settings.get("labels"), folder)
    head = Head(labels, _BEST, "softmax") if linear.classes else Head(labels, _EACH, "sigmoid")
    note = Message(
        "task {task}, because it is a SetFit model; its classifier ({file}) is merged",
        task=CLASSIFIER.name,
        file=SETFIT_HEAD,
    )
    return SetFit((*layers, last), head, note)


def _require_readable(source: Source, found: Sequence[str]) -> None:
    if not source.trust.allow_pickle:
        raise SourceError(
            "{source} is a SetFit model ({found}): its classifier lies in a pickle, and reading a pickle can "
            "run any code; if you trust its author, add {option}, or for the embeddings alone {encoder}",
            source=source.id,
            found=", ".join(found),
            option=Option("allow_pickle", True),
            encoder=Option("task", ENCODER.name),
        )
    if SETFIT_HEAD not in found:
        raise CheckpointError(
            "{source} is a SetFit model without a classifier: {file} is not there; download it again, or for "
            "the embeddings alone add {encoder}",
            source=source.id,
            file=SETFIT_HEAD,
            encoder=Option("task", ENCODER.name),
        )


def _settings(folder: Path, account: Account) -> Mapping[str, Any]:
    # Early versions saved none, and had neither labels nor normalization.
    path = folder / SETFIT_CONFIG
    settings = read_json(path) if path.is_file() else {}
    for key, value in settings.items():
        if key not in ("labels", "normalize_embeddings") and value is not None:
            account.refuse(
                SETFIT_CONFIG, key, value, "which is of a SetFit model that bertonnx does not read"
            )
    return settings


def _layers(modules: SentenceModules | None, *, normalize: bool) -> list[Layer]:
    """Return what makes the embedding, as `encode(normalize_embeddings=...)` does."""
    # Sentence-Transformers puts the mean over a folder that has no modules.
    layers: list[Layer] = [Pool(modes=("mean",))] if modules is None else list(modules.layers)
    cut = None if modules is None else modules.settings.truncate_dim
    if cut is not None:
        layers.append(Cut(length=cut))
    return [*layers, Normalize()] if normalize else layers


def _linear(part: Part, path: Path) -> _Linear:
    if part.kind in _LOGISTIC:
        return _logistic(part, path)
    if part.kind == "OneVsRestClassifier":
        return _one_vs_rest(part, path)
    if part.kind == "MultiOutputClassifier":
        return _each(part, path)
    raise UnsupportedError(
        "{path} holds a {kind}, and only logistic regressions can be merged: by themselves, one against the "
        "rest, or one for each output; for the embeddings alone, add {encoder}",
        path=path,
        kind=part.kind,
        encoder=Option("task", ENCODER.name),
    )


def _logistic(part: Part, path: Path) -> _Linear:
    weight, bias, classes = _numbers(part, path)
    multi = part.get("multi_class", "auto")
    rest = multi in _ONE_VS_REST or (
        multi != "multinomial" and (len(classes) <= 2 or part.get("solver") == "liblinear")
    )
    if len(weight) == 1:
        # Of two classes it keeps the second's weights: sigmoid(z) is softmax of 0 and z, or of -z and z.
        first = 0.0 if rest else -1.0
        weight, bias = np.concatenate([first * weight, weight]), np.concatenate([first * bias, bias])
        return _Linear(classes, weight, bias)
    # One against the rest divides sigmoids by their sum, and softmax does that to their logarithms.
    return _Linear(classes, weight, bias, "logsigmoid" if rest else "none")


def _numbers(part: Part, path: Path) -> tuple[_Weights, _Weights, tuple[Any, ...]]:
    try:
        weight = np.asarray(part.get("coef_"), dtype=np.float64)
        bias = np.asarray(part.get("intercept_"), dtype=np.float64)
        classes = tuple(np.asarray(part.get("classes_")).tolist())
        rows = 1 if len(classes) == 2 and len(weight) == 1 else len(classes)
        if weight.ndim == 2 and len(weight) == rows and np.isfinite(weight).all() and np.isfinite(bias).all():
            return weight, np.broadcast_to(bias, (rows,)).copy(), classes
        why = f"coef_ of shape {weight.shape} for {len(classes)} classes"
    except (TypeError, ValueError) as error:
        why = str(error)
    raise CheckpointError(
        "{path} holds a {kind} that cannot be read ({why}); save it again", path=path, kind=part.kind, why=why
    )


def _yes(part: Any, path: Path) -> tuple[_Weights, float]:
    """Return what makes the logit of yes, of a classifier for one label."""
    if isinstance(part, Part) and part.kind == _CONSTANT:
        # Trained on texts that all have the label, or all lack it: the probability is 1 or 0.
        return np.zeros(1), _SURE if np.ravel(part.get("y_"))[0] else -_SURE
    if not isinstance(part, Part) or part.kind not in _LOGISTIC:
        raise UnsupportedError(
            "{path} holds a {kind} for one of its labels, and only logistic regressions can be merged",
            path=path,
            kind=part.kind if isinstance(part, Part) else type(part).__name__,
        )
    one = _logistic(part, path)
    if len(one.classes) != 2 or [int(value) for value in one.classes] != [0, 1]:
        raise UnsupportedError(
            "{path} holds a classifier of {classes} for one of its labels, which is no yes or no",
            path=path,
            classes=list(one.classes),
        )
    # The difference of the two is what a sigmoid makes the same probability of.
    return one.weight[1] - one.weight[0], float(one.bias[1] - one.bias[0])


def _each(part: Part, path: Path) -> _Linear:
    ones = [_yes(one, path) for one in part.get("estimators_", ())]
    width = max((len(weight) for weight, _ in ones), default=0)
    weights = [np.broadcast_to(weight, (width,)) if len(weight) == 1 else weight for weight, _ in ones]
    return _Linear((), np.stack(weights), np.array([bias for _, bias in ones]))


def _one_vs_rest(part: Part, path: Path) -> _Linear:
    each = _each(part, path)
    binarizer = part.get("label_binarizer_")
    if str(binarizer.get("y_type_")).startswith("multilabel"):
        return each
    classes = tuple(np.asarray(binarizer.get("classes_")).tolist())
    if len(each.weight) == 1:
        weight, bias = each.weight, each.bias
        return _Linear(classes, np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias]))
    return _Linear(classes, each.weight, each.bias, "logsigmoid")


def _labels(linear: _Linear, named: Any, folder: Path) -> tuple[str, ...]:
    count = len(linear.weight)
    names = [str(name) for name in named or ()]
    places = linear.classes or range(count)
    # Classes with names are the labels, as SetFit's predict gives them.
    if not names or any(isinstance(place, str) for place in places):
        labels = [str(place) if linear.classes else f"LABEL_{place}" for place in places]
    elif all(float(place).is_integer() and 0 <= place < len(names) for place in places):
        labels = [names[int(place)] for place in places]
    else:
        labels = []
    if len(set(labels)) != count:
        raise CheckpointError(
            "{path} names the labels {names}, and the classifier has the classes {classes}; correct labels",
            path=folder / SETFIT_CONFIG,
            names=", ".join(names),
            classes=", ".join(map(str, places)),
        )
    return tuple(labels)
