"""The application that the commands belong to."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bertonnx import __version__
from bertonnx.wording import Message, command_face, printable, worded

__all__ = ["app", "echo"]


class _Commands(TyperGroup):
    """The commands, with the end that a shell expects when the reader has gone (`run ... | head`)."""

    def invoke(self, ctx: Any) -> Any:  # typer before 0.16 has click's context here
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Python would complain again when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from error


app = typer.Typer(
    name="bertonnx",
    cls=_Commands,
    help="Export a fine-tuned BERT model to one ONNX file, and run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def echo(line: str | Message) -> None:
    """Print a line on standard output, in the words of the command line."""
    typer.echo(printable(worded(line, command_face())))


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
