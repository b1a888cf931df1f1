"""`bertonnx bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.cli.app import echo
from bertonnx.cli.options import (
    GpuMemoryOption,
    ModelPaths,
    ReportOption,
    Tf32Option,
    numbers,
)
from bertonnx.display import (
    bench_bar,
    print_bench,
    say,
)
from bertonnx.models.providers import PROVIDERS

__all__ = ["bench"]


def bench(
    models: ModelPaths,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar=",".join(PROVIDERS.names),
            help="Where to run, such as cpu,cuda. Default: all that this ONNX Runtime has.",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="Lengths of the texts, in tokens. Default: 16,128,512; none with --text."),
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="How many texts are given at once.")] = "1,8,32",
    threads: Annotated[
        str | None, typer.Option(help="Numbers of threads, such as 1,2. Default: as many as available cores.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Measure a file of your own, from reading it to the results.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column or JSON field of --text that holds the text.")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column or JSON field of --text that holds the second text.")
    ] = None,
    tf32: Tf32Option = False,
    gpu_memory: GpuMemoryOption = None,
    seconds: Annotated[float, typer.Option(help="How long to measure each combination.")] = 2.0,
    repeat: Annotated[
        int | None, typer.Option(help="How often to run each combination, instead of --seconds.")
    ] = None,
    output: ReportOption = None,
) -> None:
    """Measure latency and throughput of one or more models."""
    from bertonnx.runtime.bench.measure import bench as measure
    from bertonnx.runtime.bench.options import BenchOptions
    from bertonnx.runtime.bench.report import check_report_output, machine_lines, write_report

    # Before minutes of measuring: a name that cannot be written is said at once.
    outputs = [check_report_output(path) for path in output or ()]
    options = BenchOptions(
        providers=None if provider is None else [name.strip() for name in provider.split(",")],
        lengths=None if lengths is None else numbers("lengths", lengths),
        batch_sizes=numbers("batch_sizes", batch_sizes),
        threads=None if threads is None else numbers("threads", threads),
        text=text,
        column=column,
        pair_column=pair_column,
        tf32=tf32,
        gpu_memory=gpu_memory,
        seconds=seconds,
        repeat=repeat,
    )
    with bench_bar() as progress:
        report = measure(models, options, progress=progress)
    for line in machine_lines(report):
        echo(line)
    print_bench(report)
    for path in outputs:
        write_report(report, path)
        say(f"wrote {path}")
    # The code that a run ends with where some rows failed.
    if any(row.problem for row in report.rows):
        raise typer.Exit(3)
