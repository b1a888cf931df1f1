"""The file that says what a run read, with what, and what it wrote: for those who must show it later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bertonnx.errors import OutputError
from bertonnx.runtime.io.files import create, mode_of, resolved
from bertonnx.runtime.places import is_special

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


def check_manifest(path: str | Path) -> None:
    """Check, before any work is done, that a manifest can be written.

    Raises:
        OutputError: its folder is missing, or it is a folder itself.
    """
    given = resolved(Path(path))
    if given.is_dir() or not given.absolute().parent.is_dir():
        why = "it is a folder" if given.is_dir() else "there is no such folder"
        raise OutputError("cannot write {path}: {why}", path=given, why=why)


def write_manifest(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write a manifest, aside and at one stroke.

    Raises:
        OutputError: it cannot be written.
    """
    target = resolved(Path(path))
    aside = target.with_name(target.name + ".new")
    try:
        if is_special(target):
            # A pipe, or a terminal: it is written to, and nothing is put in its place.
            with target.open("wb") as stream:
                stream.writelines(_text(facts))
            return
        with create(aside, mode_of(target)) as file:
            file.writelines(_text(facts))
        aside.replace(target)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise OutputError(
            "cannot write {path}: {why}; the results are complete",
            path=target,
            why=error.strerror or str(error),
        ) from error


def _text(facts: Mapping[str, Any]) -> Iterator[bytes]:
    yield json.dumps(facts, indent=2).encode()
    yield b"\n"
