"""`bertonnx.evaluate`: how good a model file is on labelled texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import InputError, TaskError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import TASKS
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.runtime.evaluation.labelled import (
    MULTI,
    REGRESSION,
    SINGLE,
    Columns,
    Labelled,
    read_labelled,
    without_point,
)
from bertonnx.runtime.evaluation.outcome import Amounts, Entities, Outcome, Several, Single, evaluated
from bertonnx.runtime.evaluation.report import check_report, write_report
from bertonnx.runtime.evaluation.sklearn_seam import require_sklearn
from bertonnx.runtime.evaluation.tagged import Span, Tagged, read_tagged
from bertonnx.runtime.methods import Methods
from bertonnx.runtime.model import Model, load
from bertonnx.runtime.options import LongText, require_number
from bertonnx.wording import Message, Option

__all__ = [
    "Asked",
    "Measured",
    "aligned",
    "evaluate",
    "left_out",
    "measured",
    "measured_entities",
    "measured_labels",
    "measured_tags",
    "measured_texts",
]

_SHOWN = 12
"""Of labels that nobody knows, how many are named: dates as labels are as many as rows."""


@dataclass(frozen=True)
class Measured:
    """Texts, what a model says of them, and what is said besides.

    Attributes:
        texts: the texts.
        outcome: labels and predictions.
        baselines: name -> outcome of the same texts.
        messages: what was taken to be meant, and what was left out.
        rows: of each text its row in the file, from 0.
    """

    texts: Sequence[str]
    outcome: Outcome
    baselines: dict[str, Outcome]
    messages: tuple[Message, ...]
    rows: Sequence[int]


def evaluate(
    model: str | Path | Model,
    data: str | Path,
    *,
    column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    min_f1: float | None = None,
    report: str | Path | None = None,
    provider: str = "auto",
    threads: int | None = None,
    long_text: LongText | None = None,
) -> Evaluation:
    """Measure a model on labelled texts.

    Args:
        model: a model file, a folder or file that optimum-cli made, or an open model; of text classification
            or token classification.
        data: a `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file with a text and its label in each row;
            of token classification a CoNLL file, or JSON lines with spans or tags.
        column: the column of the texts; default `text`, or the one that is called like one.
        pair_column: the column of the second texts, for a model of text pairs.
        label_column: the column of the labels; several with commas between them for a model of several
            labels.
        min_f1: least macro F1; of a regression, least Pearson correlation. Below it, `Evaluation.enough` is
            False.
        report: a `.html` or `.json` file to write the whole report to.
        provider: as `load`.
        threads: as `load`.
        long_text: as `load`.

    Raises:
        InputError: the file cannot be read, nothing says which columns to take, or it has labels that the
            model does not know.
        TaskError: the model does not label anything.
        UsageError: an argument is out of range.
        OutputError: the report cannot be written.
        MissingDependencyError: scikit-learn is not installed.
    """
    # Before the model is opened, which can take long: what is missing or wrong is said at once.
    asked = Asked(Columns(column, pair_column, label_column), min_f1, report)
    opened = isinstance(model, Model)
    used = model if isinstance(model, Model) else load(model, provider, threads, long_text=long_text)
    try:
        return asked.evaluation(used, used.path.name, data)
    finally:
        if not opened:
            used.close()


@dataclass(frozen=True)
class Asked:
    """What is asked of an evaluation.

    Attributes:
        columns: which columns are read.
        min_f1: as `evaluate`.
        report: as `evaluate`.

    Raises:
        UsageError: `min_f1` is no share, or the report's ending names no format.
        OutputError: the report cannot be written there.
        MissingDependencyError: scikit-learn is not installed.
    """

    columns: Columns
    min_f1: float | None = None
    report: str | Path | None = None

    def __post_init__(self) -> None:
        require_number("min_f1", self.min_f1)
        if self.min_f1 is not None and not 0.0 <= self.min_f1 <= 1.0:
            raise UsageError(
                "{asked} is not a share; give one from 0 to 1, such as 0.9",
                asked=Option("min_f1", self.min_f1),
            )
        require_sklearn()
        if self.report is not None:
            check_report(self.report)

    def evaluation(self, model: Methods, name: str, data: str | Path) -> Evaluation:
        """Measure a model, and write the report.

        Raises:
            BertonnxError: as `evaluate`.
        """
        found = measured(model, data, self.columns)
        result = evaluated(found.outcome, found.texts, found.baselines, found.rows)
        result = replace(result, messages=found.messages, min_f1=self.min_f1)
        if self.report is not None:
            write_report(check_report(self.report), result, title=f"{name} on {Path(data).name}")
        return result


def measured(model: Methods, data: str | Path, columns: Columns) -> Measured:
    """Return what a model says of labelled texts.

    Raises:
        InputError: as `evaluate`.
        TaskError: the model's task cannot be measured by labels.
    """
    row = task_named(model.card.task)
    if not row.evaluation:
        raise TaskError(
            "a model for {task} gives no labels that could be compared; models for {those} can be measured",
            task=row.name,
            those=" and ".join(task.name for task in TASKS if task.evaluation),
        )
    result: Measured = resolve(row.evaluation)(model, data, columns)
    return result


def measured_labels(model: Methods, data: str | Path, columns: Columns) -> Measured:
    """Return what a model of whole texts says of labelled ones."""
    card = model.card
    kind = card.problem_type or SINGLE
    asked = Columns(columns.column, columns.pair_column, columns.label_column, problem_type=kind)
    labelled = read_labelled(data, asked, needs_pair=card.needs_pair)
    named = labelled.columns["label"].strip()
    if kind == MULTI and named in card.labels and len(card.labels) > 1:
        # Its zeros and ones would be taken for places of labels.
        raise UsageError(
            "{named} is one of the model's labels; name the columns of all: {say}",
            named=named,
            say=Option("label_column", ",".join(card.labels)),
        )
    return measured_texts(model, labelled)


def measured_texts(model: Methods, labelled: Labelled) -> Measured:
    """Return what a model of whole texts says of labelled ones that were read."""
    card = model.card
    items = model.classify(labelled.texts, labelled.pairs)
    messages = (*labelled.messages, *left_out(labelled))
    if labelled.kind == REGRESSION:
        predicted = np.array([_amount(item) for item in items], dtype=np.float64)
        amounts = Amounts(np.array(labelled.labels, dtype=np.float64), predicted)
        mean = np.full(len(predicted), amounts.actual.mean())
        baselines: dict[str, Outcome] = {"mean": Amounts(amounts.actual, mean)}
        return Measured(labelled.texts, amounts, baselines, messages, labelled.rows)
    names, said = aligned(labelled.names, card, labelled.path)
    messages += said
    if labelled.kind == MULTI:
        return Measured(
            labelled.texts, *_several(labelled, items, names, card.labels), messages, labelled.rows
        )
    actual = [names[label] for label in labelled.labels]
    most = Counter(actual).most_common(1)[0][0]
    outcome = Single(
        actual,
        [item["label"] for item in items],
        np.array([item["score"] for item in items], dtype=np.float64),
        card.labels,
    )
    majority = Single(actual, [most] * len(actual), names=card.labels)
    return Measured(labelled.texts, outcome, {"majority": majority}, messages, labelled.rows)


def measured_entities(model: Methods, data: str | Path, columns: Columns) -> Measured:
    """Return what a model of tokens says of texts with marked entities."""
    tagged = read_tagged(data, columns)
    return measured_tags(model, tagged)


def measured_tags(model: Methods, tagged: Tagged) -> Measured:
    """Return what a model of tokens says of texts with marked entities that were read."""
    known = {label.split("-", 1)[-1] for label in model.card.labels} - {"O"}
    unknown = sorted(set(tagged.names) - known)
    if unknown:
        raise InputError(
            "{path} has entities that the model does not know: {unknown}; it knows {known}",
            path=tagged.path,
            unknown=", ".join(unknown),
            known=", ".join(sorted(known)),
        )
    # By the first token of each word, as models are trained: a word has one label.
    items = model.entities(tagged.texts, aggregation="first")
    predicted = [
        tuple(Span(found["start"], found["end"], found["entity"]) for found in item["entities"])
        for item in items
    ]
    # F1 of nothing said is 0: there is no majority to say.
    none: list[tuple[Span, ...]] = [()] * len(tagged)
    messages = (*tagged.messages, *left_out(tagged))
    return Measured(
        tagged.texts,
        Entities(tagged.spans, predicted),
        {"no entities": Entities(tagged.spans, none)},
        messages,
        tagged.rows,
    )


def aligned(labels: Sequence[str], card: Card, path: str) -> tuple[dict[str, str], tuple[Message, ...]]:
    """Return which label of the model each label of a file is, and what was taken to be meant.

    They are the same where they are written the same, capitals aside. Numbers are the places of the model's
    labels, from 0, as in most data sets; so is the number of `LABEL_1`.

    Raises:
        InputError: the file has a label that the model does not know.
    """
    # Files of labels often write in small letters what a model has in capitals; a model may tell them apart.
    plain = {without_point(label): label for label in card.labels}
    plain |= {label.casefold(): label for label in card.labels}
    plain |= {label: label for label in card.labels}
    same = {label: plain.get(label, plain.get(label.casefold(), "")) for label in labels}
    same = {label: name for label, name in same.items() if name}
    if len(same) == len(labels):
        return same, ()
    places = {label: label.casefold().removeprefix("label_") for label in labels}
    if all(place.isdecimal() and int(place) < len(card.labels) for place in places.values()):
        found = {label: card.labels[int(place)] for label, place in places.items()}
        shown = ", ".join(f"{label} is {name}" for label, name in found.items())
        return found, (Message("labels are the places of the model's: {shown}", shown=shown),)
    unknown = [label for label in labels if label not in same]
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    raise InputError(
        "{path} has labels that the model does not know: {unknown}; it knows {known}",
        path=path,
        unknown=", ".join(unknown[:_SHOWN]) + more,
        known=", ".join(card.labels),
    )


def _several(
    labelled: Labelled, items: Sequence[Any], names: dict[str, str], labels: Sequence[str]
) -> tuple[Outcome, dict[str, Outcome]]:
    held = [{names[label] for label in row} for row in labelled.labels]
    actual = np.array([[label in row for label in labels] for row in held], dtype=np.bool_)
    predicted = np.array([[label in item["labels"] for label in labels] for item in items], dtype=np.bool_)
    scores = np.array([[item["scores"][label] for label in labels] for item in items], dtype=np.float64)
    # The set that is right most often, label by label.
    usual = np.broadcast_to(actual.mean(axis=0) > 0.5, actual.shape)
    most = Several(actual, usual, labels, usual.astype(np.float64))
    return Several(actual, predicted, labels, scores), {"majority": most}


def _amount(item: Any) -> float:
    if "score" not in item:
        raise TaskError("the model gives several numbers for a text, and a label is one")
    return float(item["score"])


def left_out(data: Labelled | Tagged) -> list[Message]:
    """Return what is said of rows that were left out."""
    return [
        Message("{count} rows {why} were left out", count=count, why=why)
        for why, count in data.left_out.items()
    ]
