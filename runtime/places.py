"""Where something may be written: what is no file is never replaced by one."""

from __future__ import annotations

from pathlib import Path

from bertonnx.errors import OutputError

__all__ = ["is_special", "require_file_or_none"]


def is_special(path: Path) -> bool:
    """Return whether there is something of this name that is neither file nor folder: a pipe, a device."""
    return path.exists() and not path.is_file() and not path.is_dir()


def require_file_or_none(path: Path) -> None:
    """Refuse to put a file in the place of what is none.

    Raises:
        OutputError: there is a pipe, a device or the like of this name.
    """
    # To rename a file over /dev/null takes it away from every program there.
    if is_special(path):
        raise OutputError(
            "{path} is no file but a device, a pipe or the like, and would be replaced; name another",
            path=path,
        )
