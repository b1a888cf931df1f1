"""The libraries that can check an export by themselves, a row each.

Fields that name code hold an import path, as in `models.tasks`. No other module compares their names.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertonnx.models.registry import Registry
from bertonnx.wording import Install

__all__ = ["VERIFIERS", "Verifier", "register"]


@dataclass(frozen=True)
class Verifier:
    """A library whose own answers an exported file is compared with.

    Attributes:
        name: the value of `--verify-with`, and the library's distribution.
        module: what Python imports.
        install: what brings it.
        answers: `(Checkpoint, ExportOptions, rows) -> answers`: what the library itself gives for each row
            (`exporters.verify.independent`).
        pairs: whether it reads text pairs alone where a model gives scores.
        made: `(Checkpoint) -> bool`: whether the checkpoint is one that the library saved.
    """

    name: str
    module: str
    install: Install
    answers: str
    made: str
    pairs: bool = False


VERIFIERS: Registry[Verifier] = Registry(
    "verifier",
    Verifier(
        "sentence-transformers",
        module="sentence_transformers",
        install=Install("export", packages=("sentence-transformers",)),
        answers="bertonnx.exporters.verify.independent:sentence_answers",
        made="bertonnx.exporters.verify.independent:is_sentence_folder",
        pairs=True,
    ),
    Verifier(
        "peft",
        module="peft",
        install=Install("export,adapters"),
        answers="bertonnx.exporters.verify.independent:unmerged_answers",
        made="bertonnx.exporters.verify.independent:has_adapter",
    ),
    Verifier(
        "tensorflow",
        module="tensorflow",
        install=Install("export,tensorflow", packages=("tensorflow", "tf-keras")),
        answers="bertonnx.exporters.verify.tensorflow:tensorflow_answers",
        made="bertonnx.exporters.verify.tensorflow:is_replica",
    ),
)


def register(row: Verifier) -> None:
    """Add a verifier, from this package or another.

    Raises:
        ValueError: another one has its name.
    """
    VERIFIERS.register(row)
