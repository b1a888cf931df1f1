"""Arguments and options that several commands share, or that take many words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.errors import UsageError
from bertonnx.models.providers import choices as providers
from bertonnx.runtime.options import ENCODINGS, LONG_TEXT, ON_ERROR
from bertonnx.wording import Option

__all__ = [
    "PROVIDER_NAMES",
    "ColumnOption",
    "CsvSafeOption",
    "DimensionsOption",
    "EncodingOption",
    "GpuMemoryOption",
    "LabelColumnOption",
    "LongTextOption",
    "ManifestOption",
    "ModelPath",
    "ModelPaths",
    "NormalizeOption",
    "OnErrorOption",
    "OwnModelPath",
    "PairColumnOption",
    "PasswordOption",
    "PrivateKeyOption",
    "ProviderOption",
    "PublicKeyOption",
    "ReportOption",
    "SignatureFile",
    "SignatureOutput",
    "Tf32Option",
    "VerifyingKeyOption",
    "numbers",
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
ColumnOption = Annotated[str | None, typer.Option(help="Column or JSON field that holds the text.")]
PairColumnOption = Annotated[
    str | None, typer.Option(help="Column or JSON field that holds the second text, such as the context.")
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME...]",
        help="Column or JSON field that holds the label; several that hold 0 or 1, each for a label.",
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

DimensionsOption = Annotated[
    int | None, typer.Option(help="How many numbers of each embedding to keep, from its beginning.")
]
NormalizeOption = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Scale embeddings to length 1, after --dimensions. Default: as the model gives them.",
    ),
]
EncodingOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(ENCODINGS),
        help="Numbers of an embedding: a byte for each dimension (int8, uint8), or a bit (binary, ubinary).",
    ),
]

PrivateKeyOption = Annotated[
    Path, typer.Option(metavar="FILE", help="PEM file of an elliptic curve key (P-256, P-384 or P-521).")
]
PasswordOption = Annotated[
    str | None,
    typer.Option(envvar="BERTONNX_KEY_PASSWORD", help="Of an encrypted key; better in this variable."),
]
PublicKeyOption = Annotated[Path, typer.Option(metavar="FILE", help="PEM file of the signer's public key.")]
VerifyingKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--public-key", metavar="FILE", help="PEM file of the signer's public key: verify MODEL.sig too."
    ),
]
SignatureFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The signature's file. Default: MODEL.sig.")
]
SignatureOutput = Annotated[
    Path | None, typer.Option("-o", "--output", help="The signature's file. Default: MODEL.sig.")
]


def numbers(option: str, text: str) -> list[int]:
    """Return the numbers of an option such as `1,8,32`.

    Raises:
        UsageError: it is no list of numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            "{asked} is no list of numbers; type them as in {example}",
            asked=Option(option, text),
            example=Option(option, "1,8,32"),
        ) from error
