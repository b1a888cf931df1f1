"""What is to be learned: labelled texts or texts with entities, in two parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from bertonnx.errors import UsageError
from bertonnx.exporters.training.baselines import entity_baselines, label_baselines
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.exporters.training.split import Split, split_labelled, split_tagged
from bertonnx.models.figures import TrainingFigures
from bertonnx.runtime.evaluation.evaluate import left_out, measured_tags, measured_texts
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.runtime.evaluation.labelled import REGRESSION, Labelled, read_labelled
from bertonnx.runtime.evaluation.outcome import evaluated
from bertonnx.runtime.evaluation.tagged import Tagged, has_entities, read_tagged
from bertonnx.runtime.methods import Methods
from bertonnx.wording import Message, Option

__all__ = ["Lesson", "cut_texts", "read_lesson"]


@dataclass(frozen=True)
class Lesson:
    """What is to be learned.

    Attributes:
        split: the rows to train on and those to measure on.
        digests: "train" and "validation" -> SHA-256, in hex, of the user's files.
        messages: what was taken to be meant, and what was left out.
    """

    split: Split[Labelled] | Split[Tagged]
    digests: dict[str, str]
    messages: tuple[Message, ...]

    @property
    def tagged(self) -> bool:
        """Whether entities are learned, and not labels of whole texts."""
        return isinstance(self.split.train, Tagged)

    def measure(self, model: Methods) -> Evaluation:
        """Return how good a model is on the rows to measure on, beside baselines."""
        train, rows = self.split.train, self.split.validation
        if isinstance(train, Tagged) and isinstance(rows, Tagged):
            found = measured_tags(model, rows)
            return evaluated(found.outcome, found.texts, entity_baselines(train, rows), found.rows)
        assert isinstance(train, Labelled)
        assert isinstance(rows, Labelled)
        found = measured_texts(model, rows)
        return evaluated(found.outcome, found.texts, label_baselines(train, rows), found.rows)

    def figures(
        self,
        evaluation: Evaluation,
        *,
        kind: str,
        base: dict[str, str | None],
        options: TrainOptions,
        settings: dict[str, str | int | float | None],
    ) -> TrainingFigures:
        """Return what the card keeps: all but the texts."""
        # The worst mistakes stay out: they are texts, which may be nobody else's business.
        return TrainingFigures(
            kind=kind,
            base=base,
            data=self.digests,
            rows=len(self.split.train),
            measured_rows=evaluation.rows,
            seed=options.seed,
            settings=settings,
            scores=evaluation.scores,
            intervals=evaluation.intervals,
            labels={name: {**vars(item)} for name, item in evaluation.labels.items()},
            confusion=evaluation.confusion,
            ece=evaluation.ece,
            baselines=evaluation.baselines,
            better=evaluation.better,
        )


def cut_texts(what: str, cut: int, texts: int, limit: int) -> tuple[Message, ...]:
    """Return what is said where texts were longer than is read.

    Args:
        what: "train" or "measure".
        cut: how many of those to train or measure on were cut.
        texts: how many those are.
        limit: tokens that are left of each.
    """
    if not cut:
        return ()
    said = Message(
        "{cut} of {texts} texts to {what} on were cut to {limit} tokens",
        cut=cut,
        texts=texts,
        what=what,
        limit=limit,
    )
    return (said,)


def read_lesson(data: str | Path, options: TrainOptions) -> Lesson:
    """Read labelled texts, or texts with entities, and part them.

    Raises:
        InputError: they cannot be read, nothing says which columns to take, or nothing can be learned.
    """
    files = {"train": Path(data)}
    if options.validation is not None:
        files["validation"] = options.validation
    if has_entities(data, options.columns):
        return _entities(files, options)
    labelled = read_labelled(data, options.columns)
    other = None
    if options.validation is not None:
        columns = replace(options.columns, problem_type=labelled.kind)
        other = read_labelled(options.validation, columns, needs_pair=labelled.pairs is not None)
    if labelled.kind == REGRESSION and options.class_weights != "none":
        # Refused, not ignored, as all that would do nothing.
        raise UsageError(
            "{asked} is for labels, and those of {path} are amounts; leave it out",
            asked=Option("class_weights", options.class_weights),
            path=data,
        )
    split = split_labelled(labelled, other, options)
    messages = (*labelled.messages, *left_out(labelled), *split.messages)
    return Lesson(split, _digests(files), messages)


def _entities(files: dict[str, Path], options: TrainOptions) -> Lesson:
    tagged = read_tagged(files["train"], options.columns)
    other = None if options.validation is None else read_tagged(options.validation, options.columns)
    split = split_tagged(tagged, other, options)
    return Lesson(split, _digests(files), (*tagged.messages, *left_out(tagged), *split.messages))


def _digests(files: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
