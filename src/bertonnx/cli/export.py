"""`bertonnx export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.cli.app import echo
from bertonnx.cli.options import numbers
from bertonnx.display import (
    steps,
    summary,
)
from bertonnx.models.hidden import ALL
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.verifiers import VERIFIERS

__all__ = ["export"]


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A Hugging Face Hub id, or the folder of a checkpoint, a Sentence-Transformers model or a "
            "PEFT adapter; or a TensorFlow checkpoint, as bert_model.ckpt, .h5, .keras or a SavedModel.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path("model.onnx"),
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="What the model does, such as token-classification or ner. Default: what the checkpoint was "
            "trained for.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    quantize: Annotated[
        bool,
        typer.Option(
            "--quantize",
            help="Write an INT8 file: smaller and faster. An error if its results differ too much from fp32.",
        ),
    ] = False,
    precision: Annotated[
        str, typer.Option(metavar="fp32|fp16", help="Number format of the file. fp16 is meant for CUDA.")
    ] = "fp32",
    optimize: Annotated[
        str,
        typer.Option(
            metavar="none|basic|full", help="How much to optimize the graph. full fuses attention and GELU."
        ),
    ] = "full",
    max_length: Annotated[
        int | None, typer.Option(help="Longest input in tokens; at most what the model takes.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(POOLINGS.names),
            help="How token vectors become one embedding; several with commas between them are joined.",
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="Scale embeddings to length 1, or do not."),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What makes scores of logits: sigmoid, softmax, tanh, none; default the checkpoint's own. "
            "gelu_new is for the encoder of a TensorFlow checkpoint instead: GELU by tanh.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Names of the classes, one a line, in the order of the outputs."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Texts like yours, to tune and measure --quantize or --precision fp16, and for the ranges "
            "of embeddings.",
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="How well --quantize or --precision fp16 must agree with fp32; default 0.99."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="auto|avx2|vnni|arm64", help="CPU to target with --quantize."),
    ] = None,
    ignore_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Ignore a key of the checkpoint's files that nothing reads. Repeatable."
        ),
    ] = None,
    verify_with: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(VERIFIERS.names),
            help="Also compare with the answers of the library that made the checkpoint. Repeatable.",
        ),
    ] = None,
    dimensions: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Keep the ranges of embeddings cut to N numbers and normalized too, which int8 and uint8 "
            "need. Repeatable.",
        ),
    ] = None,
    hidden_states: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="Layers whose token vectors become outputs too: all, or numbers such as 0,6,-1.",
        ),
    ] = None,
    calibrate_scores: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Labelled texts (columns text and label): fit a temperature that makes scores worth what "
            "they say.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Allow running Python code that comes with the checkpoint."),
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Allow reading .bin weights, which can run code when loaded."),
    ] = False,
) -> None:
    """Export a checkpoint to one ONNX file and compare it with PyTorch."""
    # Each command imports its own needs: torch is not there for most who run a model.
    from bertonnx import export as export_checkpoint

    with steps() as step:
        report = export_checkpoint(
            source,
            output,
            task=task,
            revision=revision,
            quantize=quantize,
            calibration=calibration,
            min_agreement=min_agreement,
            target=target,
            ignore_keys=ignore_key or (),
            verify_with=verify_with or (),
            dimensions=dimensions or (),
            hidden_states=hidden_states
            if hidden_states in (None, ALL)
            else numbers("hidden_states", str(hidden_states)),
            calibrate_scores=calibrate_scores,
            precision=precision,
            optimize=optimize,
            max_length=max_length,
            pooling=pooling,
            normalize=normalize,
            activation=activation,
            labels=labels,
            force=force,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=step,
        )
    for line in summary(report):
        echo(line)
