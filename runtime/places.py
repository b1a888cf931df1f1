"""Names as users give them: what cannot be one is said, and no file takes the place of what is none."""

from __future__ import annotations

from pathlib import Path

from bertonnx.errors import BertonnxError, OutputError

__all__ = ["is_special", "require_file_or_none", "require_name"]


def require_name(path: str | Path, error: type[BertonnxError]) -> None:
    """Check that the system can look a name up, whether or not there is something.

    Args:
        path: the name.
        error: what is raised where it cannot: the name is too long, holds a NUL or half a character, its
            links lead in a circle, or its folder may not be looked into.
    """
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise error("{path} cannot be looked up: {why}", path=path, why=why) from problem


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
