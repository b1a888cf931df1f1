"""Which rows are trained on, and which are measured on."""

from __future__ import annotations

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
    groups = _groups(data)
    held = _held_out(strata, groups, options)
    rest = [place for place in range(len(data)) if place not in held]
    train, measured = data.chosen(rest), data.chosen(sorted(held))
    _require_both(train, measured)
    messages += _unmeasured(sorted(set(train.names) - set(measured.names)))
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
    train, measured = data.chosen(rest), data.chosen(sorted(held))
    if not measured.names:
        raise InputError(
            "{path} has {texts} different texts with entities, too few to part into some to train on and "
            "some to measure on; give more, or a file to measure on with {option}",
            path=data.path,
            texts=len({text for text, spans in zip(data.texts, data.spans, strict=True) if spans}),
            option=Option("validation", "FILE"),
        )
    few = sorted(set(train.names) - set(measured.names))
    return Split(train, measured, _unmeasured(few))


def _unmeasured(names: Sequence[str]) -> tuple[Message, ...]:
    return (Message("too few rows to be measured: {labels}", labels=", ".join(names)),) if names else ()


def _require_learnable(data: Labelled) -> None:
    rows, names = len(data), data.names
    if rows < _LEAST_ROWS:
        raise InputError(
            "{path} has {rows} rows with a text and a label, and {least} at least are needed",
            path=data.path,
            rows=rows,
            least=_LEAST_ROWS,
        )
    if len({_key(data, place) for place in range(rows)}) == 1:
        raise InputError("all texts of {path} are equal; there is nothing to learn from them", path=data.path)
    if data.kind == REGRESSION:
        if len(set(data.labels)) == 1:
            raise InputError("all labels of {path} are {label:g}", path=data.path, label=data.labels[0])
        return
    if not names:
        raise InputError("no row of {path} has a label: all lists of them are empty", path=data.path)
    if data.kind == SINGLE and len(names) == 1:
        raise InputError(
            "{path} has one label, {label!r}, in all its rows; two at least are needed",
            path=data.path,
            label=names[0][:80],
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
            "the rows cannot be parted into some to train on and some to measure on: there are too few, or "
            "too many of one group; give more, or a file to measure on with {option}",
            option=Option("validation", "FILE"),
        )


def _groups(data: Labelled) -> list[str]:
    """Return what keeps each row together with others: its group and its text, each of which joins rows."""
    texts = [f"text {_key(data, place)}" for place in range(len(data))]
    if data.groups is None:
        return texts
    leader: dict[str, str] = {}

    def first(name: str) -> str:
        while leader.setdefault(name, name) != name:
            # Shorter from time to time, so that long chains do not cost their square.
            leader[name] = name = leader.setdefault(leader[name], leader[name])
        return name

    for group, text in zip(data.groups, texts, strict=True):
        if group:
            leader[first(text)] = first(f"group {group}")
    return [first(text) for text in texts]


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
        # Of few rows fewer parts: one of a single row could give none of it.
        parts = max(1, min(10, len(data) // 5))
        edges = np.quantile(data.labels, np.linspace(0, 1, parts + 1)[1:-1])
        return [str(tenth) for tenth in np.searchsorted(edges, data.labels).tolist()]
    if data.kind == SINGLE:
        return list(data.labels)
    counts = Counter(chain.from_iterable(data.labels))
    return [min(row, key=counts.__getitem__, default="") for row in data.labels]


def _held_out(strata: Sequence[str], groups: Sequence[str], options: TrainOptions) -> set[int]:
    """Return the places of the rows to measure on.

    Each stratum gives its share, and keeps a group at least: held out whole, it could not be learned. A group
    counts for the stratum that the fewest groups have.
    """
    rows: defaultdict[str, list[int]] = defaultdict(list)
    having: defaultdict[str, set[str]] = defaultdict(set)
    for place, (stratum, group) in enumerate(zip(strata, groups, strict=True)):
        rows[group].append(place)
        having[stratum].add(group)
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for group, places in rows.items():
        parts[min({strata[place] for place in places}, key=lambda name: (len(having[name]), name))].append(
            group
        )
    draws = np.random.default_rng(options.seed)
    held: set[int] = set()
    wanted = 0.0
    for stratum in sorted(parts):
        found = [parts[stratum][place] for place in draws.permutation(len(parts[stratum]))]
        # What one stratum's whole rows leave of its share goes to the next.
        wanted += options.validation_share * sum(len(rows[group]) for group in found)
        for group in found[1:]:
            if len(held) + len(rows[group]) / 2 <= wanted:
                held.update(rows[group])
    return held
