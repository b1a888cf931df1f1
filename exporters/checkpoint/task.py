"""Which task a checkpoint serves, and how its head's numbers are to be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.encoders import exportable_tasks
from bertonnx.exporters.checkpoint.keys import shown
from bertonnx.models.entailment import inference_of
from bertonnx.models.families import family as family_named
from bertonnx.models.tasks import CLASSIFIER, ENCODER, PROBLEM_TYPES, RANKER, TASKS, Task
from bertonnx.wording import Message, Option, Options

__all__ = [
    "Head",
    "classification_head",
    "no_head",
    "ranking_head",
    "require_exportable",
    "require_logits",
    "task_of",
    "text_pairs",
    "token_head",
]

_NO_WORDS = ("ElectraForPreTraining", "ElectraDiscriminator", "SplinterForPreTraining")
"""Pre-training heads that predict no words, though their names end as those that do."""

_PAIR_TASKS = frozenset(
    {"mrpc", "qqp", "mnli", "qnli", "rte", "wnli", "stsb", "sts-b", "snli", "xnli", "paws"}
)
_SINGLE_TASKS = frozenset({"sst2", "sst-2", "sst5", "cola", "imdb", "emotion"})


@dataclass(frozen=True)
class Head:
    """How a head's logits become an answer.

    Attributes:
        labels: names of the classes in the order of the logits; empty where there are none.
        problem_type: of text classification, one of `PROBLEM_TYPES`.
        activation: name of a row of `models.activations`.
    """

    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    activation: str = "none"


def require_exportable(row: Task, family: str, own: Collection[str] = ()) -> None:
    """Raise UnsupportedError where no checkpoint of the family can be exported for the task.

    Args:
        row: the task.
        family: `model_type`.
        own: classes that the checkpoint's own Python code provides.
    """
    tasks = exportable_tasks(family, own)
    if tasks[row.name]:
        raise UnsupportedError(
            "a {family} model cannot be exported for {task}: {reason}; what works: {working}",
            family=family,
            task=row.name,
            reason=tasks[row.name],
            working=Options(
                [Option("task", name) for name, reason in tasks.items() if not reason and TASKS[name].headed]
            ),
        )


def require_logits(row: Task, raw: Mapping[str, Any]) -> None:
    """Refuse a head that config.json makes one without logits.

    Raises:
        UnsupportedError: naming the key.
    """
    family = family_named(str(raw.get("model_type")))
    for key, (value, auto_class, why) in ({} if family is None else family.keys_without_head).items():
        if raw.get(key) is not None and bool(raw[key]) is value and row.auto_class == auto_class:
            raise UnsupportedError(
                "config.json has {key} {value}, so it cannot be exported for {task}: {why}; its encoder can, "
                "with {option}",
                key=key,
                value=shown(raw[key]),
                task=row.name,
                why=why,
                option=Option("task", ENCODER.name),
            )


def task_of(architectures: Sequence[str]) -> tuple[Task, Message]:
    """Return the task that config.json's `architectures` name, and a note on how it was chosen."""
    for architecture in architectures:
        row = _task_of_one(architecture)
        if row is not None:
            chosen = Message(
                "task {task}, from the checkpoint's architecture {architecture}",
                task=row.name,
                architecture=architecture,
            )
            return row, chosen
    if not architectures:
        return ENCODER, Message("config.json names no architecture: exported for {task}", task=ENCODER.name)
    return ENCODER, Message(
        "{architectures} has no head that bertonnx exports: exported for {task}",
        architectures=", ".join(architectures),
        task=ENCODER.name,
    )


def _task_of_one(architecture: str) -> Task | None:
    if architecture in _NO_WORDS:
        return None
    for row in TASKS:
        # By endings, so that a family that nobody here knows still says its task.
        if row != ENCODER and architecture.endswith(row.architectures):
            return row
    return ENCODER if architecture.endswith(ENCODER.architectures) and "LMHead" not in architecture else None


def no_head(config: Any, raw: Mapping[str, Any]) -> Head:  # noqa: ARG001
    """Return the head of a task whose outputs are no classes."""
    return Head()


def token_head(config: Any, raw: Mapping[str, Any]) -> Head:
    """Return the head of a task that chooses a label for each token."""
    return Head(_labels(config, raw), None, "softmax")


