"""A run from an input to an output that can be interrupted at any moment, and resumed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertonnx.errors import OutputError, RowError, UsageError
from bertonnx.runtime.io.inputs import Input, given_once, needs_pair
from bertonnx.runtime.io.outputs import Done, Writer
from bertonnx.runtime.io.predictor import Predictor
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.io.resume import Note, Setting, noted_options, origin_of
from bertonnx.runtime.io.watched import Watched
from bertonnx.runtime.io.writers import Target, open_writer
from bertonnx.runtime.options import DecodeOptions, RunOptions
from bertonnx.runtime.rows import Item
from bertonnx.wording import PYTHON, Face, Message, Option

__all__ = ["Job", "JobProgress", "JobReport"]

_ALL_ROWS = sys.maxsize


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is: rows in the output (those of earlier runs included), bytes of the input."""

    rows: int
    errors: int
    truncated: int
    bytes_done: int
    bytes_total: int | None


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did.

    Attributes:
        rows: rows in the output, those of earlier runs included.
        errors: how many of them carry an error.
        truncated: how many of them come from a text that was cut. A finished `.npy` does not
            say it, so that resuming one that is complete gives 0.
        resumed_rows: how many of them were there already.
        seconds: what this run took.
        complete_before: whether nothing was done, since the output had a row for each of the input.
            Nothing beside a complete output says which model, options and input made it.
        notes: what to say of the input and the output: the input grew or was replaced meanwhile, an
            unfinished output was damaged, there was no lock.
        input: with a manifest: the input's `path`, `size` and `sha256`, as it was when it was opened; the
            last two are None of a pipe.
    """

    rows: int
    errors: int
    truncated: int
    resumed_rows: int
    seconds: float
    complete_before: bool = False
    notes: tuple[Message, ...] = ()
    input: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Job:
    """One result for every row of an input, in its order.

    Attributes:
        predictor: the model.
        input: a file, or `-` for standard input; see `readers`.
        output: a checked file; None for JSON Lines on standard output; see `writers`.
        decode: how results are made.
        options: the columns to read, what a failed row does, and whether to resume: without an unfinished
            output there, that starts from the beginning; with a complete one, it does nothing.
        settings: what else the results depend on, by the names of options, to be compared when a run is
            resumed: values that hold, whether they were given or not.
        face: for whom the errors of rows are worded.
        progress: called after every row.
    """

    predictor: Predictor
    input: str | Path
    output: Target | None
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    options: RunOptions = field(default_factory=RunOptions)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    face: Face = PYTHON
    progress: Callable[[JobProgress], None] | None = None

    def run(self) -> JobReport:
        """Write the results, and return what was done.

        Raises:
            InputError: the input cannot be read.
            OutputError: the output cannot be written.
            UsageError: the output cannot be resumed with these options.
            RowError: a row failed, with `on_error="fail"`; the rows before it are in the output.
        """
        if self.output is None:
            return self._run(None)
        with self.output.lock as lock:
            return self._run(lock.problem)

    def _run(self, unlocked: Message | None) -> JobReport:
        began = time.monotonic()
        with Watched(self.input) as watched:
            note = self._note(watched)
            resuming = self.options.resume and note.exists()
            # Before the writer looks at the file: of another model's, its words would mislead.
            damage = note.compare() if resuming else None
            writer = open_writer(self.output, card=self.predictor.card, decode=self.decode, resume=resuming)
            before = writer.finished() if self.options.resume and not resuming else None
            if before is not None and self._is_complete(before):
                writer.close()
                note.remove()
                seconds = time.monotonic() - began
                return JobReport(
                    *before,
                    resumed_rows=before.rows,
                    seconds=seconds,
                    complete_before=True,
                    input=self._input(watched),
                )
            done = writer.done
            # The input is opened before the output is touched, so that a wrong name costs no older result.
            with self._opened(done.rows) as rows:
                watched.require_same()
                if rows.skipped < done.rows:
                    raise self._too_few(rows.skipped, done.rows)
                total, notes = _Loop(self, writer, note, watched).run(rows, done)
            facts = self._input(watched)
        notes = tuple(one for one in (unlocked, damage, writer.damage, *notes) if one is not None)
        seconds = time.monotonic() - began
        return JobReport(*total, resumed_rows=done.rows, seconds=seconds, notes=notes, input=facts)

    def _input(self, watched: Watched) -> Mapping[str, Any] | None:
        if self.options.manifest is None:
            return None
        return {"path": str(self.input), "size": watched.facts["size"], "sha256": watched.digest()}

    def _note(self, watched: Watched) -> Note:
        if self.output is None:
            if self.options.resume:
                raise UsageError(
                    "{resume} goes on with a file; name it with {output}",
                    resume=Option("resume"),
                    output=Option("output", "FILE"),
                )
            return Note(None, {})
        columns: dict[str, Setting] = {"column": self.options.column, "pair_column": self.options.pair_column}
        if self.options.csv_safe:
            columns["csv_safe"] = True
        settings = {**columns, **noted_options(self.decode), **self.settings}
        return Note(self.output, origin_of(self.predictor, watched, settings))

    def _opened(self, skip: int) -> Input:
        pairs = needs_pair(self.predictor.card, self.decode, self.options)
        once = given_once(self.predictor.card, self.decode)
        return open_rows(self.input, self.options, needs_pair=pairs, skip=skip, once=once)

    def _is_complete(self, finished: Done) -> bool:
        """Return whether an output without a note has all rows, or raise; False where it has none yet."""
        with self._opened(_ALL_ROWS) as rows:
            found = rows.skipped
        if found != finished.rows:
            # A header alone is all that a kill leaves before there is a note.
            if not finished.rows:
                return False
            assert self.output is not None
            raise UsageError(
                "{output} holds {rows} rows, the input has {found}, and no {output}.progress says which "
                "model and options it was made with; run without {resume} to replace it",
                output=self.output.given,
                rows=finished.rows,
                found=found,
                resume=Option("resume"),
            )
        return True

    def _too_few(self, found: int, done: int) -> UsageError:
        assert self.output is not None
        return UsageError(
            "{output} holds {done} rows already, and the input has {found}: it is another input; "
            "give the one it was begun with, or run without {resume} to start over",
            output=self.output.given,
            done=done,
            found=found,
            resume=Option("resume"),
        )


class _Loop:
    """The way from rows to results."""

    def __init__(self, job: Job, writer: Writer, note: Note, watched: Watched) -> None:
        self._job = job
        self._writer = writer
        self._note = note
        self._watched = watched

    def run(self, rows: Input, done: Done) -> tuple[Done, tuple[Message, ...]]:
        """Write the results of all rows behind those that are done, and complete the output."""
        try:
            results = self._job.predictor.stream(rows, self._job.decode)
            try:
                for result in results:
                    done = self._take(result, done, rows)
            finally:
                # At once, not when it is collected: the engine still runs what it has read ahead.
                results.close()
            # Before it is complete: of an input that changed it must not look so.
            notes = self._watched.check()
            self._note.begin(self._writer)
            self._writer.finish()
        except BaseException:
            self._keep()
            raise
        # In this order: a kill between the two leaves a spool, which no run resumes.
        self._note.remove()
        self._writer.close()
        return done, notes

    def _take(self, result: Item | RowError, done: Done, rows: Input) -> Done:
        failed = isinstance(result, RowError)
        if isinstance(result, RowError):
            result = self._said(result, done.rows)
        self._note.begin(self._writer)
        self._writer.write(done.rows, result)
        self._note.keep(self._writer)
        cut = not isinstance(result, RowError) and bool(result.get("truncated"))
        done = done.plus(1, failed, cut)
        if self._job.progress is not None:
            self._job.progress(JobProgress(*done, rows.bytes_done, rows.bytes_total))
        return done

    def _said(self, error: RowError, row: int) -> RowError:
        """Return the error in the words of the job's face, for the output; or raise it."""
        if self._job.options.on_error == "fail":
            raise RowError(error.kind, "row {row}: {why}", row=row, why=error) from error
        return RowError(error.kind, error.worded(self._job.face))

    def _keep(self) -> None:
        try:
            self._writer.flush()
            self._note.keep(self._writer, now=True)
        except (OSError, OutputError):
            pass  # the error that is on its way says more
        finally:
            self._writer.abort()
