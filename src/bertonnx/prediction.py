"""What `bertonnx run` does, without the parser: typer alone takes as long to import as ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bertonnx.display import row_bar, say
from bertonnx.errors import InputError, OutputError, RowError, UsageError

if TYPE_CHECKING:
    from bertonnx.models.card import Card
    from bertonnx.runtime.io.job import JobReport
    from bertonnx.runtime.model import Model
    from bertonnx.runtime.rows import Item, Row

__all__ = ["LONG_TEXT", "PROVIDERS", "predict_file", "require_choice"]

PROVIDERS = ("auto", "cpu", "cuda")
LONG_TEXT = ("truncate", "stride", "error")
"""As in `runtime`, which would import NumPy for `--help`."""


def predict_file(
    model: Path,
    input: str,
    output: Path | None = None,
    *,
    column: str | None = None,
    pair_column: str | None = None,
    provider: str = "auto",
    threads: int | None = None,
    top_k: int | None = None,
    max_length: int | None = None,
    long_text: str | None = None,
    on_error: str = "record",
    resume: bool = False,
    tf32: bool = False,
    gpu_memory: float | None = None,
) -> int:
    """Predict every row of a file and return the exit code: 0, 3 (some rows failed), 130 (interrupted).

    The arguments are the options of `bertonnx run`.

    Raises:
        BertonnxError: the model, the input or the output cannot be used.
    """
    _check(on_error, provider, long_text)
    _require_streams(input, output)
    from bertonnx.runtime.io.job import run_job
    from bertonnx.runtime.io.writers import check_output
    from bertonnx.runtime.model import Model

    if output is not None:
        check_output(output, input=input)
    chosen, long = cast("Any", provider), cast("Any", long_text)
    with Model(
        model, chosen, threads, max_length=max_length, long_text=long, tf32=tf32, gpu_memory=gpu_memory
    ) as opened:
        said = _say_notes(opened)
        if output is not None:
            _warn(output, opened.card, top_k, resume=resume)
        try:
            with row_bar(output) as progress:
                report = run_job(
                    _Predictor(opened, top_k),
                    input=input,
                    output=output,
                    column=column,
                    pair_column=pair_column,
                    on_error=cast("Any", on_error),
                    resume=resume,
                    top_k=top_k,
                    options=_options_of(opened),
                    progress=progress,
                )
        except KeyboardInterrupt:
            return _interrupted(output)
    _say_notes(opened, said)
    _tell(report, opened, output)
    return 3 if report.errors else 0


def _options_of(model: Model) -> dict[str, Any]:
    # What holds, not what was given: to leave out the default is to ask for it.
    return {"max_length": model.max_length, "long_text": model.tokenizer.long_text}


def _say_notes(model: Model, said: Container[str] = ()) -> tuple[str, ...]:
    """Say what was not said yet, and return all notes."""
    for note in model.notes:
        if note not in said:
            say(f"note: {note}")
    return model.notes


def _check(on_error: str, provider: str, long_text: str | None) -> None:
    require_choice("--on-error", on_error, ("record", "fail"))
    require_choice("--provider", provider, PROVIDERS)
    require_choice("--long-text", long_text or "truncate", LONG_TEXT)


def require_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `UsageError` where an option's value is none of the choices."""
    if value not in choices:
        raise UsageError(f"{option} {value} is unknown; it can be {', '.join(choices)}")


@dataclass(frozen=True)
class _Predictor:
    """A model with its options bound, as a job wants it."""

    model: Model
    top_k: int | None

    @property
    def card(self) -> Card:
        return self.model.card

    @property
    def identity(self) -> str:
        return self.model.identity

    def stream(self, rows: Iterable[Row | RowError]) -> Iterator[Item | RowError]:
        return self.model.stream(rows, top_k=self.top_k)


def _require_streams(input: str, output: Path | None) -> None:
    # Python has no object for a standard stream that was closed (`<&-`, some schedulers).
    if input == "-" and sys.stdin is None:
        raise InputError("the input is standard input, and it is closed; name a file")
    if output is None and sys.stdout is None:
        raise OutputError("the output is standard output, and it is closed; name a file with -o FILE")


def _warn(output: Path, card: Card, top_k: int | None, *, resume: bool) -> None:
    """Say what an earlier run left that this one replaces."""
    from bertonnx.runtime.io.job import progress_path, unfinished

    left = unfinished(output, card=card, top_k=top_k)
    if left is None or (resume and left.noted):
        return
    rows = "rows" if left.rows is None else f"{left.rows} unfinished rows"
    if left.noted:
        say(
            f"note: {output} holds {rows} of an earlier run, which are replaced; "
            "Ctrl-C and add --resume to keep them"
        )
    else:
        say(
            f"note: {output}.partial holds {rows} of an earlier run, which are replaced: "
            f"there is no {progress_path(output).name} to say which model, options and input they are of"
        )


def _interrupted(output: Path | None) -> int:
    if output is None:
        say("interrupted")
    else:
        say("interrupted; what was finished is kept, and the same command with --resume goes on")
    return 130


def _tell(report: JobReport, model: Model, output: Path | None) -> None:
    if report.complete_before:
        say(
            f"{output} was complete already ({report.rows} rows); nothing was done, and nothing says which "
            "model and input made it; run without --resume to replace it"
        )
    elif report.truncated:
        say(
            f"{report.truncated} of {report.rows} texts were cut to {model.max_length} tokens; "
            "--long-text stride reads them whole"
        )
    if report.errors:
        where = "look for error in the output"
        if output is not None and output.suffix == ".npy":
            where = "they are NaN in the output; write .jsonl or .csv to see why"
        say(f"{report.errors} of {report.rows} rows carry an error; {where}")
    if sys.stderr.isatty() and not report.complete_before:
        rate = (report.rows - report.resumed_rows) / max(report.seconds, 1e-9)
        say(f"{report.rows} rows in {report.seconds:.1f} s ({rate:.0f} a second) on {model.provider}")
