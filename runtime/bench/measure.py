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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import BertonnxError, InputError, ProviderError, RowError, UsageError
from bertonnx.runtime.bench.machine import machine
from bertonnx.runtime.bench.texts import exact_rows
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import RunOptions
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import PROVIDERS, Provider, import_onnxruntime

__all__ = ["BATCH_SIZES", "LENGTHS", "BenchReport", "BenchRow", "bench"]

LENGTHS = (16, 128, 512)
BATCH_SIZES = (1, 8, 32)

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


@dataclass(frozen=True)
class _Cuda:
    """What was asked for on CUDA; CPU is not concerned."""

    tf32: bool
    gpu_memory: float | None

    def open(self, path: Path, provider: Provider, threads: int) -> Model:
        if provider == "cpu":
            return Model(path, provider, threads)
        return Model(path, provider, threads, tf32=self.tf32, gpu_memory=self.gpu_memory)


@dataclass(frozen=True)
class _Text:
    """The user's own text."""

    path: Path
    column: str | None
    pair_column: str | None


def bench(
    models: Sequence[str | Path],
    *,
    providers: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    threads: Sequence[int] | None = None,
    text: str | Path | None = None,
    column: str | None = None,
    pair_column: str | None = None,
    tf32: bool = False,
    gpu_memory: float | None = None,
    seconds: float = 2.0,
    repeat: int | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure models side by side.

    Args:
        models: files that bertonnx made, or folders or files that optimum-cli made.
        providers: "cpu", "cuda"; default every one that this ONNX Runtime was built with. One that
            cannot be used gives a row that says why.
        lengths: tokens of a text; default 16, 128 and 512, or the models' limit where that is less;
            none where `text` is given.
        batch_sizes: texts handed over at once.
        threads: batches at a time; default as many as cores that this process may use.
        text: a file of texts to be measured from reading to result; see `readers`.
        column: its column that holds the text.
        pair_column: its column that holds the second text.
        tf32: whether fp32 models multiply in TF32 on CUDA.
        gpu_memory: GiB that ONNX Runtime may take on CUDA.
        seconds: time for each configuration, warm-up not counted; each runs at least three times.
        repeat: so many runs of each configuration instead.
        progress: called with the work done and the work in all.

    Raises:
        UsageError: a number is out of range, or a length is over a model's limit.
        ModelFileError: a model cannot be opened.
        InputError: `text` cannot be read.
    """
    _check(models, text, batch_sizes, threads, seconds, repeat)
    chosen, cuda = _providers(providers), _Cuda(tf32, gpu_memory)
    with ExitStack() as stack:
        opened = list(_opened(stack, models, chosen, tuple(threads or (allowed_cores(),)), cuda))
        live = [model for model in opened if isinstance(model, tuple)]
        sizes = _lengths(lengths, [model for model, _ in live], default=text is None)
        own = None if text is None else _Text(Path(text), column, pair_column)
        places = [
            place if isinstance(place, BenchRow) else list(_cases(*place, sizes, batch_sizes, own))
            for place in opened
        ]
        cases = [case for place in places if isinstance(place, list) for case in place]
        _measure(cases, seconds, repeat, progress)
        notes = tuple(_notes([model for model, _ in live], cases))
    rows = [row for place in places for row in ([place] if isinstance(place, BenchRow) else map(_row, place))]
    settings = {
        **{"providers": list(chosen), "lengths": list(sizes), "batch_sizes": list(batch_sizes)},
        **{"text": None if text is None else str(text), "seconds": None if repeat else seconds},
        **{"repeat": repeat, "rounds": _ROUNDS, **asdict(cuda)},
    }
    return BenchReport(machine(), settings, notes, tuple(_related(rows)))


def _check(
    models: Sequence[str | Path],
    text: str | Path | None,
    batch_sizes: Sequence[int],
    threads: Sequence[int] | None,
    seconds: float,
    repeat: int | None,
) -> None:
    if isinstance(models, (str, Path)) or not models:
        raise UsageError("give a list of at least one model file")
    if str(text) == "-":
        raise UsageError("--text - cannot be: the text is read several times; give a file")
    _check_numbers("--batch-sizes", batch_sizes)
    if threads is not None:
        _check_numbers("--threads", threads)
    if repeat is not None:
        _check_numbers("--repeat", [repeat])
    if not seconds > 0:
        raise UsageError(f"--seconds is {seconds}; give a number over 0")


def _check_numbers(option: str, values: Sequence[int]) -> None:
    if not values:
        raise UsageError(f"{option} is empty; give numbers with commas between them, such as 1,8")
    for value in values:
        if value < 1:
            raise UsageError(f"{option} holds {value}; give numbers of at least 1")


def _providers(asked: Sequence[str] | None) -> tuple[Provider, ...]:
    if asked is None:
        built = import_onnxruntime().get_available_providers()
        return ("cpu", "cuda") if "CUDAExecutionProvider" in built else ("cpu",)
    known: dict[str, Provider] = {name: name for name in PROVIDERS if name != "auto"}
    for name in asked:
        if name not in known:
            raise UsageError(
                f"--provider {name} is unknown; it can be {', '.join(known)}, or both with a comma"
            )
    if not asked:
        raise UsageError(f"--provider is empty; it can be {', '.join(known)}, or both with a comma")
    return tuple(dict.fromkeys(known[name] for name in asked))


def _opened(
    stack: ExitStack,
    models: Sequence[str | Path],
    providers: Sequence[Provider],
    threads: Sequence[int],
    cuda: _Cuda,
) -> Iterator[tuple[Model, BenchRow] | BenchRow]:
    """Yield every model opened, with the beginning of its rows, or the row that says why it is not."""
    paths = [Path(model) for model in dict.fromkeys(map(str, models))]
    for path in paths:
        name = str(path) if [other.name for other in paths].count(path.name) > 1 else path.name
        for provider in providers:
            # On a GPU, how many batches run at a time does not follow the cores.
            for number in dict.fromkeys(threads if provider == "cpu" else threads[-1:]):
                try:
                    model = stack.enter_context(cuda.open(path, provider, number))
                except ProviderError as error:
                    yield BenchRow(name, "", provider, number, problem=str(error))
                    break
                yield model, BenchRow(name, model.card.precision, model.provider, number)


def _lengths(asked: Sequence[int] | None, models: Sequence[Model], *, default: bool) -> tuple[int, ...]:
    shortest = min((model.max_length for model in models), default=max(LENGTHS))
    if asked is None:
        return tuple(dict.fromkeys(min(length, shortest) for length in LENGTHS)) if default else ()
    _check_numbers("--lengths", asked)
    if models and max(asked) > shortest:
        at_fault = next(model for model in models if model.max_length == shortest)
        raise UsageError(
            f"--lengths {max(asked)} is over the limit of {at_fault.path}: it takes {shortest} tokens; "
            f"give lengths of at most {shortest}"
        )
    return tuple(dict.fromkeys(asked))


def _cases(
    model: Model, start: BenchRow, lengths: Sequence[int], batch_sizes: Sequence[int], text: _Text | None
) -> Iterator[_Case]:
    for length in lengths:
        rows = exact_rows(model.tokenizer, model.card, length=length, count=max(batch_sizes))
        for size in dict.fromkeys(batch_sizes):
            row = replace(start, length=length, batch_size=size, texts=size, tokens=size * length)
            run = _batch_run(model, rows[:size])
            yield _Case(row, run, run)
    if text is not None:
        texts, tokens = _counted(model, text)
        row = replace(start, input=text.path.name, texts=texts, tokens=tokens)
        yield _Case(row, lambda: _run_text(model, text), lambda: _run_text(model, text, _WARM_UP_ROWS))


def _batch_run(model: Model, rows: Sequence[Row]) -> Callable[[], None]:
    def run() -> None:
        for item in model.stream(rows):
            if isinstance(item, RowError):
                raise item

    return run


def _run_text(model: Model, text: _Text, limit: int | None = None) -> None:
    # Rows that fail are part of the user's file and of its time; a note says how many there are.
    with _source(model, text) as rows:
        results = model.stream(
            rows if limit is None else (row for row, _ in zip(rows, range(limit), strict=False))
        )
        for _ in results:
            pass


def _source(model: Model, text: _Text) -> Any:
    columns = RunOptions(column=text.column, pair_column=text.pair_column)
    return open_rows(text.path, columns, needs_pair=model.card.needs_pair)


def _counted(model: Model, text: _Text) -> tuple[int, int]:
    texts = tokens = 0
    with _source(model, text) as rows:
        for row in rows:
            texts += 1
            encoded = row if isinstance(row, RowError) else model.tokenizer.encode([row])[0]
            if isinstance(encoded, Encoded):
                tokens += sum(len(piece.ids) for piece in encoded.pieces)
    if not texts:
        raise InputError(f"{text.path} holds no text; give a file with at least one row")
    return texts, tokens


def _measure(cases: Sequence[_Case], seconds: float, repeat: int | None, progress: Progress | None) -> None:
    total, done = len(cases) * (1 + _ROUNDS), 0
    for number in range(1 + _ROUNDS):
        for case in cases if number % 2 else reversed(cases):
            try:
                if case.problem is None:
                    _spend(case, number, seconds, repeat) if number else _warm_up(case)
            except BertonnxError as error:
                case.problem = str(error)
            done += 1
            if progress is not None:
                progress(done, total)


def _warm_up(case: _Case) -> None:
    began = time.perf_counter()
    for _ in range(_WARM_UP_RUNS):
        case.warm()
        if time.perf_counter() - began > _WARM_UP_SECONDS:
            return


def _spend(case: _Case, number: int, seconds: float, repeat: int | None) -> None:
    """Measure until this round's share of the runs, or of the time, is there."""
    share = number / _ROUNDS
    least = number if repeat is None else round(repeat * share)
    while len(case.times) < least or (repeat is None and sum(case.times) < seconds * share):
        began = time.perf_counter()
        case.run()
        case.times.append(time.perf_counter() - began)


def _row(case: _Case) -> BenchRow:
    if case.problem is not None:
        return replace(case.row, problem=case.problem)
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
    yield from dict.fromkeys(note for model in models for note in model.notes)
    for model in models:
        if model.placement is not None:
            yield f"{model.path.name} on {model.provider}: {model.placement}"
    few = min((len(case.times) for case in cases if case.times), default=100)
    if few < 100:
        yield (
            f"some configurations were run only {few} times, and their p99 is near the slowest run; "
            "--seconds or --repeat gives more"
        )
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, allowed_cores()
    if load > 1.5 * cores:
        yield f"the load average was {load:.1f} on {cores} cores: other programs ran as well, so expect noise"
