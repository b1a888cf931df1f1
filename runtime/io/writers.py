"""Results as files, one row of output for each row of input, in its order.

============  =================================================================================
`.jsonl`      One JSON object a line (`.ndjson` too, and standard output). Appended to the file
              itself, row by row: `tail -f` works, and what was finished is there after a kill.
`.csv`        The columns below, with a header; appended to the file itself too. Text is quoted
              where it must be; lists and structures are JSON; an embedding is the columns `e0`,
              `e1`, ...; what a row does not have is empty.
`.tsv`        The same with tabs.
`.parquet`    The columns below, typed: float32, int64, lists and structs, an embedding as a
              FixedSizeList of float32, int8 or uint8. Until the end the rows lie in `OUT.partial`.
`.arrow`      The same as an Arrow IPC file (`.feather` too).
`.npy`        float32: embeddings of shape (rows, width), or the scores of text classification
              of shape (rows, labels). A row with an error is NaN. Embeddings in an encoding are
              int8 or uint8, of its shape; they have no NaN, and a row with an error is all 0.
              Until the end the rows lie in `OUT.partial`.
============  =================================================================================

Columns: `row`, then by task

- feature-extraction: `embedding`;
- text-classification: `label`, `score`, and a `score_LABEL` for each label; multi-label: `labels`
  (in `.csv` and `.tsv` joined with `|`) and a `score_LABEL` each; regression: `score`, or a
  `score_LABEL` for each of several outputs; with `top_k` over 1 also `top` (not for regression);
- token-classification: `entities`;
- question-answering: `answer`, `score`, `start`, `end`; with `top_k` over 1 also `answers`;
- fill-mask: `masks`;

then `truncated`, `error_type`, `error_message`.

A float is written as the shortest decimal text that reads back as the same float32. JSON has no
NaN and no infinity: they become null.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from bertonnx.errors import OutputError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.runtime.io.files import Lock, resolved
from bertonnx.runtime.io.formats import OUTPUTS, Format, ending_of
from bertonnx.runtime.io.outputs import Writer
from bertonnx.runtime.io.text import open_standard_output
from bertonnx.runtime.options import DecodeOptions
from bertonnx.wording import Option, making_folder

__all__ = ["Target", "check_output", "open_writer"]

_DEFAULTS = DecodeOptions()


@dataclass(frozen=True)
class Target:
    """An output that was checked: it can be written.

    Attributes:
        given: the file as the user named it, for messages.
        path: the file, symbolic links resolved.
        format: its format.
        lock: keeps a second run from it, while it is held.
    """

    given: Path
    path: Path
    format: Format
    lock: Lock = field(compare=False)


def check_output(path: str | Path, *, input: str | Path | None = None, csv_safe: bool = False) -> Target:
    """Check, before any work is done, that an output can be written, and return what it is.

    Args:
        path: the file.
        input: the file that is read, which the output must not be.
        csv_safe: whether texts are written so that a spreadsheet takes none for a formula.

    Raises:
        OutputError: its folder is missing or not writable, it is a folder itself, or links that lead nowhere.
        UsageError: its ending names no format, or none that can be `csv_safe`, or it is the input.
        MissingDependencyError: the format needs pyarrow.
    """
    given, target, ending = Path(path), resolved(Path(path)), ending_of(path)
    if given.is_dir():
        example = given / "out.jsonl"
        raise OutputError(
            "the output {path} is a folder; name a file in it, such as {example}", path=given, example=example
        )
    if ending not in OUTPUTS:
        if given.exists() and not given.is_file():
            raise UsageError(
                "the output {path} is no file, and its name says no format; without {output}, results go to "
                "standard output, which can lead there",
                path=given,
                output=Option("output"),
            )
        raise UsageError(
            "the ending of the output {path} names no format; use one of {endings}",
            path=given,
            endings=" ".join(OUTPUTS.names),
        )
    if input is not None and _is_input(given, input):
        raise UsageError("the output {path} is the input; name another file", path=given)
    if not target.parent.is_dir():
        raise OutputError(
            "there is no folder {folder}; make it with: {line}",
            folder=target.parent,
            line=making_folder(target.parent),
        )
    if not target.exists() or target.is_file():
        _check_writable(given, target)
    if requires := OUTPUTS[ending].requires:
        resolve(requires)()
    return Target(given, target, _format(given, ending, csv_safe), Lock(target))


def _format(given: Path, ending: str, csv_safe: bool) -> Format:
    format = OUTPUTS[ending]
    if not csv_safe:
        return format
    if not format.safe:
        raise UsageError(
            "{option} is for files that spreadsheets open ({endings}), and not for {path}; leave it out",
            option=Option("csv_safe", True),
            endings=" ".join(name for name in OUTPUTS.names if OUTPUTS[name].safe),
            path=given,
        )
    return replace(format, opens=format.safe)


def _is_input(given: Path, input: str | Path) -> bool:
    try:
        found = given.stat()
        # By what it is and not by name: it can be a link, or a second name of the same file.
        if str(input) == "-":
            return sys.stdin is not None and given.is_file() and os.path.samestat(found, os.fstat(0))
        return os.path.samestat(found, Path(input).stat())
    except OSError:
        return False  # one of them is not there


def _check_writable(given: Path, target: Path) -> None:
    try:
        # Trying is the only way to know: what os.access says is wrong on network drives.
        import tempfile  # with all that packs folders; a run to standard output need not wait for it

        tempfile.TemporaryFile(dir=target.parent).close()
        if target.exists():
            target.open("r+b").close()
    except OSError as error:
        raise OutputError(
            "cannot write {path}: {why}", path=given, why=error.strerror or str(error)
        ) from error


def open_writer(
    target: Target | None, *, card: Card, decode: DecodeOptions = _DEFAULTS, resume: bool = False
) -> Writer:
    """Open an output; None is JSON Lines on standard output.

    Args:
        target: the file. An existing one is replaced when the first row is written.
        card: of the model whose results are written.
        decode: how its results are made, which decides on columns.
        resume: go on behind the last whole row that is there.

    Raises:
        OutputError: the file cannot be written.
        UsageError: the format cannot hold the results of this task, or what is there to go on
            from is something else.
        MissingDependencyError: the format needs pyarrow.
    """
    if target is None:
        return open_standard_output()
    opens = resolve(target.format.opens)
    return cast("Writer", opens(target.path, card, decode, resume=resume))
