"""Arguments and options that several commands share, or that take many words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.models.providers import choices as providers
from bertonnx.runtime.options import LONG_TEXT, ON_ERROR

__all__ = [
    "PROVIDER_NAMES",
    "CsvSafeOption",
    "GpuMemoryOption",
    "LongTextOption",
    "ManifestOption",
    "ModelPath",
    "ModelPaths",
    "OnErrorOption",
    "OwnModelPath",
    "ProviderOption",
    "ReportOption",
    "Tf32Option",
]

# Shown here and checked where Python's arguments are, so that both give the same error.
PROVIDER_NAMES = "|".join(providers())

ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A model file from bertonnx, or a folder or file from optimum-cli."),
]
ModelPaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL...", help="Model files from bertonnx, or folders or files from optimum-cli."
    ),
]
OwnModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file from bertonnx.")]
ProviderOption = Annotated[
    str,
    typer.Option(
        "--provider",
        metavar=PROVIDER_NAMES,
        help="Where to run. cuda is an error if CUDA does not work; auto then uses the CPU.",
    ),
]

Tf32Option = Annotated[
    bool, typer.Option("--tf32", help="On CUDA: run fp32 models faster, accurate to about three digits.")
]
GpuMemoryOption = Annotated[
    float | None,
    typer.Option("--gpu-memory", metavar="GIB", help="On CUDA: GPU memory to use at most, in GiB."),
]
LongTextOption = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(LONG_TEXT),
        help="What to do with a text longer than the model takes: cut it, read it in overlapping windows, or "
        "report an error. Default: truncate; stride for question answering and token classification.",
    ),
]
OnErrorOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(ON_ERROR), help="Write the error in place of a failed row's result, or stop."
    ),
]
ReportOption = Annotated[
    list[Path] | None,
    typer.Option(
        "-o",
        "--output",
        help="Write the results to .json, .csv, .md, .html or .png. Can be given more than once.",
    ),
]
CsvSafeOption = Annotated[
    bool,
    typer.Option(
        "--csv-safe",
        help="In .csv and .tsv, put a quote before texts that a spreadsheet would run as formulas.",
    ),
]
ManifestOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write a JSON file with digests of model, input and output, versions, options and counts.",
    ),
]
