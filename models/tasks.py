"""The five tasks: what each reads from a checkpoint and what its graph puts out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROBLEM_TYPES", "TASKS", "Task", "task"]

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: Hugging Face's name of the task, the value of `--task`.
        architecture: suffix of the class names in `config.json`'s `architectures`.
        auto_class: the class of transformers that loads such a checkpoint.
        raw_outputs: outputs of Optimum's graph, before our heads.
        outputs: outputs of the finished file, each float32.
        method: the method of `bertonnx.Model` that serves the task.
    """

    name: str
    architecture: str
    auto_class: str
    raw_outputs: tuple[str, ...]
    outputs: tuple[str, ...]
    method: str


TASKS: tuple[Task, ...] = (
    Task(
        "feature-extraction",
        "Model",
        "AutoModel",
        raw_outputs=("last_hidden_state",),
        outputs=("sentence_embedding", "last_hidden_state"),
        method="embed",
    ),
    Task(
        "text-classification",
        "ForSequenceClassification",
        "AutoModelForSequenceClassification",
        raw_outputs=("logits",),
        outputs=("logits", "scores"),
        method="classify",
    ),
    Task(
        "token-classification",
        "ForTokenClassification",
        "AutoModelForTokenClassification",
        raw_outputs=("logits",),
        outputs=("logits", "scores"),
        method="entities",
    ),
    Task(
        "question-answering",
        "ForQuestionAnswering",
        "AutoModelForQuestionAnswering",
        raw_outputs=("start_logits", "end_logits"),
        outputs=("start_logits", "end_logits"),
        method="answer",
    ),
    Task(
        "fill-mask",
        "ForMaskedLM",
        "AutoModelForMaskedLM",
        raw_outputs=("logits",),
        outputs=("logits",),
        method="fill_mask",
    ),
)

_BY_NAME = {task.name: task for task in TASKS}


def task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        KeyError: no such task.
    """
    return _BY_NAME[name]
