"""Git LFS leaves a short text in the place of a large file, where its contents were not fetched."""

from __future__ import annotations

from pathlib import Path

from bertonnx.errors import CheckpointError

__all__ = ["require_no_pointer"]

_LFS = b"version https://git-lfs"


def require_no_pointer(path: Path) -> None:
    """Refuse what a clone without git-lfs leaves under the weights' name: a text of some 130 bytes.

    Raises:
        CheckpointError: it is one.
    """
    with path.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                "{path} is a Git LFS pointer, not the weights; in the repository, type: git lfs pull",
                path=path,
            )
