"""A run from an input to an output that can be interrupted at any moment, and gone on with.

Beside an output `OUT` lies `OUT.progress` until the output is complete. It says which model,
options and input the output was begun with; `resume=True` goes on only with the same. How many
rows are done is not in it: that is read from the output itself, so that a kill can never make
the two disagree.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from bertonnx.errors import OutputError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.inputs import RowSource
from bertonnx.runtime.io.outputs import Done, SpoolWriter, Writer
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.io.writers import open_writer
from bertonnx.runtime.rows import Item, Row

__all__ = [
    "JobProgress",
    "JobReport",
    "OnError",
    "Predictor",
    "Unfinished",
    "progress_path",
    "run_job",
    "unfinished",
]

OnError = Literal["record", "fail"]

FORMAT = 2
_ALL_ROWS = sys.maxsize


class Predictor(Protocol):
    """What a job needs of a model."""

    @property
    def card(self) -> Card:
        """The model's card."""
        ...

    @property
    def identity(self) -> str:
        """SHA-256, in hexadecimal, over the weights and the tokenizer."""
        ...

    def stream(self, rows: Iterable[Row | RowError]) -> Iterator[Item | RowError]:
        """Yield one result a row, in their order, reading only a bounded number of rows ahead.

        A generator: closing it cancels what is under way.
        """
        ...


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
    """

    rows: int
    errors: int
    truncated: int
    resumed_rows: int
    seconds: float
    complete_before: bool = False


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What an earlier run left of an output that it did not finish.

    Attributes:
        rows: finished rows; None where there are some kind of rows, of other columns than these.
        noted: whether it says what it was begun with, without which no run goes on with it.
    """

    rows: int | None
    noted: bool


def unfinished(output: str | Path, *, card: Card, top_k: int | None = None) -> Unfinished | None:
    """Return what a run would replace of an unfinished earlier one; None where there are no rows.

    Args:
        output: the file of the run that is to come.
        card: of its model.
        top_k: as for `run_job`.

    Raises:
        OutputError: the output cannot be written.
        UsageError: the format cannot hold the results of this task.
    """
    noted = progress_path(output).is_file()
    writer = open_writer(output, card=card, top_k=top_k or 1)
    if not noted and not (isinstance(writer, SpoolWriter) and writer.spool.is_file()):
        return None
    try:
        rows = open_writer(output, card=card, top_k=top_k or 1, resume=True).done.rows
    except UsageError:
        return Unfinished(None, noted)
    return Unfinished(rows, noted) if rows else None


def progress_path(output: str | Path) -> Path:
    """Return the path of the file that says what an unfinished output was begun with."""
    target = Path(output).resolve()
    return target.with_name(target.name + ".progress")


def run_job(
    predictor: Predictor,
    *,
    input: str | Path,
    output: str | Path | None,
    column: str | None = None,
    pair_column: str | None = None,
    on_error: OnError = "record",
    resume: bool = False,
    top_k: int | None = None,
    options: Mapping[str, str | int | float | bool | None] | None = None,
    progress: Callable[[JobProgress], None] | None = None,
) -> JobReport:
    """Write one result for every row of the input.

    Args:
        predictor: the model.
        input: a file, or `-` for standard input; see `readers`.
        output: a file, or None for JSON Lines on standard output; see `writers`.
        column: the column that holds the text.
        pair_column: the column that holds the second text of a pair.
        on_error: "record" writes an error in a failed row's place; "fail" stops there.
        resume: go on with an output that an earlier run did not finish. Without one there, start
            from the beginning; with a complete one, do nothing.
        top_k: how many candidates the predictor's items list; None is the task's default.
        options: what else the results depend on (such as the maximum length), to be compared
            when a run is resumed.
        progress: called after every row.

    Raises:
        InputError: the input cannot be read.
        OutputError: the output cannot be written.
        UsageError: the output cannot be resumed with these arguments.
        RowError: a row failed, with `on_error="fail"`; the rows before it are in the output.
    """
    began = time.monotonic()
    if resume and output is None:
        raise UsageError("--resume goes on with a file; name it with -o FILE")
    asked = {"column": column, "pair_column": pair_column, "top_k": top_k, **(options or {})}
    note = _Note(output, {} if output is None else _origin(predictor, input, asked))
    resuming = resume and note.exists()
    if resuming:
        note.compare()
    writer = open_writer(output, card=predictor.card, input=input, top_k=top_k or 1, resume=resuming)
    needs_pair = predictor.card.task == "question-answering" or predictor.card.pairs is True

    def opened(skip: int) -> RowSource:
        return open_rows(input, column=column, pair_column=pair_column, needs_pair=needs_pair, skip=skip)

    if resume and not resuming and (finished := writer.finished()) is not None:
        _must_be_complete(finished, opened, output)
        writer.close()
        seconds = time.monotonic() - began
        return JobReport(*finished, resumed_rows=finished.rows, seconds=seconds, complete_before=True)
    done = writer.done
    with opened(done.rows) as source:
        if source.skipped < done.rows:
            raise _too_few(source.skipped, done.rows, output)
        total = _Job(predictor, writer, note, on_error, progress).run(source, done)
    return JobReport(*total, resumed_rows=done.rows, seconds=time.monotonic() - began)


