"""What users may call tasks."""

from __future__ import annotations

import pytest

from bertonnx.errors import UsageError
from bertonnx.exporters.options import ExportOptions
from bertonnx.models.tasks import TASKS, task_meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ner", "token-classification"),
        ("NER", "token-classification"),
        ("sentiment-analysis", "text-classification"),
        ("Sentiment_Analysis", "text-classification"),
        ("sentence-similarity", "feature-extraction"),
        (" Feature-Extraction ", "feature-extraction"),
        ("masked-lm", "fill-mask"),
        ("zero-shot-classification", "text-classification"),
        ("reranking", "text-ranking"),
    ],
)
def test_tasks_have_other_names(typed: str, meant: str) -> None:
    assert ExportOptions(task=typed).task == meant


def test_transformers_and_optimum_mean_the_same() -> None:
    from optimum.exporters.tasks import TasksManager
    from transformers.pipelines import TASK_ALIASES

    known = {alias for row in TASKS for alias in row.aliases}
    theirs = {**TasksManager._SYNONYM_TASK_MAP, **TASK_ALIASES}
    for alias in known & set(theirs):
        assert task_meant(alias) == theirs[alias]
    # No name of transformers for a task of ours is missing.
    assert {alias for alias, name in TASK_ALIASES.items() if name in TASKS} <= known


def test_a_name_means_one_task() -> None:
    names = [name for row in TASKS for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))


def test_what_is_no_task_is_said_as_it_was_typed() -> None:
    with pytest.raises(UsageError, match=r"^task=.NERD. is unknown; it can be feature-extraction, "):
        ExportOptions(task="NERD")
