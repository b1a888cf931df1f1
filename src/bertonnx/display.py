"""What the command line shows: lines, spinners, progress bars, summaries."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.models.activations import ACTIVATIONS
from bertonnx.models.tasks import task as task_named
from bertonnx.wording import Call, Message, Option, command_face, printable, worded

if TYPE_CHECKING:
    from bertonnx.exporters.convert import ExportReport
    from bertonnx.models.card import Card
    from bertonnx.models.figures import (
        AgreementFigures,
        HalfFigures,
        Int8Figures,
        ScoreFigures,
        TrainingFigures,
    )
    from bertonnx.runtime.bench.measure import BenchReport
    from bertonnx.runtime.io.job import JobProgress
    from bertonnx.runtime.session.session import OpenSession

__all__ = [
    "bench_bar",
    "card_lines",
    "print_bench",
    "provider_line",
    "row_bar",
    "running_on",
    "say",
    "steps",
    "summary",
]

_BAR_SECONDS = 0.1


def say(line: str | Message) -> None:
    """Print a line on standard error, which is where people are spoken to; results go to standard output."""
    print(printable(worded(line, command_face())), file=sys.stderr)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Yield what shows the step under way: a spinner on a terminal, a line a step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda text: say(f"{text} ...")
        return
    # Here and below: what writes to a pipe should not pay for importing rich.
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(escape(printable(text)))


@contextmanager
def row_bar(output: Path | None) -> Iterator[Callable[[JobProgress], None] | None]:
    """Yield what moves a progress bar on a terminal; None in a pipe, and where results fill the terminal."""
    if not sys.stderr.isatty() or (output is None and sys.stdout.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[rows]} rows"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=None, rows=0)
        drawn = 0.0

        def move(state: JobProgress) -> None:
            nonlocal drawn
            # By time, since a row can take a microsecond or a second.
            if time.monotonic() - drawn >= _BAR_SECONDS:
                bar.update(task, completed=state.bytes_done, total=state.bytes_total, rows=state.rows)
                drawn = time.monotonic()

        yield move


@contextmanager
def bench_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Yield what moves a progress bar on a terminal; None in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("measuring"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_bench(report: BenchReport) -> None:
    """Print a benchmark's table, what was not measured, and its notes."""
    from rich.console import Console

    from bertonnx.runtime.bench.report import problems, terminal_table

    print()
    if any(row.problem is None for row in report.rows):
        # A pipe has no width: nothing may be cut there.
        Console(width=None if sys.stdout.isatty() else 200).print(terminal_table(report))
    for problem in problems(report):
        print(printable(f"not measured: {problem}"))
    for note in report.notes:
        say(f"note: {note}")


def provider_line(session: OpenSession) -> str:
    """Return in a line what runs a model, on a GPU with the number of nodes that are there."""
    where = f": {session.placement}" if session.placement is not None else ""
    # The rest of a note says the same of its nodes.
    notes = "; ".join(note.worded(command_face()) for note in session.notes)
    note = f" ({notes})" if notes and session.placement is None else ""
    return f"  provider    {session.provider}{where}{note}"


def running_on(session: OpenSession) -> dict[str, Any]:
    """Return, ready for JSON, what runs a model and where its nodes are."""
    placement = session.placement
    nodes = {} if placement is None else asdict(placement)
    return {"provider": session.provider, **nodes}


def summary(report: ExportReport) -> Iterator[str | Message]:
    """Yield the lines that an export ends with."""
    card = report.card
    yield f"wrote {report.path}" + (
        f" and {report.sidecar}, which must stay beside it" if report.sidecar else ""
    )
    yield from card_lines(card, report.bytes)
    for note in report.messages:
        yield Message("note: {note}", note=note)
    yield _next(report.path, card)


def _next(path: Path, card: Card) -> Message:
    """Return what to type to run a model of this task."""
    if card.needs_pair:
        first, second = task_named(card.task).pair_names
        call = Call("run", path, "input.csv", column=first, pair_column=second)
        return Message("next: {run}", run=call)
    call = Call("run", path, "input.txt")
    if card.mask_token:
        return Message("next: {run}  (texts with {mask} in them)", run=call, mask=card.mask_token)
    return Message("next: {run}", run=call)