def _must_be_complete(finished: Done, opened: Callable[[int], RowSource], output: str | Path | None) -> None:
    with opened(_ALL_ROWS) as source:
        rows = source.skipped
    if rows != finished.rows:
        raise UsageError(
            f"{output} holds {finished.rows} rows, the input has {rows}, and no {output}.progress says which "
            "model and options it was made with; run without --resume to replace it"
        )


def _too_few(rows: int, done: int, output: str | Path | None) -> UsageError:
    return UsageError(
        f"{output} holds {done} rows already, and the input has {rows}: it is another input; "
        "give the one it was begun with, or run without --resume to start over"
    )


class _Note:
    """The file beside an unfinished output that says what it was begun with."""

    def __init__(self, output: str | Path | None, origin: dict[str, Any]) -> None:
        self._output = output
        self._path = None if output is None else progress_path(output)
        self._origin = origin
        self._there = False

    def exists(self) -> bool:
        return self._path is not None and self._path.is_file()

    def compare(self) -> None:
        """Check that the output was begun with the same model, options and input.

        Raises:
            UsageError: it was not.
        """
        was = self._read()
        problem = _difference(was, self._origin)
        if problem:
            raise UsageError(
                f"{self._output} was begun with {problem}; --resume needs the same again, "
                "or run without --resume to start over"
            )
        self._there = True

    def begin(self, writer: Writer) -> None:
        """Let the writer make room, and write the note, both before the first row.

        In this order: a kill between the two leaves an empty output without a note, which a
        resumed run starts from the beginning. The other way round, it would take an older
        output's rows for its own.
        """
        if self._there:
            return
        writer.start()
        if self._path is not None and writer.lasting:
            self._write(self._path)
        self._there = True

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        aside = path.with_name(path.name + ".new")
        try:
            aside.write_text(json.dumps(self._origin, indent=1) + "\n", encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error

    def _read(self) -> dict[str, Any]:
        assert self._path is not None
        try:
            was = json.loads(self._path.read_text(encoding="utf-8"))
            if was["format"] == FORMAT:
                return dict(was)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise UsageError(
            f"{self._path} is not of this version of bertonnx; run without --resume to start over"
        )


def _origin(predictor: Predictor, input: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    import hashlib  # loads OpenSSL, for which a prediction need not wait

    path = Path(input)
    stat = path.stat() if str(input) != "-" and path.is_file() else None
    return {
        "format": FORMAT,
        "model": predictor.identity,
        "card": hashlib.sha256(predictor.card.to_json().encode()).hexdigest(),
        "options": dict(options),
        "input": {
            "name": path.name,
            "size": stat and stat.st_size,
            "mtime_ns": stat and stat.st_mtime_ns,
        },
    }


def _difference(was: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words what an output was begun with that is different now; empty where nothing is."""
    if was.get("card") != now["card"]:
        return "another model"
    # Before the identity, which depends on some of the options and could not say on which.
    old, new = was.get("options", {}), now["options"]
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            option = "--" + name.replace("_", "-")
            return f"{option} {_said(old.get(name))}, and now it is {_said(new.get(name))}"
    if was.get("model") != now["model"]:
        return "another model"
    for what in ("size", "mtime_ns"):
        if was.get("input", {}).get(what) != now["input"][what]:
            return f"another input, or the input {was['input'].get('name')} has changed since"
    return ""


def _said(value: object) -> str:
    return "not given" if value is None else str(value)


class _Job:
    """The loop from rows to results."""

    def __init__(
        self,
        predictor: Predictor,
        writer: Writer,
        note: _Note,
        on_error: OnError,
        progress: Callable[[JobProgress], None] | None,
    ) -> None:
        self._predictor = predictor
        self._writer = writer
        self._note = note
        self._on_error = on_error
        self._progress = progress

    def run(self, source: RowSource, done: Done) -> Done:
        """Write the results of all rows behind those that are done, and complete the output."""
        try:
            results = self._predictor.stream(source)
            try:
                for result in results:
                    done = self._take(result, done, source)
            finally:
                _close(results)
            self._note.begin(self._writer)
            self._writer.finish()
        except BaseException:
            self._keep()
            raise
        self._note.remove()
        self._writer.close()
        return done

    def _take(self, result: Item | RowError, done: Done, source: RowSource) -> Done:
        failed = isinstance(result, RowError)
        if isinstance(result, RowError) and self._on_error == "fail":
            raise RowError(result.kind, f"row {done.rows}: {result}") from result
        self._note.begin(self._writer)
        self._writer.write(done.rows, result)
        cut = not isinstance(result, RowError) and bool(result.get("truncated"))
        done = done.plus(1, failed, cut)
        if self._progress is not None:
            self._progress(JobProgress(*done, source.bytes_done, source.bytes_total))
        return done

    def _keep(self) -> None:
        try:
            self._writer.flush()
        except (OSError, OutputError):
            pass  # the error that is on its way says more
        finally:
            self._writer.abort()


def _close(results: Iterator[Any]) -> None:
    if isinstance(results, Generator):
        results.close()
