"""A model's file held still: what is read of it cannot change, and a file that shrinks ends no process.

A file that is mapped into memory shows what is written over it, and a process that reads where a file was
cut is killed (SIGBUS). So a file is mapped only while Linux holds a lease on it: who wants to write waits
until the model is open. By then nothing is mapped any more (`own_memory`). Where there is no lease, since
the file is another user's, on a network, or on another system, it is read into memory first, which takes
longer, and more memory (benchmarks/load.py says how much).

Source: fcntl(2), "Leases".
"""

from __future__ import annotations

import mmap
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from bertonnx.errors import ModelFileError
from bertonnx.runtime.modelfile.own_memory import MAPS
from bertonnx.runtime.modelfile.structure import Structure, structure_of
from bertonnx.runtime.places import require_name
from bertonnx.wording import Call

__all__ = ["Held", "NoModelError", "held"]

_BLOCK = 1 << 24


class NoModelError(ValueError):
    """A file is no ONNX model, or damaged."""


class Held:
    """A file that stays as it is while this is held.

    Attributes:
        path: the file.
        data: all its bytes.
        leased: whether they are mapped from the file; else they are in memory of our own.
        stamp: device, inode, size and times of the file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.stamp = _stamp(descriptor)
        self.leased = _lease(descriptor)
        if self.leased:
            # Only now: before the lease, it may have shrunk.
            self.stamp = _stamp(descriptor)
            self.data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        else:
            self.data = _read(descriptor, self.stamp[2])
            self.require_same()

    @cached_property
    def structure(self) -> Structure:
        """What the file is made of.

        Raises:
            NoModelError: it is no ONNX model, or damaged.
            UnicodeDecodeError: it is damaged.
        """
        try:
            return structure_of(self.data)
        except UnicodeDecodeError:
            raise
        except (ValueError, IndexError) as error:
            raise NoModelError(str(error)) from error

    def require_same(self) -> None:
        """Make sure that nobody wrote to the file meanwhile.

        Raises:
            ModelFileError: somebody did.
        """
        if _stamp(self._descriptor) != self.stamp:
            raise ModelFileError(
                "{path} changed while it was being opened; wait until it is complete. To replace a model, "
                "write the new one beside it and rename it",
                path=self.path,
            )

    def release(self) -> None:
        """Let the file go."""
        # A view of it that somebody still has keeps the memory until it goes; nothing is read through it.
        with suppress(BufferError):
            self.data.close()


_lock = threading.RLock()
_holding: dict[str, tuple[Held, int]] = {}
"""What is held now, by the file's real path, and how often: a file is read once for all that asks of it."""


def _in_child() -> None:
    """Forget what another process holds, whose threads might have held the lock as well."""
    global _lock
    _lock = threading.RLock()
    _holding.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@contextmanager
def held(path: Path) -> Iterator[Held]:
    """Hold a file.

    Raises:
        ModelFileError: missing, a folder, empty, no regular file, not readable, or changed meanwhile.
    """
    require_name(path, ModelFileError)
    if path.is_dir():
        raise ModelFileError(
            "{path} is a folder; a model file is expected, such as {example}",
            path=path,
            example=path / "model.onnx",
        )
    key = os.path.realpath(path)
    file = _take(path, key)
    try:
        yield file
        if file.leased:  # a lease ends after 45 seconds where somebody waits for the file
            file.require_same()
    finally:
        _give_back(key)


def _take(path: Path, key: str) -> Held:
    with _lock:
        file, times = _holding.get(key, (None, 0))
        if file is None:
            file = _opened(path)
        _holding[key] = (file, times + 1)
        return file


def _give_back(key: str) -> None:
    with _lock:
        file, times = _holding.pop(key)
        if times > 1:
            _holding[key] = (file, times - 1)
        else:
            file.release()
            os.close(file._descriptor)


def _opened(path: Path) -> Held:
    descriptor = -1
    try:
        # Without waiting for a writer, should it be a FIFO.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ModelFileError("{path} is no file but a device or the like", path=path)
        if not os.fstat(descriptor).st_size:
            raise ModelFileError("{path} is empty (zero bytes); export or copy the model again", path=path)
        return Held(path, descriptor)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, FileNotFoundError):
            raise ModelFileError(
                "there is no file {path}; make one with: {export}",
                path=path,
                export=Call("export", "SOURCE", output=path),
            ) from error
        if isinstance(error, (OSError, ValueError)):  # the latter from a name with a zero byte
            why = getattr(error, "strerror", None) or str(error)
            raise ModelFileError("{path} cannot be read: {error}", path=path, error=why) from error
        raise


def _stamp(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _lease(descriptor: int) -> bool:
    """Let who wants to write to a file wait until its descriptor is closed; False where that cannot be."""
    if sys.platform != "linux" or not MAPS.exists():
        return False
    import fcntl  # Unix has it alone

    try:
        # The usual signal to who holds a lease would end the process; this one does nothing by itself.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    return True


def _read(descriptor: int, size: int) -> mmap.mmap:
    """Return a file's first bytes in memory that goes back to the system as soon as it is closed."""
    memory = mmap.mmap(-1, size)
    with memoryview(memory) as view, open(descriptor, "rb", buffering=0, closefd=False) as stream:
        place = 0
        while place < size and (count := stream.readinto(view[place : place + _BLOCK])):
            place += count
    return memory
