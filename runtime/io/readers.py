"""Input files as rows, one after the other, whatever their size.

===================  ==========================================================================
`.txt`               One text a line. An empty line is a row with an empty text.
`.csv` `.tsv`        The first line names the columns. In `.csv`, quotes work as in RFC 4180: a
                     quoted field may hold commas and line ends, and a quote in it is doubled. In
                     `.tsv`, a quote that does not enclose a whole field is a character like any
                     other, since many programs write such files without quoting.
`.jsonl` `.ndjson`   One JSON object a line, or one JSON string a line.
`.parquet`           Parquet.
`.arrow` `.feather`  Arrow IPC, as a file or as a stream; the column is read a batch at a time.
`-`                  Standard input: one text a line; with `column`, one JSON object a line.
===================  ==========================================================================

Text is UTF-8, with or without a byte order mark. A line ends at ``\\n`` or ``\\r\\n``, and nowhere
else. What is wrong with one row becomes a `RowError` in that row's place; what is wrong with the
file raises `InputError`.

Without `column`, the only column is taken, or `text`, or `sentence`. Where the model reads pairs,
the first of these that the file has: `question` and `context`, `text` and `text_pair`, `sentence1`
and `sentence2`, `premise` and `hypothesis`, `query` and `passage`.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from bertonnx.errors import InputError
from bertonnx.models.registry import resolve
from bertonnx.runtime.io.formats import INPUTS, ending_of
from bertonnx.runtime.io.inputs import Choice, Input
from bertonnx.runtime.options import RunOptions
from bertonnx.wording import Option, Words

__all__ = ["open_rows"]

_DEFAULTS = RunOptions()


def open_rows(
    path: str | Path,
    options: RunOptions = _DEFAULTS,
    *,
    needs_pair: bool,
    skip: int = 0,
    once: tuple[Option, ...] = (),
) -> Input:
    """Open an input; the format follows from the ending, `-` is standard input.

    Args:
        path: the file.
        options: the columns to read; what else they hold is not looked at.
        needs_pair: whether the model cannot do without a second text.
        skip: rows to pass over, because an earlier run has done them.
        once: what could be given in place of second texts, for errors.

    Raises:
        InputError: the file cannot be read, or does not have the columns.
        UsageError: a column for a format that has none.
        MissingDependencyError: the format needs pyarrow.
    """
    opened = _open(Choice(str(path), options, needs_pair, once))
    try:
        opened.skipped = opened.skip(skip)
    except BaseException:  # an interrupt too: skipping a large input takes its time
        opened.close()
        raise
    return opened


def _open(choice: Choice) -> Input:
    if choice.path == "-":
        # Nothing names the format of a pipe but that somebody asks for a field of it.
        ending = ".txt" if choice.options.column is None else ".jsonl"
    else:
        ending = ending_of(choice.path)
        _check(Path(choice.path), ending)
    return cast("Input", resolve(INPUTS[ending].opens)(choice))


def _check(path: Path, ending: str) -> None:
    if path.is_dir():
        raise InputError(
            "the input {path} is a folder; give one file{such}",
            path=path,
            such=Words(f", such as all of them joined: cat '{path}'/*.txt > all.txt"),
        )
    if ending not in INPUTS:
        raise InputError(
            "the ending of {path} does not say how to read it; files that end in {endings} are read{besides}",
            path=path,
            endings=" ".join(INPUTS.names),
            besides=Words(", and - is standard input (one text a line)"),
        )
    if not path.exists():
        raise InputError(
            "there is no file {path}; give an existing file{instead}",
            path=path,
            instead=Words(", or - for standard input"),
        )
