"""What an unfinished output was begun with, so that a run can go on with it.

Beside an output `OUT` lies `OUT.progress` until the output is complete. It says which model,
options and input the output was begun with; a run resumes only with the same. How many
rows are done is not in it: that is read from the output itself, so that a kill can never make
the two disagree. For outputs that grow in place it has checksums: of a beginning of the file at a
time, several of them, so that damage costs the rows behind the last one that is true.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bertonnx.errors import OutputError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.files import create, is_regular, mode_of, refuse_link
from bertonnx.runtime.io.outputs import Mark, SpoolWriter, Writer
from bertonnx.runtime.io.predictor import Predictor
from bertonnx.runtime.io.watched import Watched
from bertonnx.runtime.io.writers import Target, open_writer
from bertonnx.runtime.options import DecodeOptions
from bertonnx.wording import Message, Option

__all__ = ["Note", "Setting", "Unfinished", "noted_options", "origin_of", "progress_path", "unfinished"]

FORMAT = 3
"""Raised when an older note, or what lies beside it, would be misread."""

SECONDS_BETWEEN_MARKS = 1.0
MOST_MARKS = 32
LARGEST_NOTE = 1 << 20

LONGEST_LIST = 4096
"""Characters of a list that is written down as it is: thousands of labels would outgrow a note."""

Setting = str | int | float | bool | list[Any] | None
_NONE_GIVEN = DecodeOptions()


def progress_path(output: str | Path) -> Path:
    """Return the path of the file that says what an unfinished output was begun with."""
    target = Path(output).resolve()
    return target.with_name(target.name + ".progress")


def origin_of(predictor: Predictor, input: Watched, options: Mapping[str, Setting]) -> dict[str, Any]:
    """Return what a note says: the model, the options, and the input by what it holds."""
    import hashlib  # loads OpenSSL, for which a prediction need not wait

    return {
        "format": FORMAT,
        "model": predictor.identity,
        "card": hashlib.sha256(predictor.card.to_json().encode()).hexdigest(),
        "options": dict(options),
        "input": input.facts,
    }


def noted_options(decode: DecodeOptions) -> dict[str, Setting]:
    """Return the decoding options that a note names.

    Only those whose default is None are always there: an option that is new, and not used, leaves
    notes as older versions wrote them.
    """
    given = {field.name: getattr(decode, field.name) for field in fields(decode)}
    usual = {name: getattr(_NONE_GIVEN, name) for name in given}
    return {
        name: _noted(value) for name, value in given.items() if usual[name] is None or value != usual[name]
    }


def _noted(value: Any) -> Setting:
    """Return an option as JSON gives it back; of a long list, what tells it from others."""
    if not isinstance(value, tuple):
        setting: Setting = value
        return setting
    import hashlib  # as above

    text = json.dumps(value)
    if len(text) <= LONGEST_LIST:
        return list(value)
    return f"{len(value)} values, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"


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
        self._marks: list[Mark] = []
        self._marked = time.monotonic()

    def exists(self) -> bool:
        """Return whether an earlier run left one.

        Raises:
            OutputError: there is a link of its name.
        """
        if self._path is None:
            return False
        refuse_link(self._path)
        return is_regular(self._path)

    def compare(self) -> Message | None:
        """Check that the output was begun with the same model, options and input.

        Returns:
            What to say of rows that are not as they were written; they are cut off, with all behind.

        Raises:
            UsageError: it was not begun with the same, or the note is damaged or of another version.
        """
        was = self._read()
        problem = _difference(was, self._origin)
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
        assert self._output is not None
        marks = [Mark(*mark) for mark in was["marks"]]
        self._marks = _true_marks(self._output.path, marks)
        return self._cut(len(self._marks) < len(marks))

    def _cut(self, damaged: bool) -> Message | None:
        assert self._output is not None
        path, good = self._output.path, self._marks[-1].size if self._marks else 0
        if not damaged or path.stat().st_size <= good:
            return None
        os.truncate(path, good)
        return Message(
            "{path} was damaged; the rows from there on are computed again", path=self._output.given
        )

    def begin(self, writer: Writer) -> None:
        """Let the writer take away what is there, and write the note, both before the first row.

        In this order: a kill between the two leaves an empty output without a note, which a
        resumed run starts from the beginning. The other way round, it would take an older
        output's rows for its own.
        """
        if self._there:
            return
        writer.clear()
        if self._path is not None and writer.lasting:
            self._write(self._path)
        self._there = True
        writer.start()

    def keep(self, writer: Writer, *, now: bool = False) -> None:
        """Write down what the output's rows add up to, once a second, and see that it is still there.

        Args:
            writer: the output.
            now: whether it shall not wait for the second to pass.

        Raises:
            OutputError: the output is not where it was, or the note cannot be written.
        """
        if not self._there or (not now and time.monotonic() - self._marked < SECONDS_BETWEEN_MARKS):
            return
        writer.require_there()
        mark = writer.mark()
        if mark is not None and mark.size and self._path is not None and writer.lasting:
            if len(self._marks) >= MOST_MARKS:
                # Every second one: they stay spread over the file, however long it gets.
                self._marks = self._marks[::2]
            self._marks.append(mark)
            self._write(self._path)
        self._marked = time.monotonic()

    def remove(self) -> None:
        """Take it away: the output is complete.

        Raises:
            OutputError: it cannot be taken away.
        """
        if self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
            self._aside.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                "the results are complete, and {path} cannot be removed: {why}; remove it",
                path=self._path,
                why=error.strerror or str(error),
            ) from error

    @property
    def _aside(self) -> Path:
        assert self._path is not None
        return self._path.with_name(self._path.name + ".new")

    def _write(self, path: Path) -> None:
        assert self._output is not None
        text = json.dumps({**self._origin, "marks": self._marks}, indent=1) + "\n"
        try:
            with create(self._aside, mode_of(self._output.path)) as file:
                file.write(text.encode())
            self._aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                self._aside.unlink(missing_ok=True)
            why = error.strerror or str(error)
            raise OutputError("cannot write {path}: {why}", path=path, why=why) from error

    def _read(self) -> dict[str, Any]:
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                was = json.loads(file.read(LARGEST_NOTE).decode())
        except OSError as error:
            raise OutputError(
                "cannot read {path}: {why}", path=self._path, why=error.strerror or str(error)
            ) from error
        except (ValueError, RecursionError):
            was = None
        problem = "is damaged"
        if isinstance(was, dict) and isinstance(was.get("format"), int) and was["format"] != FORMAT:
            problem = "is of another version of bertonnx"
        elif isinstance(was, dict) and _is_note(was):
            return was
        raise UsageError(
            "{path} {problem}, and does not say what {output} was begun with; "
            "run without {resume} to start over",
            path=self._path,
            problem=problem,
            output=self._path.with_suffix("").name,
            resume=Option("resume"),
        )


def _is_note(was: dict[str, Any]) -> bool:
    """Return whether everything in a note is of the kind that it should be."""
    marks, settings, input = was.get("marks"), was.get("options"), was.get("input")
    return (
        was.get("format") == FORMAT
        and isinstance(was.get("card"), str)
        and isinstance(was.get("model"), str)
        and isinstance(settings, dict)
        and isinstance(input, dict)
        and isinstance(marks, list)
        and all(isinstance(mark, list) and len(mark) == 2 for mark in marks)
        and all(type(part) is int and part >= 0 for mark in marks for part in mark)
    )


def _true_marks(path: Path, marks: list[Mark]) -> list[Mark]:
    """Return the marks that a file bears out, up to the first that it does not."""
    true: list[Mark] = []
    if not marks or not path.is_file():
        return true
    crc = at = 0
    with path.open("rb") as file:
        for mark in marks:
            while at < mark.size and (data := file.read(min(mark.size - at, 1 << 16))):
                crc, at = zlib.crc32(data, crc), at + len(data)
            if (at, crc) != mark:
                break
            true.append(mark)
    return true


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
    for what in ("size", "sha256"):
        if was["input"].get(what) != now["input"][what]:
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
