"""`bertonnx bench`: what a model file gives its user on this machine, as latency and throughput.

Everything is measured through `bertonnx.Model`, from text to decoded result, because that is what a
user waits for: tokenizing, batching and decoding count. A measurement of N tokens and a batch of B
hands the model B different texts of exactly N tokens (special tokens counted, made with the model's
own tokenizer) and waits for all results. With a batch of 1 that is the latency of one text; with
many, the throughput. All models are open at the same time and are measured in turn, in three rounds
of alternating direction, so that a machine that grows slower or busier does so for all of them alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import BertonnxError, InputError, ProviderError, RowError, UsageError
from bertonnx.models.providers import PROVIDERS, Provider
from bertonnx.runtime.bench.machine import machine
from bertonnx.runtime.bench.options import LENGTHS, BenchOptions
from bertonnx.runtime.bench.texts import exact_rows
from bertonnx.runtime.io.inputs import Input
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import LoadOptions, RunOptions
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import import_onnxruntime
from bertonnx.wording import COMMAND_LINE, Message, Option, Options

__all__ = ["BenchReport", "BenchRow", "bench"]

_ROUNDS = 3
_WARM_UP_RUNS, _WARM_UP_SECONDS = 3, 0.3
_WARM_UP_ROWS = 256
"""Rows of the user's file that are run once before it is measured."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BenchRow:
    """One configuration, measured; or why it could not be.

    Attributes:
        model: the file's name, its path where two have the same name.
        precision: fp32, fp16 or int8; empty where the model could not be opened.
        provider: what really ran it; where it could not, what was asked for.
        threads: batches at a time.
        input: "tokens" for texts of one length, else the name of the user's file.
        length: tokens of each text, special tokens included; None for a file.
        batch_size: texts handed over at once; None for a file.
        texts: texts a run.
        tokens: tokens a run, special tokens included, as the model reads them (cut, or in windows).
        runs: how often it was measured; percentiles of few runs are close to the slowest.
        p50_ms: half of the runs took at most so many milliseconds.
        p95_ms: 95% of the runs did.
        p99_ms: 99% of the runs did.
        texts_per_second: of the median run.
        tokens_per_second: of the median run.
        relative: how many times as fast as the first configuration with the same input.
        problem: why there are no figures; None where there are.
    """

    model: str
    precision: str
    provider: str
    threads: int
    input: str = "tokens"
    length: int | None = None
    batch_size: int | None = None
    texts: int = 0
    tokens: int = 0
    runs: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    texts_per_second: float | None = None
    tokens_per_second: float | None = None
    relative: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class BenchReport:
    """What was measured, where, and how.

    Attributes:
        machine: CPU, instruction sets, cores, memory, versions; see `bench_machine`.
        settings: what was asked for.
        notes: what a reader must know besides, a sentence each.
        rows: the configurations, in the order in which they were asked for.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    rows: tuple[BenchRow, ...]


@dataclass
class _Case:
    """A configuration under way: `run` does it once, `times` are the seconds of each run."""

    row: BenchRow
    run: Callable[[], None]
    warm: Callable[[], None]
    times: list[float] = field(default_factory=list)
    problem: str | None = None


def bench(
    models: Sequence[str | Path], options: BenchOptions | None = None, *, progress: Progress | None = None
) -> BenchReport:
    """Measure models side by side.

    Args:
        models: files that bertonnx made, or folders or files that optimum-cli made.
        options: what is measured, and how long.
        progress: called with the work done and the work in all.

    Raises:
        UsageError: there is no model, or a length is over a model's limit.
        ModelFileError: a model cannot be opened.
        InputError: the text cannot be read.
    """
    if isinstance(models, (str, Path)) or not models:
        raise UsageError("give a list of at least one model file")
    options = options or BenchOptions()
    providers = _providers(options)
    # All are open at the same time, so that they meet the same minutes of the machine.
    with ExitStack() as stack:
        opened = list(_opened(stack, models, providers, options))
        live = [model for model in opened if isinstance(model, tuple)]
        lengths = _lengths(options, [model for model, _ in live])
        places = [
            place if isinstance(place, BenchRow) else list(_cases(*place, lengths, options))
            for place in opened
        ]
        cases = [case for place in places if isinstance(place, list) for case in place]
        _measure(cases, options, progress)
        notes = tuple(_notes([model for model, _ in live], cases))
    rows = [row for place in places for row in ([place] if isinstance(place, BenchRow) else map(_row, place))]
    settings = _settings(options, [row.name for row in providers], lengths)
    return BenchReport(machine(), settings, notes, tuple(_related(rows)))


def _settings(options: BenchOptions, providers: Sequence[str], lengths: Sequence[int]) -> dict[str, Any]:
    """Return what was asked for, or taken where nothing was, ready for JSON."""
    return {
        "providers": list(providers),
        "lengths": list(lengths),
        "batch_sizes": list(options.batch_sizes),
        "text": None if options.text is None else str(options.text),
        "seconds": None if options.repeat else options.seconds,
        "repeat": options.repeat,
        "rounds": _ROUNDS,
        "tf32": options.tf32,
        "gpu_memory": options.gpu_memory,
    }


def _providers(options: BenchOptions) -> list[Provider]:
    if options.providers is not None:
        return [PROVIDERS[name] for name in dict.fromkeys(options.providers)]
    built = import_onnxruntime().get_available_providers()
    return [row for row in PROVIDERS if row.execution_provider in built]


def _opened(
    stack: ExitStack, models: Sequence[str | Path], providers: Sequence[Provider], options: BenchOptions
) -> Iterator[tuple[Model, BenchRow] | BenchRow]:
    """Yield every model opened, with the beginning of its rows, or the row that says why it is not."""
    paths = [Path(model) for model in dict.fromkeys(map(str, models))]
    threads = options.threads or (allowed_cores(),)
    for path in paths:
        # Two files of one name would be one row to a reader.
        name = str(path) if [other.name for other in paths].count(path.name) > 1 else path.name
        for row in providers:
            for number in dict.fromkeys(threads if row.by_cores else threads[-1:]):
                # The others are not concerned by what is one provider's alone.
                own = {option: getattr(options, option) for option in row.options}
                try:
                    model = Model(path, replace(LoadOptions(provider=row.name, threads=number), **own))
                except ProviderError as error:
                    yield BenchRow(name, "", row.name, number, problem=error.worded(COMMAND_LINE))
                    # Another number of threads would not mend it.
                    break
                stack.enter_context(model)
                yield model, BenchRow(name, model.card.precision, model.provider, number)


def _lengths(options: BenchOptions, models: Sequence[Model]) -> tuple[int, ...]:
    shortest = min((model.max_length for model in models), default=max(LENGTHS))
    if options.lengths is None:
        usual = LENGTHS if options.text is None else ()
        return tuple(dict.fromkeys(min(length, shortest) for length in usual))
    longest = max(options.lengths)
    # A text that one model cuts and another reads whole would compare nothing.
    if models and longest > shortest:
        at_fault = next(model for model in models if model.max_length == shortest)
        raise UsageError(
            "{asked} is over the limit of {path}: it takes {limit} tokens; give lengths of at most {limit}",
            asked=Option("lengths", longest),
            path=at_fault.path,
            limit=shortest,
        )
    return tuple(dict.fromkeys(options.lengths))


def _cases(model: Model, start: BenchRow, lengths: Sequence[int], options: BenchOptions) -> Iterator[_Case]:
    sizes = options.batch_sizes
    for length in lengths:
        # The same texts for every size: sizes differ in the batch alone.
        rows = exact_rows(model.tokenizer, model.card, length=length, count=max(sizes))
        for size in dict.fromkeys(sizes):
            row = replace(start, length=length, batch_size=size, texts=size, tokens=size * length)
            run = _batch_run(model, rows[:size])
            yield _Case(row, run, run)
    if options.text is not None:
        texts, tokens = _counted(model, options)
        row = replace(start, input=options.text.name, texts=texts, tokens=tokens)
        yield _Case(row, lambda: _run_text(model, options), lambda: _run_text(model, options, _WARM_UP_ROWS))


def _batch_run(model: Model, rows: Sequence[Row]) -> Callable[[], None]:
    def run() -> None:
        for item in model.stream(rows):
            if isinstance(item, RowError):
                raise item

    return run


def _run_text(model: Model, options: BenchOptions, limit: int | None = None) -> None:
    # Rows that fail are part of the user's file and of its time; a note says how many there are.
    with _input(model, options) as rows:
        for _ in model.stream(islice(rows, limit)):
            pass


def _input(model: Model, options: BenchOptions) -> Input:
    assert options.text is not None
    columns = RunOptions(column=options.column, pair_column=options.pair_column)
    return open_rows(options.text, columns, needs_pair=model.card.needs_pair)


def _counted(model: Model, options: BenchOptions) -> tuple[int, int]:
    texts = tokens = 0
    with _input(model, options) as rows:
        for row in rows:
            texts += 1
            encoded = row if isinstance(row, RowError) else model.tokenizer.encode([row])[0]
            if isinstance(encoded, Encoded):
                tokens += sum(len(piece.ids) for piece in encoded.pieces)
    if not texts:
        raise InputError("{path} holds no text; give a file with at least one row", path=options.text)
    return texts, tokens


def _measure(cases: Sequence[_Case], options: BenchOptions, progress: Progress | None) -> None:
    total, done = len(cases) * (1 + _ROUNDS), 0
    for number in range(1 + _ROUNDS):
        # Every other round goes backwards, so that no model is always the one after a pause.
        for case in cases if number % 2 else reversed(cases):
            try:
                if case.problem is None:
                    _spend(case, number, options) if number else _warm_up(case)
            except BertonnxError as error:
                case.problem = error.worded(COMMAND_LINE)
            done += 1
            if progress is not None:
                progress(done, total)


def _warm_up(case: _Case) -> None:
    # First runs grow the arena, wake the threads and raise the clock.
    began = time.perf_counter()
    for _ in range(_WARM_UP_RUNS):
        case.warm()
        if time.perf_counter() - began > _WARM_UP_SECONDS:
            return


def _spend(case: _Case, number: int, options: BenchOptions) -> None:
    """Measure until this round's share of the runs, or of the time, is there."""
    share, repeat, seconds = number / _ROUNDS, options.repeat, options.seconds
    # Over all rounds so far: a long run in one round makes the next shorter.
    least = number if repeat is None else round(repeat * share)
    while len(case.times) < least or (repeat is None and sum(case.times) < seconds * share):
        began = time.perf_counter()
        case.run()
        case.times.append(time.perf_counter() - began)


