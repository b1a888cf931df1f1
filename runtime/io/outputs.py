"""What every output is to a job."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime.io.columns import Result
from bertonnx.wording import Option

__all__ = ["Done", "SpoolWriter", "Writer", "has_other_columns", "not_ours"]


class Done(NamedTuple):
    """What an output holds already: its rows, those with errors, those that were truncated."""

    rows: int
    errors: int
    truncated: int

    def plus(self, rows: int, errors: int, truncated: int) -> Done:
        """Return the sum."""
        return Done(self.rows + rows, self.errors + errors, self.truncated + truncated)


class Writer(ABC):
    """An output. Nothing on the disk changes before `start` or the first `write`.

    Attributes:
        path: the file, symbolic links resolved; None for standard output.
        lasting: whether a later run can go on with the file (it is no pipe and no device).
        done: what is there to go on from.
    """

    path: Path | None = None
    lasting = True
    done = Done(0, 0, 0)

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

    def finish(self) -> None:
        """Complete the output; with no row it is valid and empty."""
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


class SpoolWriter(Writer):
    """Collects rows in `OUT.partial`, and makes OUT of them at the end, aside and at one stroke."""

    path: Path

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.spool = path.with_name(path.name + ".partial")
        self._file: BinaryIO | None = None
        self._end = 0
        if path.exists() and not path.is_file():
            raise OutputError(
                "{path} is no ordinary file; only .jsonl, .csv and .tsv can be written to it", path=path
            )
        if resume and self.spool.is_file():
            self.done, self._end = self._guarded(self._scan)

    @abstractmethod
    def _scan(self) -> tuple[Done, int]:
        """Return what the spool holds, and where its last whole row or batch ends."""

    @abstractmethod
    def _begin(self, file: BinaryIO) -> None:
        """Write what comes before the first row."""

    @abstractmethod
    def _assemble(self, target: BinaryIO) -> None:
        """Write the finished file from the spool, in bounded memory."""

    def _start(self) -> None:
        if self._file is not None:
            return
        if self._end:
            self._file = self.spool.open("r+b")
            self._file.truncate(self._end)
            self._file.seek(self._end)
        else:
            self._file = self.spool.open("wb")
            self._begin(self._file)
            self._file.flush()

    def _flush(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.flush()

    def _finish(self) -> None:
        self._flush()
        assert self._file is not None
        self._file.close()
        # Beside it, and not in a folder for such things: a rename is one stroke on one file system alone.
        aside = self.path.with_name(self.path.name + ".finishing")
        try:
            with aside.open("wb") as target:
                self._assemble(target)
                target.flush()
                # Or a power cut after the rename could leave an empty file in place of the older one.
                os.fsync(target.fileno())
            aside.replace(self.path)
        finally:
            aside.unlink(missing_ok=True)

    def abort(self) -> None:
        """Close the spool and keep it. Does not raise."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def close(self) -> None:
        """Remove the spool."""
        with suppress(OSError):
            self.spool.unlink(missing_ok=True)


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
