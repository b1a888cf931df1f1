"""What `bertonnx run` does, without the parser: typer alone takes as long to import as ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from bertonnx.collecting import resume
from bertonnx.display import row_bar, say
from bertonnx.errors import InputError, OutputError
from bertonnx.runtime.options import DecodeOptions, LoadOptions, RunOptions
from bertonnx.wording import Message, Option, command_face

if TYPE_CHECKING:
    from bertonnx.models.card import Card
    from bertonnx.runtime.io.job import JobReport
    from bertonnx.runtime.io.writers import Target
    from bertonnx.runtime.model import Model
    from bertonnx.runtime.opening import Opening

__all__ = ["run_file"]

_LOAD, _DECODE, _RUN = LoadOptions(), DecodeOptions(), RunOptions()


def run_file(
    model: Path,
    input: str,
    output: Path | None = None,
    *,
    load: LoadOptions = _LOAD,
    decode: DecodeOptions = _DECODE,
    run: RunOptions = _RUN,
) -> int:
    """Predict every row of a file and return the exit code: 0, 3 (some rows failed), 130 (interrupted).

    Args:
        model: a file that bertonnx made, or a folder or file that optimum-cli made.
        input: a file, or `-` for standard input.
        output: a file; None for JSON Lines on standard output.
        load: how the model is opened.
        decode: how results are made.
        run: which columns are read, and what happens to errors and to an unfinished output.

    Raises:
        BertonnxError: the model, the input or the output cannot be used.
    """
    _require_streams(input, output)
    from bertonnx.runtime.opening import Opening, loading

    options = loading(load, decode)
    with (
        # The rest is imported meanwhile.
        Opening(model, options) as opening,
        # What is wrong with the output is said without waiting for the model, which can take long.
        _checked(model, input, output, run) as target,
        _opened(model, options, opening) as opened,
    ):
        from bertonnx.runtime.decoders import require_options
        from bertonnx.runtime.run import run_job

        resume()
        require_options(opened.card, decode)
        # Before the rows, as they say where these will run.
        said = _say_notes(opened)
        if target is not None:
            # Before the job replaces them, so that Ctrl-C still saves them.
            _warn(target, opened.card, decode, resume=run.resume)
        try:
            with row_bar(output) as progress:
                report = run_job(
                    opened, input, target, decode=decode, options=run, face=command_face(), progress=progress
                )
        except KeyboardInterrupt:
            return _interrupted(output)
    # Running makes notes of its own.
    _say_notes(opened, said)
    _tell(report, opened, target)
    return 3 if report.errors else 0


@contextmanager
def _checked(model: Path, input: str, output: Path | None, run: RunOptions) -> Iterator[Target | None]:
    """Check what a run shall write, and keep a second run from it."""
    from bertonnx.runtime.run import checked_target

    target = checked_target(model, input, output, run)
    with target.lock if target is not None else nullcontext():
        yield target


def _opened(model: Path, options: LoadOptions, opening: Opening) -> Model:
    from bertonnx.runtime.model import Model

    return Model(model, options, opening=opening)


def _say_notes(model: Model, said: Container[Message] = ()) -> tuple[Message, ...]:
    """Say what was not said yet, and return all notes."""
    for note in model.messages:
        if note not in said:
            say(Message("note: {note}", note=note))
    return model.messages


def _require_streams(input: str, output: Path | None) -> None:
    # Python has no object for a standard stream that was closed (`<&-`, some schedulers).
    if input == "-" and sys.stdin is None:
        raise InputError("the input is standard input, and it is closed; name a file")
    if output is None and sys.stdout is None:
        raise OutputError(
            "the output is standard output, and it is closed; name a file with {output}",
            output=Option("output", "FILE"),
        )


def _warn(output: Target, card: Card, decode: DecodeOptions, *, resume: bool) -> None:
    """Say what an earlier run left that this one replaces."""
    from bertonnx.runtime.io.resume import progress_path, unfinished

    left = unfinished(output, card=card, decode=decode)
    if left is None or (resume and left.noted):
        return
    rows = "rows" if left.rows is None else f"{left.rows} unfinished rows"
    if left.noted:
        say(
            Message(
                "note: {output} holds {rows} of an earlier run, which are replaced; "
                "Ctrl-C and add {resume} to keep them",
                output=output.given,
                rows=rows,
                resume=Option("resume"),
            )
        )
    else:
        say(
            Message(
                "note: {output}.partial holds {rows} of an earlier run, which are replaced: "
                "there is no {progress} to say which model, options and input they are of",
                output=output.given,
                rows=rows,
                progress=progress_path(output.path).name,
            )
        )


def _interrupted(output: Path | None) -> int:
    if output is None:
        say("interrupted")
    else:
        kept = "interrupted; finished rows are kept; repeat the command with {resume} to continue"
        say(Message(kept, resume=Option("resume")))
    return 130


def _tell(report: JobReport, model: Model, output: Target | None) -> None:
    for note in report.notes:
        say(Message("note: {note}", note=note))
    if report.complete_before and output is not None:
        say(
            Message(
                "{output} was complete already ({rows} rows); nothing was done, and nothing says which "
                "model and input made it; run without {resume} to replace it",
                output=output.given,
                rows=report.rows,
                resume=Option("resume"),
            )
        )
    elif report.truncated:
        from bertonnx.runtime.methods import cut_note

        say(cut_note(report.truncated, report.rows, model.max_length))
    if report.errors:
        where = "look for error in the output"
        if output is not None and not output.format.says_why:
            where = "they are NaN in the output, or 0 in integers; write .jsonl or .csv to see why"
        say(f"{report.errors} of {report.rows} rows have an error; {where}")
    if sys.stderr.isatty() and not report.complete_before:
        # What an earlier run finished cost this one no time.
        rate = (report.rows - report.resumed_rows) / max(report.seconds, 1e-9)
        say(f"{report.rows} rows in {report.seconds:.1f} s ({rate:.0f} a second) on {model.provider}")
