"""An input file while it is read: known by what it holds, so that a change of it is noticed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from bertonnx.errors import InputError
from bertonnx.runtime.places import require_name
from bertonnx.wording import Message

__all__ = ["Watched", "sampled"]

WHOLE = 64 << 20
"""Bytes up to which all of a file is looked at."""

_BLOCK = 1 << 20


def sampled(file: BinaryIO, size: int) -> str:
    """Return the SHA-256, in hexadecimal, of the first `size` bytes of a file, or of a sample of them.

    Of more than `WHOLE` bytes these are 64 blocks of 1 MiB: both ends, and 62 at equal distances between.
    """
    if size <= WHOLE:
        return _sum(file, [(0, size)])
    count = WHOLE // _BLOCK
    return _sum(file, [((size - _BLOCK) * n // (count - 1), _BLOCK) for n in range(count)])


def _sum(file: BinaryIO, parts: Sequence[tuple[int, int]]) -> str:
    """Return the SHA-256 of some parts of a file, each given by its place and its bytes."""
    import hashlib  # loads OpenSSL, for which a prediction need not wait

    digest = hashlib.sha256()
    for place, left in parts:
        file.seek(place)
        while left and (piece := file.read(min(left, 1 << 16))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


class Watched:
    """An input file that was opened to be looked at, beside the reader of its rows. A context manager.

    Args:
        path: the input; "-" and what is no file (a pipe, a device) are not watched.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: BinaryIO | None = None
        self.facts: dict[str, Any] = {"name": self._path.name, "size": None, "sha256": None}
        if str(path) != "-":
            require_name(path, InputError)
        if str(path) == "-" or not self._path.is_file():
            return
        try:
            self._file = self._path.open("rb", buffering=0)
            self._was = os.fstat(self._file.fileno())
            self.facts |= {"size": self._was.st_size, "sha256": sampled(self._file, self._was.st_size)}
        except OSError as error:
            self.close()
            raise InputError(
                "the input {path} cannot be read: {why}", path=path, why=error.strerror or str(error)
            ) from error

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def digest(self) -> str | None:
        """Return the SHA-256 of all that the file held when it was opened; None of what is not watched."""
        return None if self._file is None else _sum(self._file, [(0, self._was.st_size)])

    def require_same(self) -> None:
        """Check that the name still leads to this file: it does when the reader opens it, too.

        Raises:
            InputError: it leads to another by now.
        """
        if self._file is not None and self._is_replaced():
            raise InputError("the input {path} was replaced just now; run again", path=self._path)

    def check(self) -> tuple[Message, ...]:
        """Return what is to say of an input that has been read to its end.

        Raises:
            InputError: what it held when it was opened has changed, so that the results are of no one file.
        """
        if self._file is None:
            return ()
        was, now = self._was, os.fstat(self._file.fileno())
        changed = (was.st_mtime_ns, was.st_ctime_ns, was.st_size) != (
            now.st_mtime_ns,
            now.st_ctime_ns,
            now.st_size,
        )
        # Its time can change with nothing else: what it holds decides.
        if now.st_size < was.st_size or (
            changed and sampled(self._file, was.st_size) != self.facts["sha256"]
        ):
            raise InputError(
                "the input {path} changed while it was read, so that results are of no one version of it; "
                "run again when nothing writes to it",
                path=self._path,
            )
        if now.st_size > was.st_size > 0:
            more = now.st_size - was.st_size
            return (
                Message(
                    "the input {path} grew while it was read: the {more} bytes that were added were not read",
                    path=self._path,
                    more=more,
                ),
            )
        if self._is_replaced():
            return (
                Message(
                    "the input {path} was replaced while it was read: the results are of the file before",
                    path=self._path,
                ),
            )
        return ()

    def _is_replaced(self) -> bool:
        try:
            found = self._path.stat()
        except OSError:
            return False  # it was removed, which changes nothing of what was read
        return not os.path.samestat(self._was, found)
