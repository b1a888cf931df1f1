"""SetFit folders: a Sentence-Transformers folder with a classifier of scikit-learn in a pickle."""

from __future__ import annotations

from pathlib import Path

from bertonnx.errors import UnsupportedError
from bertonnx.exporters.checkpoint.folder import SETFIT_CONFIG, SETFIT_HEAD
from bertonnx.models.tasks import ENCODER, Task
from bertonnx.wording import Option

__all__ = ["require_no_classifier"]


def require_no_classifier(folder: Path, asked: Task | None) -> None:
    """Refuse a SetFit folder whose classifier nobody asked to leave out.

    Raises:
        UnsupportedError: saying what to type.
    """
    found = [name for name in (SETFIT_CONFIG, SETFIT_HEAD) if (folder / name).is_file()]
    if found and asked is None:
        raise UnsupportedError(
            "{folder} is a SetFit model ({found}): its classifier is no part of the checkpoint's weights, "
            "and would be left out; for the embeddings alone, add {option}",
            folder=folder,
            found=", ".join(found),
            option=Option("task", ENCODER.name),
        )
