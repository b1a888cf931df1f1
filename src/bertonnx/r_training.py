"""Training for R, in a process of its own: `python -m bertonnx.r_training REQUEST.json ANSWER.json`.

What is said on the way goes to standard output, a line each; the answer is as those of `runtime.r_bridge`.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

from bertonnx.runtime.r_answers import answering
from bertonnx.runtime.r_tables import plain
from bertonnx.runtime.r_work import evaluation_answer
from bertonnx.wording import Face, R


def main() -> None:
    """Read the request, train, and write the answer."""
    asked, answer = map(Path, sys.argv[1:])
    request: dict[str, Any] = json.loads(asked.read_text(encoding="utf-8"))
    face = R.naming(request.pop("named"))
    warnings.showwarning = _show_warning
    found = answering(_trained, face)(request, face)
    written = answer.with_suffix(".new")
    written.write_text(json.dumps(found), encoding="utf-8")
    # Whole or not at all: whoever reads it takes none for a process that died.
    written.replace(answer)


def _trained(request: dict[str, Any], face: Face) -> dict[str, Any]:
    # Here, so that a package that is not installed is an answer too.
    from bertonnx import train

    made = train(**request, progress=_say)
    notes = [plain(message.worded(face)) for message in made.messages]
    return {**evaluation_answer(made.evaluation, face), "notes": notes}


def _show_warning(
    message: Warning | str,
    category: type[Warning],  # noqa: ARG001
    filename: str,  # noqa: ARG001
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Say a warning, in place of `warnings.showwarning`, without the line of Python that gave it."""
    _say(f"warning: {plain(str(message))}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
