"""What an unfinished output was begun with, so that a run can go on with it.

Beside an output `OUT` lies `OUT.progress` until the output is complete. It says which model,
options and input the output was begun with; a run resumes only with the same. How many
rows are done is not in it: that is read from the output itself, so that a kill can never make
the two disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bertonnx.errors import OutputError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.outputs import SpoolWriter, Writer
from bertonnx.runtime.io.predictor import Predictor
from bertonnx.runtime.io.writers import Target, open_writer
from bertonnx.runtime.options import DecodeOptions
from bertonnx.wording import Message, Option

__all__ = ["Note", "Setting", "Unfinished", "noted_options", "origin_of", "progress_path", "unfinished"]

FORMAT = 2
"""Raised when an older note would be misread."""

Setting = str | int | float | bool | None
_NONE_GIVEN = DecodeOptions()


def progress_path(output: str | Path) -> Path:
    """Return the path of the file that says what an unfinished output was begun with."""
    target = Path(output).resolve()
    return target.with_name(target.name + ".progress")


def origin_of(predictor: Predictor, input: str | Path, options: Mapping[str, Setting]) -> dict[str, Any]:
    """Return what a note says: the model, the options, and the input by name, size and time."""
    import hashlib  # loads OpenSSL, for which a prediction need not wait

    path = Path(input)
    stat = path.stat() if str(input) != "-" and path.is_file() else None
    return {
        "format": FORMAT,
        "model": predictor.identity,
        "card": hashlib.sha256(predictor.card.to_json().encode()).hexdigest(),
        "options": dict(options),
        "input": {
            "name": path.name,
            "size": stat and stat.st_size,
            "mtime_ns": stat and stat.st_mtime_ns,
        },
    }


def noted_options(decode: DecodeOptions) -> dict[str, Setting]:
    """Return the decoding options that a note names.

    Only those whose default is None are always there: an option that is new, and not used, leaves
    notes as older versions wrote them.
    """
    given = {field.name: getattr(decode, field.name) for field in fields(decode)}
    usual = {name: getattr(_NONE_GIVEN, name) for name in given}
    return {name: value for name, value in given.items() if usual[name] is None or value != usual[name]}


class Note:
    """The file beside an unfinished output that says what it was begun with.

    Args:
        output: the output; None for standard output, which has no note.
        origin: what it is begun with now, from `origin_of`.
    """

    def __init__(self, output: Target | None, origin: dict[str, Any]) -> None:
        self._output = output
        self._path = None if output is None else progress_path(output.path)
        self._origin = origin
        self._there = False

    def exists(self) -> bool:
        """Return whether an earlier run left one."""
        return self._path is not None and self._path.is_file()

    def compare(self) -> None:
        """Check that the output was begun with the same model, options and input.

        Raises:
            UsageError: it was not.
        """
        problem = _difference(self._read(), self._origin)
        if problem is not None:
            assert self._output is not None
            raise UsageError(
                "{output} was begun with {problem}; {resume} needs the same again, "
                "or run without {resume} to start over",
                output=self._output.given,
                problem=problem,
                resume=Option("resume"),
            )
        self._there = True

    def begin(self, writer: Writer) -> None:
        """Let the writer make room, and write the note, both before the first row.

        In this order: a kill between the two leaves an empty output without a note, which a
        resumed run starts from the beginning. The other way round, it would take an older
        output's rows for its own.
        """
        if self._there:
            return
        writer.start()
        if self._path is not None and writer.lasting:
            self._write(self._path)
        self._there = True

    def remove(self) -> None:
        """Take it away: the output is complete."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        aside = path.with_name(path.name + ".new")
        try:
            aside.write_text(json.dumps(self._origin, indent=1) + "\n", encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            why = error.strerror or str(error)
            raise OutputError("cannot write {path}: {why}", path=path, why=why) from error

    def _read(self) -> dict[str, Any]:
        assert self._path is not None
        try:
            was = json.loads(self._path.read_text(encoding="utf-8"))
            if was["format"] == FORMAT:
                return dict(was)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise UsageError(
            "{path} is not of this version of bertonnx; run without {resume} to start over",
            path=self._path,
            resume=Option("resume"),
        )


def _difference(was: dict[str, Any], now: dict[str, Any]) -> Message | None:
    """Return what an output was begun with that is different now; None where nothing is."""
    if was.get("card") != now["card"]:
        return Message("another model")
    # Before the identity, which depends on some of the options and could not say on which.
    old, new = was.get("options", {}), now["options"]
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            return _changed(name, old.get(name), new.get(name))
    if was.get("model") != now["model"]:
        return Message("another model")
    for what in ("size", "mtime_ns"):
        if was.get("input", {}).get(what) != now["input"][what]:
            name = was["input"].get("name")
            return Message("another input, or the input {name} has changed since", name=name)
    return None


def _changed(name: str, was: Setting, now: Setting) -> Message:
    later = "not given" if now is None else now
    if was is None:
        return Message("{option} not given, and now it is {now}", option=Option(name), now=later)
    return Message("{option}, and now it is {now}", option=Option(name, was), now=later)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What an earlier run left of an output that it did not finish.

    Attributes:
        rows: finished rows; None where there are some kind of rows, of other columns than these.
        noted: whether it says what it was begun with, without which no run goes on with it.
    """

    rows: int | None
    noted: bool


def unfinished(output: Target, *, card: Card, decode: DecodeOptions = _NONE_GIVEN) -> Unfinished | None:
    """Return what a run would replace of an unfinished earlier one; None where there are no rows.

    Args:
        output: the file of the run that is to come.
        card: of its model.
        decode: how its results will be made.

    Raises:
        OutputError: the output cannot be written.
        UsageError: the format cannot hold the results of this task.
    """
    noted = progress_path(output.path).is_file()
    writer = open_writer(output, card=card, decode=decode)
    if not noted and not (isinstance(writer, SpoolWriter) and writer.spool.is_file()):
        return None
    try:
        rows = open_writer(output, card=card, decode=decode, resume=True).done.rows
    except UsageError:
        return Unfinished(None, noted)
    return Unfinished(rows, noted) if rows else None
