"""The file that says what a run read, with what, and what it wrote: for those who must show it later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime.io.files import create, mode_of, resolved
from bertonnx.wording import Option

__all__ = ["check_manifest", "sha256_of", "write_manifest"]

_PIECE = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    import hashlib  # loads OpenSSL, for which a run without a manifest need not wait

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def check_manifest(path: str | Path, *, others: Mapping[str, str | Path | None]) -> None:
    """Check, before any work is done, that a manifest can be written.

    Args:
        path: the file.
        others: the other files of the run, by what they are to it; None and "-" are no files.

    Raises:
        OutputError: its folder is missing, or it is a folder itself.
        UsageError: it is one of the others.
    """
    given = resolved(Path(path))
    for what, other in others.items():
        if other is not None and str(other) != "-" and _is_same(given, Path(other)):
            raise UsageError(
                "{asked} is the {what} of the run; name another file",
                asked=Option("manifest", path),
                what=what,
            )
    if given.is_dir() or not given.absolute().parent.is_dir():
        why = "it is a folder" if given.is_dir() else "there is no such folder"
        raise OutputError("cannot write {path}: {why}", path=given, why=why)


def _is_same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.absolute() == other.absolute()


def write_manifest(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write a manifest, aside and at one stroke.

    Raises:
        OutputError: it cannot be written.
    """
    target = resolved(Path(path))
    aside = target.with_name(target.name + ".new")
    try:
        with create(aside, mode_of(target)) as file:
            file.writelines(_text(facts))
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OutputError(
            "cannot write {path}: {why}; the results are complete",
            path=target,
            why=error.strerror or str(error),
        ) from error


def _text(facts: Mapping[str, Any]) -> Iterator[bytes]:
    yield json.dumps(facts, indent=2).encode()
    yield b"\n"
