"""The command line: parses and prints. All work is done by functions that Python users call too."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from bertonnx import __version__
from bertonnx.errors import RowError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bertonnx.exporters.convert import ExportReport
    from bertonnx.models.card import Card
    from bertonnx.runtime.job import JobProgress, JobReport
    from bertonnx.runtime.model import Model
    from bertonnx.runtime.rows import Item, Row

__all__ = ["app"]

app = typer.Typer(
    name="bertonnx",
    help="Export fine-tuned BERT models to one verified ONNX file, and run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A file that bertonnx made, or a folder or file that optimum-cli made."
    ),
]
ProviderOption = Annotated[
    str, typer.Option("--provider", metavar="auto|cpu|cuda", help="cuda never becomes cpu in silence.")
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"bertonnx {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A Hub id, a checkpoint folder, or a Sentence-Transformers folder."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path("model.onnx"),
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Default: from the checkpoint's architecture.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
    precision: Annotated[str, typer.Option(metavar="fp32|fp16", help="fp16 is meant for CUDA.")] = "fp32",
    optimize: Annotated[
        str, typer.Option(metavar="none|basic|full", help="full fuses attention and GELU.")
    ] = "full",
    max_length: Annotated[
        int | None, typer.Option(help="A shorter limit than the model's, in tokens.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(metavar="mean|cls|max|last", help="How token vectors become one.")
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Whether embeddings get length 1.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin weights, which can run code when loaded.")
    ] = False,
) -> None:
    """Export a checkpoint to one verified file."""
    _require_exporters()
    from bertonnx.exporters.convert import export as export_checkpoint

    with _steps() as step:
        report = export_checkpoint(
            source,
            output,
            task=task,
            revision=revision,
            precision=precision,
            optimize=optimize,
            max_length=max_length,
            pooling=pooling,
            normalize=normalize,
            force=force,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=step,
        )
    for line in _summary(report):
        typer.echo(line)


@app.command()
def run(
    model: ModelPath,
    input: Annotated[
        str, typer.Argument(metavar="INPUT", help=".txt .csv .tsv .jsonl .parquet, or - for standard input.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help=".jsonl .csv .tsv .parquet .arrow .npy; default: JSON Lines on standard output.",
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column or field that holds the text.")] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column or field that holds the second text (the context).")
    ] = None,
    provider: ProviderOption = "auto",
    threads: Annotated[int | None, typer.Option(help="Default: the cores that this process may use.")] = None,
    top_k: Annotated[int | None, typer.Option(help="How many labels, answers or tokens to give.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="A shorter limit than the model's, in tokens.")
    ] = None,
    long_text: Annotated[
        str | None,
        typer.Option(
            metavar="truncate|stride|error",
            help="What to do with text longer than the model: cut it, read it in overlapping windows, or "
            "fail the row. Default: truncate; stride for question answering.",
        ),
    ] = None,
    on_error: Annotated[
        str, typer.Option(metavar="record|fail", help="Write a failed row's error in its place, or stop.")
    ] = "record",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted output.")] = False,
) -> None:
    """Predict every row of a file, in order."""
    _require_choice("--on-error", on_error, ("record", "fail"))
    from bertonnx.runtime.job import run_job
    from bertonnx.runtime.model import Model
    from bertonnx.runtime.writers import check_output

    if output is not None:
        check_output(output, input=input)
    with Model(
        model, cast("Any", provider), threads, max_length=max_length, long_text=cast("Any", long_text)
    ) as opened:
        for note in opened.notes:
            _say(f"note: {note}")
        with _bar() as progress:
            try:
                report = run_job(
                    _Predictor(opened, top_k),
                    input=input,
                    output=output,
                    column=column,
                    pair_column=pair_column,
                    on_error=cast("Any", on_error),
                    resume=resume,
                    top_k=top_k,
                    progress=progress,
                )
            except KeyboardInterrupt:
                _interrupted(output)
    _tell(report, opened)
    if report.errors:
        raise typer.Exit(3)


@app.command()
def check(model: ModelPath, provider: ProviderOption = "auto") -> None:
    """Replay the golden examples in a file on this machine; exit code 1 where it drifted."""
    from bertonnx.runtime.golden import check as replay

    report = replay(model, cast("Any", provider))
    typer.echo(
        f"ok: {report.examples} golden examples on {report.provider}, largest difference "
        f"{report.max_abs_difference:.2g} (allowed {report.tolerance:.2g}); weights and tokenizer unchanged"
    )


@app.command()
def info(
    model: ModelPath, as_json: Annotated[bool, typer.Option("--json", help="The whole card as JSON.")] = False
) -> None:
    """Print what a file says of itself."""
    from bertonnx.runtime.modelfile import read_model_file

    file = read_model_file(model)
    if as_json:
        typer.echo(json.dumps(file.card.as_dict(), indent=2, ensure_ascii=False))
        return
    for line in _card_lines(file.card, file.bytes):
        typer.echo(line)


@app.command()
def doctor() -> None:
    """Say what this machine offers, and how to mend what is missing."""
    from bertonnx.runtime.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(f"{'ok     ' if finding.ok else 'problem'}  {finding.name}: {finding.value}")
        if finding.remedy:
            typer.echo(f"         -> {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


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


def _require_exporters() -> None:
    import importlib.util

    missing = [
        name
        for name in ("torch", "transformers", "optimum", "onnx")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        from bertonnx.errors import MissingDependencyError

        raise MissingDependencyError(
            f'exporting needs {", ".join(missing)}; type: pip install "bertonnx[cpu,export]"'
        )


def _require_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value} is unknown; it can be {', '.join(choices)}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Yield what shows the step under way: a spinner on a terminal, a line a step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda text: _say(f"{text} ...")
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(text)


@contextmanager
def _bar() -> Iterator[Callable[[JobProgress], None] | None]:
    """Yield what moves a progress bar on a terminal; None in a pipe."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[rows]} rows"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=None, rows=0)

        def move(state: JobProgress) -> None:
            if state.rows % 64 == 0:
                bar.update(task, completed=state.bytes_done, total=state.bytes_total, rows=state.rows)

        yield move


