"""Which rows are trained on, and which are measured on."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import numpy as np

from bertonnx.errors import InputError
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.runtime.evaluation.labelled import REGRESSION, SINGLE, Labelled
from bertonnx.runtime.evaluation.tagged import Tagged
from bertonnx.wording import Message, Option

__all__ = ["Split", "split_labelled", "split_tagged"]

_LEAST_ROWS = 10
"""Below it there is nothing to learn from, and nothing to measure on."""

Data = TypeVar("Data", Labelled, Tagged)


@dataclass(frozen=True)
class Split(Generic[Data]):
    """Rows in two parts that share no text.

    Attributes:
        train: to train on.
        validation: to measure on.
        messages: what was left out, and why.
    """

    train: Data
    validation: Data
    messages: tuple[Message, ...] = ()


def split_labelled(data: Labelled, validation: Labelled | None, options: TrainOptions) -> Split[Labelled]:
    """Part labelled texts: by the user's own validation file, or by chance.

    By chance, each label has its share on both sides (`stratified`), and rows of one group or of one text are
    on one side. Rows that repeat another, label and all, are left out.

    Raises:
        InputError: there are too few rows or labels, or a label is in the validation file alone.
    """
    _require_learnable(data)
    kept, messages = _without_repeats(data)
    data = data.chosen(kept)
    if validation is not None:
        # Whoever parts the rows knows why: the file is taken as it is, but for what would be known by heart.
        _require_known(data, validation)
        return _parted(data, validation, messages)
    strata = _strata(data)
    groups = data.groups or [_key(data, place) for place in range(len(data))]
    held = _held_out(strata, groups, options)
    rest = [place for place in range(len(data)) if place not in held]
    train, measured = data.chosen(rest), data.chosen(sorted(held))
    _require_both(train, measured)
    few = sorted(set(train.names) - set(measured.names))
    if few:
        messages += (Message("too few rows to be measured: {labels}", labels=", ".join(few)),)
    split = Split(train, measured, messages)
    alone = sorted(set(split.validation.names) - set(split.train.names))
    if alone:
        raise InputError(
            "the label {label!r} is in one group alone, so that it could not be both learned and measured; "
            "give more rows of it, or leave {option} out",
            label=alone[0],
            option=Option("group_column"),
        )
    return split


def split_tagged(data: Tagged, validation: Tagged | None, options: TrainOptions) -> Split[Tagged]:
    """Part texts with marked entities; as `split_labelled`, by the rarest type of entity in each text."""
    if len(data) < _LEAST_ROWS or not data.names:
        raise InputError(
            "{path} has {rows} texts with {types} types of entities, and {least} texts with one at least are "
            "needed",
            path=data.path,
            rows=len(data),
            types=len(data.names),
            least=_LEAST_ROWS,
        )
    if validation is not None:
        unknown = sorted(set(validation.names) - set(data.names))
        if unknown:
            raise _unknown(validation.path, unknown, data.path)
        seen = set(data.texts)
        kept = [place for place, text in enumerate(validation.texts) if text not in seen]
        messages = _repeated(len(validation) - len(kept))
        return Split(data, validation.chosen(kept), messages)
    counts = Counter(span.label for spans in data.spans for span in spans)
    strata = [min((span.label for span in spans), key=counts.__getitem__, default="") for spans in data.spans]
    held = _held_out(strata, data.texts, options)
    rest = [place for place in range(len(data)) if place not in held]
    return Split(data.chosen(rest), data.chosen(sorted(held)))


def _require_learnable(data: Labelled) -> None:
    rows, names = len(data), data.names
    if rows < _LEAST_ROWS:
        raise InputError(
            "{path} has {rows} rows with a text and a label, and {least} at least are needed",
            path=data.path,
            rows=rows,
            least=_LEAST_ROWS,
        )
    if len(set(data.texts)) == 1 and data.pairs is None:
        raise InputError("all texts of {path} are equal; there is nothing to learn from them", path=data.path)
    if data.kind == REGRESSION:
        if len(set(data.labels)) == 1:
            raise InputError("all labels of {path} are {label:g}", path=data.path, label=data.labels[0])
        return
    if data.kind == SINGLE and len(names) == 1:
        raise InputError(
            "{path} has one label, {label!r}, in all its rows; two at least are needed",
            path=data.path,
            label=names[0],
        )
    if data.kind == SINGLE and len(names) * 2 > rows:
        raise InputError(
            "the column {column!r} of {path} has {labels} different values in {rows} rows; is it the label? "
            "say which is with {option}",
            column=data.columns.get("label", "").strip(),
            path=data.path,
            labels=len(names),
            rows=rows,
            option=Option("label_column", "NAME"),
        )


def _require_known(data: Labelled, validation: Labelled) -> None:
    unknown = sorted(set(validation.names) - set(data.names))
    if unknown:
        raise _unknown(validation.path, unknown, data.path)


def _unknown(validation: str, unknown: Sequence[str], path: str) -> InputError:
    return InputError(
        "{validation} has labels that {path} has not, so that they could not be learned: {unknown}",
        validation=validation,
        path=path,
        unknown=", ".join(unknown),
    )


def _require_both(train: Labelled, validation: Labelled) -> None:
    if not len(train) or not len(validation):
        raise InputError(
            "the rows cannot be parted into some to train on and some to measure on: all are of one group; "
            "give a file to measure on with {option}",
            option=Option("validation", "FILE"),
        )


def _key(data: Labelled, place: int) -> str:
    """Return by what two rows count as the same text: white space and capitals aside."""
    parts = [data.texts[place], *([] if data.pairs is None else [data.pairs[place]])]
    return "\0".join(" ".join(part.split()).casefold() for part in parts)


def _without_repeats(data: Labelled) -> tuple[list[int], tuple[Message, ...]]:
    """Return the places of rows that repeat no other, and what is said of those that do."""
    first: dict[Hashable, int] = {}
    labels: defaultdict[str, set[Hashable]] = defaultdict(set)
    for place in range(len(data)):
        # The same text with another label is no repetition: both stay, and are said.
        key, label = _key(data, place), data.labels[place]
        first.setdefault((key, label), place)
        labels[key].add(label)
    kept = list(first.values())
    messages = []
    if len(kept) < len(data):
        messages.append(
            Message("{count} rows that repeat another were left out", count=len(data) - len(kept))
        )
    torn = sum(len(found) > 1 for found in labels.values())
    if torn:
        messages.append(Message("{count} texts are there with more than one label; look at them", count=torn))
    return kept, tuple(messages)


def _parted(data: Labelled, validation: Labelled, messages: tuple[Message, ...]) -> Split[Labelled]:
    """Leave out of the validation file what is trained on."""
    seen = {_key(data, place) for place in range(len(data))}
    kept = [place for place in range(len(validation)) if _key(validation, place) not in seen]
    if not kept:
        raise InputError(
            "all texts of {path} are among those to train on, so that nothing is left to measure on",
            path=validation.path,
        )
    return Split(data, validation.chosen(kept), (*messages, *_repeated(len(validation) - len(kept))))


def _repeated(count: int) -> tuple[Message, ...]:
    if not count:
        return ()
    return (
        Message(
            "{count} rows to measure on are among those to train on too, and were left out of the measuring",
            count=count,
        ),
    )


def _strata(data: Labelled) -> list[str]:
    """Return by what each row is parted: its label; of several its rarest; of numbers its tenth."""
    if data.kind == REGRESSION:
        edges = np.quantile(data.labels, np.linspace(0, 1, 11)[1:-1])
        return [str(tenth) for tenth in np.searchsorted(edges, data.labels).tolist()]
    if data.kind == SINGLE:
        return list(data.labels)
    counts = Counter(chain.from_iterable(data.labels))
    return [min(row, key=counts.__getitem__, default="") for row in data.labels]


def _held_out(strata: Sequence[str], groups: Sequence[str], options: TrainOptions) -> set[int]:
    """Return the places of the rows to measure on.

    A stratum of one group alone is trained on: held out, it could not be learned.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = max(2, round(1 / options.validation_share))
    of_stratum: defaultdict[str, set[str]] = defaultdict(set)
    for stratum, group in zip(strata, groups, strict=True):
        of_stratum[stratum].add(group)
    lone = {group for found in of_stratum.values() if len(found) == 1 for group in found}
    places = [place for place, group in enumerate(groups) if group not in lone]
    if len({groups[place] for place in places}) < folds:
        return set()
    grouped = len(set(groups)) < len(groups)
    # The other takes its time where every row is a group of its own.
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=options.seed)
    with warnings.catch_warnings():
        # A label with fewer rows than folds is well: it is then in few of them.
        warnings.simplefilter("ignore")
        _, held = next(
            splitter.split(places, [strata[place] for place in places], [groups[place] for place in places])
        )
    return {places[number] for number in held}
