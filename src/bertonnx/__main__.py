"""The command `bertonnx`: runs the command line and turns errors into exit codes."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

from bertonnx.collecting import pause, resume
from bertonnx.errors import BertonnxError, TruncationWarning
from bertonnx.wording import Message, command_face, printable

__all__ = ["main"]


def main() -> None:
    """Run the command line with `sys.argv`; ends the process with the exit codes of the README."""
    pause()
    _prepare_streams()
    try:
        _run(sys.argv[1:])
    except BertonnxError as error:
        _fail(error.worded(command_face()), error.exit_code)
    except KeyboardInterrupt:
        # 128 + SIGINT, as shells count.
        sys.exit(130)
    except OSError as error:
        # Ours name the file and the remedy; what is left is the machine's: a full disk behind a pipe.
        _fail(f"cannot read or write {error.filename or 'standard output'}: {error.strerror or error}", 1)
    finally:
        resume()


def _run(arguments: list[str]) -> None:
    plain = _plain_run(arguments)
    if plain is None:
        if arguments[:1] == ["serve"] and _served(arguments):
            return
        from bertonnx.cli import app

        warnings.showwarning = _show_warning
        resume()
        app()
        return
    from bertonnx.prediction import run_file

    try:
        sys.exit(run_file(*plain))
    except BrokenPipeError:
        # The reader has gone (run ... | head); Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


_shown = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say ours in the words of the command line, without the line of Python that gave it."""
    said = message.args[0] if isinstance(message, TruncationWarning) else None
    if not isinstance(said, Message):
        _shown(message, category, filename, lineno, file, line)
        return
    sys.stderr.write(printable(f"warning: {said.worded(command_face())}\n"))


def _served(arguments: list[str]) -> bool:
    """Serve models, if the line is plain; return whether it was."""
    from bertonnx.plain_serve import plain_serve

    plain = plain_serve(arguments)
    if plain is None:
        return False
    from bertonnx.runtime.serving.server import run

    resume()
    run(*plain)
    return True


def _plain_run(arguments: list[str]) -> tuple[Path, str, Path | None] | None:
    """Return model, input and output of a plain `run MODEL INPUT [-o OUTPUT]`; None for all else.

    It needs no parser, and the parser would take a third of the time to its first prediction
    (benchmarks/startup.py).
    """
    match arguments:
        case ["run", model, input] if not _option(model, input):
            return Path(model), input, None
        case ["run", model, input, "-o" | "--output", output] if not _option(model, input, output):
            return Path(model), input, Path(output)
    return None


def _option(*arguments: str) -> bool:
    # A dash alone is standard input.
    return any(argument.startswith("-") and argument != "-" for argument in arguments)


def _prepare_streams() -> None:
    """Let printing fail neither for the terminal's encoding nor for a closed standard error."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (lives as long as the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> None:
    try:
        sys.stderr.write(printable(f"error: {message}\n"))
        sys.stderr.flush()
    except OSError:
        # Nobody can be told; Python must not try again at its end, which would change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(code)


if __name__ == "__main__":
    main()