def card_lines(card: Card, size: int) -> Iterator[str | Message]:
    """Yield a card in lines for people; `size` is in bytes."""
    yield f"  task        {card.task}" + (f" ({card.problem_type})" if card.problem_type else "")
    if card.also:
        yield f"  also        {', '.join(card.also)}"
    yield f"  family      {card.family}"
    revision = card.source.get("revision")
    yield f"  source      {card.source.get('id')}" + (f" at {revision}" if revision else "")
    if card.files:
        saved = ", ".join(f"{name} {version}" for name, version in card.saved_by.items())
        yield f"  made of     {len(card.files)} files" + (f", saved by {saved}" if saved else "")
    yield f"  size        {size / 1e6:.1f} MB, {card.precision}, inputs up to {card.max_length} tokens"
    if card.labels:
        # A classifier can have hundreds.
        shown = ", ".join(card.labels[:8]) + (
            f", and {len(card.labels) - 8} more" if len(card.labels) > 8 else ""
        )
        yield f"  labels      {shown}"
    if task_named(card.task).activated:
        activation = ACTIVATIONS[card.activation]
        raw = activation.scale == "logit"
        yield f"  scores      {'the logits themselves' if raw else f'{activation.name} of the logits'}"
    if card.pooling:
        unit = ", normalized" if card.normalize else ""
        yield f"  embedding   {card.width} wide, {card.pooling} pooling{unit}"
    if card.prompts:
        yield from _prompt_lines(card)
    if card.fusions:
        parts = [
            f"{name.replace('_', ' ')} {count['found']} of {count.get('expected', 'unknown')}"
            for name, count in card.fusions.items()
        ]
        yield f"  fused       {', '.join(parts)}"
        # None where the file is of a family outside the table.
        from bertonnx.models.families import family as family_named  # not for predicting

        reason = family_named(card.family)
        if reason is not None and reason.why_unfused:
            yield f"              attention is not fused: {reason.why_unfused}"
    if card.parity:
        yield (
            f"  PyTorch     largest difference {card.parity.max_abs_difference:.2g} "
            f"(allowed {card.parity.tolerance:.0e} x {max(1.0, card.parity.max_abs_reference):.3g})"
        )
        for name, found in card.parity.independent.items():
            yield (
                f"              {name} {found.version} gives the same to {found.max_abs_difference:.2g} "
                f"({found.texts} texts)"
            )
    if card.training:
        yield from _training_lines(card.training)
    if card.calibration:
        yield from _calibration_lines(card.calibration)
    if card.half:
        yield from _half_lines(card.half)
    if card.quantization:
        yield from _quantization_lines(card.quantization)


def _prompt_lines(card: Card) -> Iterator[str]:
    # As JSON, since a prompt's spaces and line breaks count.
    shown = [f"{name} {json.dumps(text, ensure_ascii=False)}" for name, text in card.prompts.items()]
    more = f", and {len(shown) - 8} more" if len(shown) > 8 else ""
    yield f"  prompts     {', '.join(shown[:8])}{more}"
    default = "none" if card.default_prompt is None else card.default_prompt or '""'
    yield f"              {default} by default"
    if not card.pooled_prompt:
        yield "              the tokens of a prompt are not pooled"


def _training_lines(figures: TrainingFigures) -> Iterator[str]:
    yield f"  trained     {figures.kind} of {figures.base.get('id')}, on {figures.rows} rows"
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.scores.items())
    yield f"              {shown} ({figures.measured_rows} other rows)"
    for name, scores in figures.baselines.items():
        score, value = next(iter(scores.items()))
        worse = "" if figures.better.get(name) else ", and the model is not better beyond chance"
        yield f"              {name} baseline: {score.replace('_', ' ')} {value:.4f}{worse}"


def _calibration_lines(figures: ScoreFigures) -> Iterator[str]:
    yield f"  calibrated  temperature {figures.temperature:.4g}, by {figures.rows} labelled rows"
    before, after = figures.ece_before, figures.ece_after
    yield f"              expected calibration error {before:.4f} before, {after:.4f} after"


def _half_lines(figures: HalfFigures) -> Iterator[str]:
    yield from _agreement_lines("fp16", figures)
    yield f"              judged on {figures.texts} texts, every value rounded as fp16 holds it"


_STRICT = "with near ties of fp32 counted as differences"
_WORST = {
    "cosine": "for the worst text",
    "rank correlation": "of the weights are the same for the worst text",
}
"""Metric -> what its stricter figure is."""


def _agreement_lines(precision: str, figures: AgreementFigures) -> Iterator[str]:
    yield (
        f"  {precision:<10}  agreement with fp32 {figures.agreement:.2%} ({figures.metric}; at least "
        f"{100 * figures.min_agreement:g}% was asked)"
    )
    if figures.worst < figures.agreement:
        yield f"              {figures.worst:.2%} {_WORST.get(figures.metric, _STRICT)}"


def _quantization_lines(figures: Int8Figures) -> Iterator[str | Message]:
    yield from _agreement_lines("INT8", figures)
    yield f"              tuned on {figures.calibration_texts} texts, judged on {figures.texts} others"
    if figures.latency_fp32_ms is None or figures.latency_int8_ms is None:
        yield Message(
            "              for {target}, and judged in float32: {cpu} would saturate; speed was not measured",
            target=Option("target", figures.target),
            cpu=figures.cpu,
        )
        return
    measured = ""
    if figures.latency_batch is not None:
        measured = f", one thread, {figures.latency_batch} texts of {figures.latency_tokens} tokens"
    yield (
        f"              {figures.latency_fp32_ms / figures.latency_int8_ms:.2f} times as fast as fp32 "
        f"when exported ({figures.cpu}{measured})"
    )
    if figures.latency_int8_ms > figures.latency_fp32_ms:
        yield "              slower than fp32 there: what it saved on that machine is size and memory"
