"""`bertonnx doctor`."""

from __future__ import annotations

import typer

from bertonnx.cli.app import echo
from bertonnx.wording import Message

__all__ = ["doctor"]


def doctor() -> None:
    """Report what is available on this machine, and the command that fixes what is not."""
    from bertonnx.runtime.doctor import examine

    findings = examine()
    for finding in findings:
        state = "ok     " if finding.ok else "problem"
        echo(Message("{state}  {name}: {value}", state=state, name=finding.name, value=finding.value))
        if finding.remedy is not None:
            echo(Message("         -> {remedy}", remedy=finding.remedy))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