def _interrupted(output: Path | None) -> NoReturn:
    if output is None:
        _say("interrupted")
    else:
        _say("interrupted; what was finished is kept, and the same command with --resume goes on")
    raise typer.Exit(130)


def _tell(report: JobReport, model: Model) -> None:
    if report.truncated:
        _say(
            f"{report.truncated} of {report.rows} texts were cut to {model.max_length} tokens; "
            "--long-text stride reads them whole"
        )
    if report.errors:
        _say(f"{report.errors} of {report.rows} rows carry an error; look for the field error in the output")
    if sys.stderr.isatty():
        rate = (report.rows - report.resumed_rows) / max(report.seconds, 1e-9)
        _say(f"{report.rows} rows in {report.seconds:.1f} s ({rate:.0f} a second) on {model.provider}")


def _summary(report: ExportReport) -> Iterator[str]:
    card = report.card
    yield f"wrote {report.path}" + (
        f" and {report.sidecar}, which must stay beside it" if report.sidecar else ""
    )
    yield from _card_lines(card, report.bytes)
    for note in report.notes:
        yield f"note: {note}"
    yield f"next: bertonnx run {report.path} input.txt"


def _card_lines(card: Card, size: int) -> Iterator[str]:
    yield f"  task        {card.task}" + (f" ({card.problem_type})" if card.problem_type else "")
    yield f"  family      {card.family}"
    revision = card.source.get("revision")
    yield f"  source      {card.source.get('id')}" + (f" at {revision}" if revision else "")
    yield f"  size        {size / 1e6:.1f} MB, {card.precision}, inputs up to {card.max_length} tokens"
    if card.labels:
        shown = ", ".join(card.labels[:8]) + (
            f", and {len(card.labels) - 8} more" if len(card.labels) > 8 else ""
        )
        yield f"  labels      {shown}"
    if card.pooling:
        unit = ", normalised" if card.normalize else ""
        yield f"  embedding   {card.width} wide, {card.pooling} pooling{unit}"
    if card.fusions:
        parts = [
            f"{name.replace('_', ' ')} {count['found']} of {count.get('expected', 'unknown')}"
            for name, count in card.fusions.items()
        ]
        yield f"  fused       {', '.join(parts)}"
    if card.parity:
        yield (
            f"  PyTorch     largest difference {card.parity['max_abs_difference']:.2g} "
            f"(allowed {card.parity['tolerance']:.0e} x {max(1.0, card.parity['max_abs_reference']):.3g})"
        )