def classification_head(config: Any, raw: Mapping[str, Any]) -> Head:
    """Return the head of a task that gives labels or numbers to whole texts.

    The activation is the one of Hugging Face's text classification pipeline
    (`transformers/pipelines/text_classification.py`, `postprocess`).

    Args:
        config: the loaded `PretrainedConfig`.
        raw: config.json as it lies in the folder; transformers itself mends some contradictions.

    Raises:
        CheckpointError: labels are doubled or missing, or the problem type is unknown.
    """
    labels = _labels(config, raw)
    problem = config.problem_type
    if problem is not None and problem not in PROBLEM_TYPES:
        raise CheckpointError(
            "config.json has problem_type {found!r}; it can be one of {known}",
            found=problem,
            known=", ".join(PROBLEM_TYPES),
        )
    if problem == "regression":
        return Head(labels, problem, "none")
    # One label and no problem type: softmax would always say 1, so the pipeline takes a sigmoid.
    if problem == "multi_label_classification" or len(labels) == 1:
        return Head(labels, problem or "regression", "sigmoid")
    return Head(labels, "single_label_classification", "softmax")


def ranking_head(config: Any, raw: Mapping[str, Any]) -> Head:
    """Return the head of a task that gives one score to a pair of texts.

    Sigmoid is what Sentence-Transformers' CrossEncoder takes where nothing else is said.

    Raises:
        UnsupportedError: the classifier has several outputs.
    """
    named = [str(name) for name in raw.get("architectures") or ()]
    if named and not any(name.endswith(RANKER.architectures) for name in named):
        raise UnsupportedError(
            "{task} takes a classifier with one output, and this checkpoint is {architectures}, which has "
            "none; export it with {option}",
            task=RANKER.name,
            architectures=", ".join(named),
            option=Option("task", task_of(named)[0].name),
        )
    if config.num_labels != 1:
        raise UnsupportedError(
            "{task} takes a classifier with one output, and this checkpoint's has {outputs}; export it with "
            "{option}",
            task=RANKER.name,
            outputs=config.num_labels,
            option=Option("task", CLASSIFIER.name),
        )
    return Head(activation="sigmoid")


def _labels(config: Any, raw: Mapping[str, Any]) -> tuple[str, ...]:
    table = {int(index): str(name) for index, name in config.id2label.items()}
    if sorted(table) != list(range(len(table))):
        raise CheckpointError(
            "config.json's id2label numbers its labels {numbers}, and they must count from 0 without gaps; "
            "correct id2label",
            numbers=sorted(table),
        )
    labels = tuple(table[index] for index in range(len(table)))
    # Scores are given by label, so that two classes of one name would hide each other.
    doubled = sorted({name for name in labels if labels.count(name) > 1})
    if doubled:
        raise CheckpointError(
            "config.json's id2label gives several classes the same label ({labels}); give each class its own "
            "name",
            labels=", ".join(doubled),
        )
    _require_one_entailment(labels, raw)
    # Asked of the file, since the loaded configuration has already made one follow the other.
    count = raw.get("num_labels")
    if raw.get("id2label") and count is not None and count != len(labels):
        raise CheckpointError(
            "config.json has num_labels {count}, and id2label names {found} labels ({labels}); make them "
            "agree",
            count=count,
            found=len(labels),
            labels=", ".join(labels[:8]),
        )
    return labels


def _require_one_entailment(labels: Sequence[str], raw: Mapping[str, Any]) -> None:
    """Refuse an NLI classifier whose tables part: transformers reads one to classify, one for zero-shot."""
    meaning, told = inference_of(labels), raw.get("label2id")
    if meaning is None or not isinstance(told, Mapping):
        return
    name = labels[meaning.entailment]
    if name in told and str(told[name]) != str(meaning.entailment):
        raise CheckpointError(
            "config.json's label2id gives {name} the number {told}, and id2label gives it {found}; make them "
            "agree",
            name=name,
            told=told[name],
            found=meaning.entailment,
        )


def text_pairs(row: Task, labels: Sequence[str], raw: Mapping[str, Any], *, crosses: bool) -> bool | None:
    """Return whether the checkpoint reads text pairs: True, False, or None where it does not say.

    Args:
        row: the task.
        labels: the names of its classes.
        raw: config.json as it lies in the folder.
        crosses: whether a cross-encoder saved it, which reads nothing else.
    """
    if row.pairs != "maybe":
        return row.pairs == "always"
    trained = str(raw.get("finetuning_task") or "").lower()
    names = {label.lower() for label in labels}
    is_inference = "entailment" in names and bool(names & {"contradiction", "not_entailment"})
    # Only hints that are sure: wrongly told, every single text of a user would be refused.
    if crosses or trained in _PAIR_TASKS or is_inference:
        return True
    return False if trained in _SINGLE_TASKS else None
