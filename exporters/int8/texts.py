"""Texts that INT8 is calibrated on, and others that it is judged by, where the user gives none.

They stand in `texts.txt` and `questions.txt` beside this module, a text on each line, in UTF-8. Written for
this project: short and long, news, reviews, questions, mail, manuals, talk, numbers, names, code, and
some in other languages, since a model's outliers show up on what is unusual.
"""

from __future__ import annotations

from importlib.resources import files

__all__ = ["QUESTIONS", "TEXTS"]


def _lines(name: str) -> tuple[str, ...]:
    # Not splitlines, which would cut a text at separators that belong to it, such as U+2028.
    content = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return tuple(content.removesuffix("\n").split("\n"))


TEXTS = _lines("texts.txt")
"""256 texts; half of them calibrate, and the others judge (`exporters.int8.calibration`). Their order is part
of an INT8 file's numbers: texts take turns."""

QUESTIONS = _lines("questions.txt")
"""Questions for texts that have none."""
