"""Plain lines of `bertonnx serve`, read without the parser of the command line.

The parser takes as long as a model takes to open, and a server that is started again is waited for. What is
not plain here (help, a wrong value, a variable) goes to the parser, which says what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.serving.options import ServeOptions

__all__ = ["plain_serve"]

_COMMAND = "serve"

_TEXTS = {"--host": "host", "--provider": "provider"}
_NUMBERS = {
    "--port": "port",
    "--threads": "threads",
    "--max-queue": "max_queue",
    "--max-body": "max_body",
}
_FLAGS = {
    "--auto-truncate": ("auto_truncate", True),
    "--access-log": ("access_log", True),
    "--no-access-log": ("access_log", False),
}
_LOAD = ("provider", "threads")

_VARIABLE = "BERTONNX_{}"
"""What the variable of an option is called; it counts where the line does not say."""

_NOT_PLAIN = ("cors", *{name for name, _ in _FLAGS.values()})


def plain_serve(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> tuple[list[str], LoadOptions, ServeOptions] | None:
    """Return models and options of a line of `bertonnx serve`; None where only the parser can tell.

    Args:
        arguments: of the command line.
        environment: whose variables may be options too.

    Raises:
        UsageError: an option is out of range.
    """
    variables = _of_variables(environment)
    if not arguments or arguments[0] != _COMMAND or variables is None:
        return None
    models: list[str] = []
    chosen: dict[str, Any] = variables
    rest = iter(arguments[1:])
    for argument in rest:
        if not argument.startswith("-"):
            models.append(argument)
        elif argument in _FLAGS:
            name, value = _FLAGS[argument]
            chosen[name] = value
        elif (read := _value(argument, next(rest, ""))) is not None:
            chosen.update([read])
        else:
            return None
    if not models:
        return None
    from bertonnx.runtime.serving.server import keys_of_environment

    load = {name: chosen.pop(name) for name in _LOAD if name in chosen}
    return models, LoadOptions(**load), ServeOptions(**chosen, api_keys=tuple(keys_of_environment()))


def _value(option: str, text: str) -> tuple[str, str | int] | None:
    """Return name and value of an option; None where it is another, or its value is not plain."""
    if option in _TEXTS and text and not text.startswith("-"):
        return _TEXTS[option], text
    # Digits of other scripts are numbers too, and larger ones than these are out of range anywhere.
    if option in _NUMBERS and text.isascii() and text.isdigit() and len(text) < 10 and int(text):
        return _NUMBERS[option], int(text)
    if option == "--port" and text == "0":
        return "port", 0
    return None


def _of_variables(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the options that variables give; None where one of them is not plain."""
    if any(_VARIABLE.format(name.upper()) in environment for name in _NOT_PLAIN):
        return None
    chosen: dict[str, Any] = {}
    for option, name in (_TEXTS | _NUMBERS).items():
        text = environment.get(_VARIABLE.format(name.upper()))
        if text is None:
            continue
        read = _value(option, text)
        if read is None:
            return None
        chosen.update([read])
    return chosen
