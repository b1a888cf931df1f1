"""Names of classes that a user gives, one a line, where a checkpoint numbers them or has others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bertonnx.errors import InputError, UsageError
from bertonnx.exporters.checkpoint.task import Head
from bertonnx.models.tasks import Task
from bertonnx.wording import Option

__all__ = ["named_head", "read_labels"]


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels of a file, one a line.

    Raises:
        InputError: the file cannot be read, is empty, or names two classes alike.
    """
    try:
        # As editors on Windows write it; a label is what stands in the line, without spaces around it.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("{path} cannot be read as labels ({why})", path=path, why=error) from error
    labels = [line.strip() for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    if not labels or not all(labels):
        raise InputError(
            "{path} has an empty line where a label should be; write one label a line", path=path
        )
    doubled = sorted({label for label in labels if labels.count(label) > 1})
    if doubled:
        raise InputError(
            "{path} names several classes alike ({doubled}); give each class its own name",
            path=path,
            doubled=", ".join(doubled),
        )
    return tuple(labels)


def named_head(head: Head, row: Task, file: Path | None) -> Head:
    """Return a head with the labels of a file; the same where there is none.

    Raises:
        UsageError: the task has no labels, or another number of them.
        InputError: the file cannot be read.
    """
    if file is None:
        return head
    labels = read_labels(file)
    if not head.labels:
        raise UsageError(
            "{asked} names classes, and {task} has none; leave it out",
            asked=Option("labels", str(file)),
            task=row.name,
        )
    if len(labels) != len(head.labels):
        raise UsageError(
            "{asked} names {count} classes, and this checkpoint has {there}",
            asked=Option("labels", str(file)),
            count=len(labels),
            there=len(head.labels),
        )
    return replace(head, labels=labels)