def _row(case: _Case) -> BenchRow:
    if case.problem is not None:
        return replace(case.row, problem=case.problem)
    # Percentiles, as one interruption would move a mean.
    p50, p95, p99 = (float(value) for value in np.percentile(case.times, (50, 95, 99)))
    return replace(
        case.row,
        runs=len(case.times),
        p50_ms=1000 * p50,
        p95_ms=1000 * p95,
        p99_ms=1000 * p99,
        texts_per_second=case.row.texts / p50,
        tokens_per_second=case.row.tokens / p50,
    )


def _related(rows: Sequence[BenchRow]) -> Iterator[BenchRow]:
    first: dict[tuple[object, ...], float] = {}
    for row in rows:
        if row.texts_per_second is None:
            yield row
            continue
        base = first.setdefault((row.input, row.length, row.batch_size), row.texts_per_second)
        yield replace(row, relative=row.texts_per_second / base)


def _notes(models: Sequence[Model], cases: Sequence[_Case]) -> Iterator[str]:
    """Yield the notes in the command line's words, as are all of a report's."""
    yield from dict.fromkeys(note.worded(COMMAND_LINE) for model in models for note in model.messages)
    for model in models:
        if model.placement is not None:
            yield f"{model.path.name} on {model.provider}: {model.placement}"
    # The 99th percentile of fewer runs than 100 is little more than the slowest.
    few = min((len(case.times) for case in cases if case.times), default=100)
    if few < 100:
        yield Message(
            "some configurations were run only {few} times, and their p99 is near the slowest run; {options} "
            "gives more",
            few=few,
            options=Options([Option("seconds"), Option("repeat")]),
        ).worded(COMMAND_LINE)
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, allowed_cores()
    if load > 1.5 * cores:
        yield f"the load average was {load:.1f} on {cores} cores: other programs ran as well, so expect noise"
