"""`bertonnx info`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bertonnx.cli.app import echo
from bertonnx.cli.options import (
    PROVIDER_NAMES,
    OwnModelPath,
)
from bertonnx.display import (
    card_lines,
    provider_line,
    running_on,
)
from bertonnx.errors import ModelFileError
from bertonnx.models.card import Card
from bertonnx.runtime.options import (
    LoadOptions,
)
from bertonnx.wording import printable

__all__ = ["info"]


def info(
    model: OwnModelPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Print instead what became of each tensor of a TensorFlow checkpoint, as CSV, or as JSON "
            "with --json.",
        ),
    ] = False,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar=PROVIDER_NAMES,
            help="Also open the model there, and print which parts of it the GPU runs.",
        ),
    ] = None,
) -> None:
    """Print what is in a model file: task, size, labels, accuracy."""
    # Before the file is read, which can be large: a wrong provider is said at once.
    options = None if provider is None else LoadOptions(provider=provider)
    from bertonnx.runtime.modelfile.modelfile import read_model_file

    file = read_model_file(model)
    if weights:
        _print_weights(file.card, as_json=as_json)
        return
    session = None
    if options is not None:
        from bertonnx.runtime.session.session import open_session

        session = open_session(model, file.card, options)
    if as_json:
        running = {} if session is None else {"running": running_on(session)}
        typer.echo(printable(json.dumps({**file.card.as_dict(), **running}, indent=2, ensure_ascii=False)))
        return
    for line in card_lines(file.card, file.bytes):
        echo(line)
    if session is not None:
        echo(provider_line(session))


def _print_weights(card: Card, *, as_json: bool) -> None:
    from bertonnx.source_weights import csv_of, json_of

    if not card.tensors:
        raise ModelFileError(
            "the model keeps no account of tensors: only one that was exported from a TensorFlow checkpoint "
            "does"
        )
    typer.echo(printable(json_of(card) if as_json else csv_of(card)), nl=as_json)
