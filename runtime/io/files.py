"""The files that a run makes: never through a link, with the user's mode, and by one run at a time."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bertonnx.errors import OutputError
from bertonnx.wording import Message

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "BESIDE",
    "Lock",
    "create",
    "is_regular",
    "is_same",
    "mode_of",
    "open_again",
    "open_in_place",
    "refuse_link",
    "replacing",
    "resolved",
]

BESIDE = (".partial", ".progress", ".progress.new", ".finishing", ".lock")
"""Endings of the files that a run makes beside its output, and takes away."""

_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def is_regular(path: Path) -> bool:
    """Return whether there is an ordinary file of this name, and no link to one."""
    return path.is_file() and not path.is_symlink()


def mode_of(path: Path) -> int | None:
    """Return the permissions of an existing file; None where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return stat.S_IMODE(found.st_mode) if stat.S_ISREG(found.st_mode) else None


def create(path: Path, mode: int | None = None) -> BinaryIO:
    """Create a file anew, in place of what a killed run left, and return it open for reading and writing.

    Args:
        path: the file.
        mode: its permissions; None for what the user's umask gives.

    Raises:
        OutputError: there is a link of that name.
        OSError: the file cannot be made.
    """
    refuse_link(path)
    path.unlink(missing_ok=True)
    # Exclusive: what somebody puts there between the two lines is an error and is never written to.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o666 if mode is None else 0o600)
    if mode is not None:
        os.fchmod(descriptor, mode) if hasattr(os, "fchmod") else path.chmod(mode)
    return os.fdopen(descriptor, "w+b")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside another, which takes its place when all went well, and goes away otherwise.

    Args:
        path: the file, links resolved; what it holds stays until then, and its permissions for good.

    Raises:
        OutputError: there is a link where the new file would be.
        OSError: it cannot be written.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with create(aside, mode_of(path)) as file:
            yield file
        aside.replace(path)
    except BaseException:  # an interrupt too leaves nothing
        if is_regular(aside):
            with suppress(OSError):
                aside.unlink()
        raise


def open_again(path: Path) -> BinaryIO:
    """Open a file that a run left beside its output, for reading and writing.

    Raises:
        OutputError: it is a link, or has a second name, so that writing could change something else.
        OSError: it cannot be opened.
    """
    refuse_link(path)
    descriptor = os.open(path, os.O_RDWR | _PLAIN)
    found = os.fstat(descriptor)
    if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise _link(path)
    return os.fdopen(descriptor, "r+b")


def open_in_place(path: Path) -> BinaryIO:
    """Open an output for writing, keeping what it holds and who may read it; make it where there is none.

    Raises:
        OutputError: it has become a link since its name was looked up.
        OSError: it cannot be opened.
    """
    refuse_link(path)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | _PLAIN, 0o666), "wb")


def refuse_link(path: Path) -> None:
    """Raise an OutputError where a symbolic link has this name."""
    if path.is_symlink():
        raise _link(path)


def _link(path: Path) -> OutputError:
    return OutputError(
        "{path} is a link, and a run writes through none beside its output; remove it: rm '{path}'", path=path
    )


def is_same(file: BinaryIO, path: Path) -> bool:
    """Return whether an open file is still what its name leads to."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except OSError:
        return False


def resolved(given: Path) -> Path:
    """Return what a link leads to, so that this is replaced and not the link.

    Raises:
        OutputError: its links lead in a circle, or its name is too long, or those of the files beside it.
    """
    try:
        target = given.resolve()
        for ending in BESIDE:
            is_regular(target.with_name(target.name + ending))
        return target
    except (OSError, RuntimeError, ValueError) as error:
        # Before Python 3.13, RuntimeError for links in a circle; ValueError of a name with a NUL.
        why = "its links lead in a circle"
        if not isinstance(error, RuntimeError):
            why = getattr(error, "strerror", None) or str(error)
        raise OutputError("cannot write {path}: {why}", path=given, why=why) from error


class Lock:
    """Keeps a second run from an output, by a lock on `OUT.lock`, which the system drops with its process.

    A context manager, which may be entered again while it is held. The file goes when the lock is given back;
    one that a killed run left is nobody's, and the next run takes it.

    Args:
        output: the file that one run at a time may write.

    Attributes:
        problem: why there is no lock although one was asked for; None where it is held.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._path = output.with_name(output.name + ".lock")
        self._depth = 0
        self._descriptor: int | None = None
        self.problem: Message | None = None

    def __enter__(self) -> Lock:
        # What is no file (a pipe, a device) can have any number of writers.
        if self._depth == 0 and (self._output.is_file() or not self._output.exists()):
            self._take()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._descriptor is not None:
            # Before it is closed, so that nobody can hold it and see it go.
            with suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> None:
        if fcntl is None:
            self.problem = self._without("this system has no flock")
            return
        while self._descriptor is None and self.problem is None:
            refuse_link(self._path)
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | _PLAIN, 0o666)
                if self._locked(descriptor):
                    self._descriptor = descriptor
                else:
                    os.close(descriptor)
            except OSError as error:
                why = error.strerror or str(error)
                raise OutputError("cannot write {path}: {why}", path=self._path, why=why) from error

    def _locked(self, descriptor: int) -> bool:
        """Lock the file; False where its name leads elsewhere by now, or nothing can be locked here."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise OutputError(
                "another run writes {output} (process {holder}); wait until it ends, or name another output",
                output=self._output,
                holder=holder or "unknown",
            ) from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            with suppress(OSError):
                self._path.unlink()
            self.problem = self._without(error.strerror or str(error))
            return False
        try:
            # The run that held it may have taken it away in between.
            if not os.path.samestat(os.fstat(descriptor), self._path.lstat()):
                return False
        except OSError:
            return False
        # For the message alone, which can do without it on a full disk.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return True

    def _without(self, why: str) -> Message:
        return Message(
            "nothing keeps a second run from writing {output} at the same time: "
            "no file can be locked there ({why})",
            output=self._output,
            why=why,
        )
