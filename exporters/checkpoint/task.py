"""Which task a checkpoint serves, and how its head's numbers are to be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError, UsageError
from bertonnx.exporters.checkpoint.encoders import exportable_tasks
from bertonnx.models.tasks import PROBLEM_TYPES, TASKS

__all__ = [
    "Head",
    "cross_encoder_activation",
    "require_exportable",
    "require_known",
    "task_of",
    "text_pairs",
    "values_of",
]

_SUFFIXES: tuple[tuple[str, str], ...] = (
    *((end, task.name) for task in TASKS for end in task.architectures if end != "Model"),
)
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
        activation: softmax, sigmoid or none.
    """

    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    activation: str = "none"


def require_known(task: str) -> None:
    """Raise UsageError where bertonnx has no such task."""
    names = [known.name for known in TASKS]
    if task not in names:
        raise UsageError(f"--task {task} is no task of bertonnx; type one of: {', '.join(names)}")


def require_exportable(task: str, family: str, own: Collection[str] = ()) -> None:
    """Raise UnsupportedError where no checkpoint of the family can be exported for the task.

    Args:
        task: the task's name.
        family: `model_type`.
        own: classes that the checkpoint's own Python code provides.
    """
    tasks = exportable_tasks(family, own)
    if tasks[task]:
        working = ", ".join(name for name, reason in tasks.items() if not reason)
        raise UnsupportedError(
            f"a {family} model cannot be exported for {task}: {tasks[task]}; what works: --task {working}"
        )


def task_of(architectures: Sequence[str]) -> tuple[str, str]:
    """Return the task that config.json's `architectures` name, and a note on how it was chosen."""
    if not architectures:
        return "feature-extraction", "config.json names no architecture: exported for feature-extraction"
    for architecture in architectures:
        task = _task_of_one(architecture)
        if task is not None:
            return task, f"task {task}, from the checkpoint's architecture {architecture}"
    return (
        "feature-extraction",
        f"{', '.join(architectures)} has no head that bertonnx exports: exported for feature-extraction",
    )


def _task_of_one(architecture: str) -> str | None:
    if architecture in _NO_WORDS:
        return None
    for suffix, task in _SUFFIXES:
        if architecture.endswith(suffix):
            return task
    return "feature-extraction" if architecture.endswith("Model") and "LMHead" not in architecture else None


def values_of(task: str, config: Any, raw: Mapping[str, Any]) -> Head:
    """Return how the logits of a task are read.

    The activation is the one of Hugging Face's text classification pipeline
    (`transformers/pipelines/text_classification.py`, `postprocess`).

    Args:
        task: the task's name.
        config: the loaded `PretrainedConfig`.
        raw: config.json as it lies in the folder; transformers itself mends some contradictions.

    Raises:
        CheckpointError: labels are doubled or missing, or the problem type is unknown.
    """
    if task not in ("text-classification", "token-classification"):
        return Head()
    labels = _labels(config, raw)
    if task == "token-classification":
        return Head(labels, None, "softmax")
    problem = config.problem_type
    if problem is not None and problem not in PROBLEM_TYPES:
        raise CheckpointError(
            f"config.json has problem_type {problem!r}; it can be one of {', '.join(PROBLEM_TYPES)}"
        )
    if problem == "regression":
        return Head(labels, problem, "none")
    if problem == "multi_label_classification" or len(labels) == 1:
        return Head(labels, problem or "regression", "sigmoid")
    return Head(labels, "single_label_classification", "softmax")


def _labels(config: Any, raw: Mapping[str, Any]) -> tuple[str, ...]:
    table = {int(index): str(name) for index, name in config.id2label.items()}
    if sorted(table) != list(range(len(table))):
        raise CheckpointError(
            f"config.json's id2label numbers its labels {sorted(table)}, and they must count from 0 without "
            "gaps; correct id2label"
        )
    labels = tuple(table[index] for index in range(len(table)))
    doubled = sorted({name for name in labels if labels.count(name) > 1})
    if doubled:
        raise CheckpointError(
            f"config.json's id2label gives several classes the same label ({', '.join(doubled)}); "
            "give each class its own name"
        )
    count = raw.get("num_labels")
    if raw.get("id2label") and count is not None and count != len(labels):
        raise CheckpointError(
            f"config.json has num_labels {count}, and id2label names {len(labels)} labels "
            f"({', '.join(labels[:8])}); make them agree"
        )
    return labels


def text_pairs(task: str, labels: Sequence[str], raw: Mapping[str, Any]) -> bool | None:
    """Return whether the checkpoint reads text pairs: True, False, or None where it does not say."""
    if task != "text-classification":
        return task == "question-answering"
    trained = str(raw.get("finetuning_task") or "").lower()
    names = {label.lower() for label in labels}
    is_inference = "entailment" in names and bool(names & {"contradiction", "not_entailment"})
    if cross_encoder_activation(raw) is not None or trained in _PAIR_TASKS or is_inference:
        return True
    return False if trained in _SINGLE_TASKS else None


def cross_encoder_activation(raw: Mapping[str, Any]) -> str | None:
    """Return the activation that a Sentence-Transformers cross-encoder names; None for other checkpoints."""
    saved = raw.get("sentence_transformers")
    if isinstance(saved, Mapping) and saved.get("activation_fn"):
        return str(saved["activation_fn"])
    legacy = raw.get("sbert_ce_default_activation_function")
    return str(legacy) if legacy else None
