"""What every output is to a job."""

from __future__ import annotations

import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime.io.columns import Result
from bertonnx.runtime.io.files import create, is_regular, is_same, mode_of, open_again, refuse_link
from bertonnx.wording import Message, Option

__all__ = ["FRAME_BYTES", "Done", "Mark", "SpoolWriter", "Writer", "gone", "has_other_columns", "not_ours"]


class Done(NamedTuple):
    """What an output holds already: its rows, those with errors, those that were truncated."""

    rows: int
    errors: int
    truncated: int

    def plus(self, rows: int, errors: int, truncated: int) -> Done:
        """Return the sum."""
        return Done(self.rows + rows, self.errors + errors, self.truncated + truncated)


class Mark(NamedTuple):
    """How far an output was written, and what its bytes add up to until there.

    Attributes:
        size: bytes from the start of the file.
        crc: CRC-32 over them.
    """

    size: int
    crc: int


class Writer(ABC):
    """An output. Nothing on the disk changes before `clear`, `start` or the first `write`.

    Attributes:
        path: the file, symbolic links resolved; None for standard output.
        lasting: whether a later run can go on with the file (it is no pipe and no device).
        done: what is there to go on from.
        damage: what to say of rows that an earlier run left and that are not as they were written.
    """

    path: Path | None = None
    lasting = True
    done = Done(0, 0, 0)
    damage: Message | None = None

    def clear(self) -> None:
        """Take away what an earlier run left, unless this one goes on from it.

        Raises:
            OutputError: it cannot be taken away.
        """
        self._guarded(self._clear)

    def start(self) -> None:
        """Make room: an older output is emptied, or cut behind its last whole row to go on from it.

        Raises:
            OutputError: the file cannot be written.
        """
        self._guarded(self._start)

    def write(self, index: int, result: Result) -> None:
        """Add one row.

        Raises:
            OutputError: it cannot be written; the rows before it stay.
            BrokenPipeError: nobody reads standard output any more.
        """
        self._guarded(self._start)
        self._guarded(lambda: self._write(index, result))

    def flush(self) -> None:
        """Hand all rows so far to the operating system."""
        self._guarded(self._flush)

    def mark(self) -> Mark | None:
        """Return how far the file itself was written; None where the rows carry their own checksums."""
        return None

    def require_there(self) -> None:  # noqa: B027  (standard output has no name)
        """Check that what is written to is still what its name leads to.

        Raises:
            OutputError: the file or its folder was removed, renamed or replaced.
        """

    def finish(self) -> None:
        """Complete the output; with no row it is valid and empty.

        Raises:
            OutputError: it cannot be completed, or is not where its name leads.
        """
        self._guarded(self._start)
        self._guarded(self._finish)

    def finished(self) -> Done | None:
        """Return what a finished output holds, None where there is none."""
        if self.path is None or not self.path.is_file() or self.path.stat().st_size == 0:
            return None
        done: Done = self._guarded(self._scan_finished)
        return done

    @abstractmethod
    def abort(self) -> None:
        """Close the files and keep what is finished. Does not raise."""

    def close(self) -> None:  # noqa: B027  (most outputs have nothing to remove)
        """Remove what the finished output does not need."""

    def _clear(self) -> None:  # noqa: B027  (some have nothing to clear)
        """Take away what an earlier run left."""

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _write(self, index: int, result: Result) -> None: ...

    @abstractmethod
    def _flush(self) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def _scan_finished(self) -> Done: ...

    def _guarded(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except BrokenPipeError:
            raise  # no fault of the output: its reader has seen enough
        except OSError as error:
            why = error.strerror or str(error)
            if self.path is None:
                raise OutputError("cannot write standard output: {why}", why=why) from error
            raise OutputError(
                "cannot write {path}: {why}; the rows written so far are kept: mend that and go on with "
                "{resume}",
                path=self.path,
                why=why,
                resume=Option("resume", True),
            ) from error


_FRAME = struct.Struct("<II")
FRAME_BYTES = _FRAME.size
"""Before each part of a spool: its length, and CRC-32 over it and all parts before it."""


class SpoolWriter(Writer):
    """Collects rows in `OUT.partial`, and makes OUT of them at the end, aside and at one stroke.

    The spool is a sequence of parts (`_put`), each with a checksum, so that a kill costs the last of them,
    and damage costs those behind it.
    """

    path: Path

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.spool = path.with_name(path.name + ".partial")
        self._file: BinaryIO | None = None
        self._end = self._crc = 0
        if path.exists() and not path.is_file():
            raise OutputError(
                "{path} is no ordinary file; only .jsonl, .csv and .tsv can be written to it", path=path
            )
        if resume:
            refuse_link(self.spool)
            if is_regular(self.spool):
                self.done = self._guarded(self._scanned)

    @abstractmethod
    def _scan(self, parts: Iterator[bytes]) -> Done:
        """Return what the parts of a spool hold."""

    @abstractmethod
    def _begin(self) -> None:
        """Write what comes before the first row."""

    @abstractmethod
    def _assemble(self, parts: Iterator[bytes], target: BinaryIO) -> None:
        """Write the finished file from the parts of the spool, in bounded memory."""

    def _put(self, part: bytes) -> None:
        """Add a part to the spool."""
        assert self._file is not None
        self._crc = zlib.crc32(part, self._crc)
        self._file.write(_FRAME.pack(len(part), self._crc) + part)
        self._file.flush()

    def _parts(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the parts of a spool as far as they are whole."""
        file.seek(0)
        self._end = self._crc = 0
        size = os.fstat(file.fileno()).st_size
        while self._end + _FRAME.size <= size:
            length, crc = _FRAME.unpack(file.read(_FRAME.size))
            # What a kill cut off is no damage.
            if self._end + _FRAME.size + length > size:
                return
            part = file.read(length)
            if zlib.crc32(part, self._crc) != crc:
                self.damage = Message(
                    "{path} was damaged; the rows from there on are computed again", path=self.spool
                )
                return
            # Before it is yielded: who takes it may end here.
            self._end, self._crc = self._end + _FRAME.size + length, crc
            yield part

    def _scanned(self) -> Done:
        with self.spool.open("rb") as file:
            return self._scan(self._parts(file))

    def _clear(self) -> None:
        if not self._end:
            refuse_link(self.spool)
            self.spool.unlink(missing_ok=True)

    def _start(self) -> None:
        if self._file is not None:
            return
        if self._end:
            self._file = open_again(self.spool)
            self._file.truncate(self._end)
            self._file.seek(self._end)
        else:
            # What may be read by nobody else in the end may not be before.
            self._file = create(self.spool, mode_of(self.path))
            self._begin()

    def _flush(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.flush()

    def require_there(self) -> None:
        """Check that the spool is where its name leads."""
        if self._file is not None and not is_same(self._file, self.spool):
            raise gone(self.spool)

    def _finish(self) -> None:
        self._flush()
        self.require_there()
        assert self._file is not None
        # Beside it, and not in a folder for such things: a rename is one stroke on one file system alone.
        aside = self.path.with_name(self.path.name + ".finishing")
        mode = mode_of(self.path)
        try:
            with create(aside, mode_of(self.spool) if mode is None else mode) as target:
                self._assemble(self._parts(self._file), target)
                target.flush()
                # Or a power cut after the rename could leave an empty file in place of the older one.
                os.fsync(target.fileno())
                size = os.fstat(target.fileno()).st_size
                aside.replace(self.path)
                if not is_same(target, self.path) or self.path.stat().st_size != size:
                    raise gone(self.path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        self._file.close()

    def abort(self) -> None:
        """Close the spool and keep it. Does not raise."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def close(self) -> None:
        """Remove the spool."""
        with suppress(OSError):
            self.spool.unlink(missing_ok=True)


def gone(path: Path) -> OutputError:
    """Return the error for a file that somebody took away or replaced while a run wrote it."""
    return OutputError(
        "{path} was removed, renamed or replaced while this run wrote it, so that its results are not there; "
        "run again, and let nothing else touch it",
        path=path,
    )


def not_ours(path: Path) -> UsageError:
    """Return the error for a finished output that cannot come from the command that shall go on with it."""
    return UsageError(
        "{path} was not written by this command; run without {resume} to replace it",
        path=path,
        resume=Option("resume"),
    )


def has_other_columns(path: Path) -> UsageError:
    """Return the error for an unfinished output that holds the results of another model."""
    return UsageError(
        "{path} has other columns than this model's results; run without {resume} to replace it",
        path=path,
        resume=Option("resume"),
    )
