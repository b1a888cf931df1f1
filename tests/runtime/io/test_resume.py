"""Jobs interrupted and resumed, on every kind of output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime.io import resume
from bertonnx.runtime.io.resume import Unfinished, progress_path, unfinished
from bertonnx.runtime.io.writers import check_output
from bertonnx.runtime.options import DecodeOptions
from tests.fake_predictor import FakePredictor
from tests.jobs import ENDINGS, Stop, names, run, run_until, texts, whole_output, write_input
from tests.results import writer_of


def _stopped(*_: object) -> None:
    raise Stop


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.jsonl", "in.parquet"])
def test_going_on_after_an_error(tmp_path: Path, ending: str, name: str) -> None:
    import pyarrow as pa

    input = tmp_path / name
    if name == "in.parquet":
        pq.write_table(pa.table({"text": texts(50)}), input, row_group_size=8)
    elif name == "in.jsonl":
        input.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(50)))
    else:
        lines = ['"' + text.replace('"', '""') + '"' if name == "in.csv" else text for text in texts(50)]
        input.write_text("".join(f"{line}\n" for line in (["text"] if name == "in.csv" else []) + lines))
    whole = whole_output(tmp_path, input, ending)
    output = tmp_path / f"out{ending}"
    run_until(21, input, output)
    assert progress_path(output).exists()
    predictor = FakePredictor()
    report = run(input, output, predictor, resume=True)
    assert (report.rows, report.errors, report.truncated, report.resumed_rows) == (50, 3, 1, 21)
    assert predictor.texts == texts(50)[21:]
    assert output.read_bytes() == whole
    assert names(tmp_path) == sorted([name, output.name, f"whole{ending}"])


def test_nothing_to_go_on_with_starts_from_the_beginning(tmp_path: Path) -> None:
    input = write_input(tmp_path)
    for ending in ENDINGS:
        output = tmp_path / f"out{ending}"
        assert run(input, output, resume=True).resumed_rows == 0
    (tmp_path / "empty.jsonl").touch()
    assert run(input, tmp_path / "empty.jsonl", resume=True).resumed_rows == 0
    # A spool alone does not say what it was begun with.
    (tmp_path / "out.npy").rename(tmp_path / "new.npy.partial")
    assert run(input, tmp_path / "new.npy", resume=True).resumed_rows == 0


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_complete_is_left_alone(tmp_path: Path, ending: str) -> None:
    input = write_input(tmp_path)
    output = tmp_path / f"out{ending}"
    run(input, output)
    before = output.stat()
    predictor = FakePredictor()
    report = run(input, output, predictor, resume=True)
    assert (report.rows, report.errors, report.resumed_rows) == (50, 3, 50)
    assert report.truncated == (0 if ending == ".npy" else 1)
    assert predictor.texts == []
    after = output.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_finished_output_of_another_input(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(write_input(tmp_path), output)
    longer = write_input(tmp_path, 60, "longer.txt")
    with pytest.raises(UsageError, match=r"holds 50 rows, the input has 60, and no .*out\.jsonl\.progress"):
        run(longer, output, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"max_length": 64}}, r"begun with max_length=128, and now it is 64;"),
        ({"settings": {}}, r"begun with max_length=128, and now it is not given"),
        ({"decode": DecodeOptions(top_k=2)}, r"begun with top_k not given, and now it is 2"),
        ({"column": "id"}, r"begun with column='text', and now it is id"),
        ({}, None),
        ({"predictor": FakePredictor(max_length=99)}, r"begun with another model"),
    ],
)
def test_another_model_or_option_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, Any], message: str | None
) -> None:
    if message is None:
        predictor = FakePredictor()
        predictor.identity = "cd" * 32
        changes, message = {"predictor": predictor}, "begun with another model"
    input = tmp_path / "in.csv"
    input.write_text("id,text\n" + "".join(f"{i},text {i}\n" for i in range(30)))
    output = tmp_path / "out.csv"
    same: dict[str, Any] = {"column": "text", "settings": {"max_length": 128}}
    run_until(10, input, output, **same)
    left = output.read_bytes()
    with pytest.raises(UsageError, match=message + r".*resume needs the same again, or run without resume"):
        run(input, output, resume=True, **{**same, **changes})
    assert output.read_bytes() == left
    assert run(input, output, resume=True, **same).resumed_rows == 10


def test_another_input_is_not_gone_on_with(tmp_path: Path) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    run_until(10, input, output)
    with pytest.raises(UsageError, match=r"another input, or the input in\.txt has changed since"):
        run(write_input(tmp_path, 60, "other.txt"), output, resume=True)
    # Of equal size and time: what it holds decides.
    before = input.stat()
    input.write_bytes(input.read_bytes().replace(b"text 1\n", b"text 0\n"))
    os.utime(input, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert input.stat().st_size == before.st_size
    with pytest.raises(UsageError, match=r"the input in\.txt has changed since"):
        run(input, output, resume=True)
    assert run(input, output).resumed_rows == 0, "without resume it starts over"


def test_an_input_that_was_only_touched_or_copied_is_the_same(tmp_path: Path) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    run_until(10, input, output)
    os.utime(input, ns=(0, 0))
    assert run(input, output, resume=True).resumed_rows == 10


def test_a_note_that_cannot_be_read(tmp_path: Path) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    run_until(10, input, output)
    note = progress_path(output)
    sound = note.read_text()
    for text in (
        "",
        "{",
        "[]",
        '"text"',
        "[" * 100_000,
        "\x00" * 100,
        sound[: len(sound) // 2],
        sound.replace('"options": {', '"options": 5, "o": {'),
        sound.replace('"input": {', '"input": null, "i": {'),
        sound.replace('"marks": [', '"marks": [[-1, 2], 7, "x", '),
        sound.replace('"format": 3', '"format": "3"'),
    ):
        note.write_text(text)
        with pytest.raises(UsageError, match=r"progress is damaged, .*; run without resume to start over"):
            run(input, output, resume=True)
    note.write_bytes(b"\xff\xfe" + sound.encode())
    with pytest.raises(UsageError, match="is damaged"):
        run(input, output, resume=True)
    for other in (1, 2, 99):
        note.write_text(json.dumps({**json.loads(sound), "format": other}))
        with pytest.raises(
            UsageError, match=r"is of another version of bertonnx, and does not say what out\.js"
        ):
            run(input, output, resume=True)
    note.write_text(sound)
    assert run(input, output, resume=True).resumed_rows == 10


def test_standard_output_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resume goes on with a file; name it with output='FILE'"):
        run(write_input(tmp_path), None, resume=True)


def test_standard_input_that_has_become_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"

    class Stdin:
        def __init__(self, rows: int) -> None:
            self.buffer = write_input(tmp_path, rows, "stdin").open("rb")

    def feed(rows: int) -> Stdin:
        stdin = Stdin(rows)
        monkeypatch.setattr(sys, "stdin", stdin)
        return stdin

    first = feed(50)
    run_until(20, Path("-"), output)
    second = feed(10)
    with pytest.raises(UsageError, match="holds 20 rows already, and the input has 10: it is another input"):
        run(Path("-"), output, resume=True)
    third = feed(50)
    assert run(Path("-"), output, resume=True).resumed_rows == 20
    for stdin in (first, second, third):
        stdin.buffer.close()


@pytest.mark.parametrize("ending", [".parquet", ".npy"])
def test_a_disk_that_fills_up_while_the_output_is_completed(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"

    def full(self: object, parts: object, target: object) -> None:  # noqa: ARG001
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(writer_of(output, FakePredictor().card)), "_assemble", full)
        with pytest.raises(OutputError, match="No space left on device"):
            run(input, output)
    assert names(tmp_path) == ["in.txt", f"out{ending}.partial", f"out{ending}.progress"]
    assert run(input, output, resume=True).resumed_rows == 50


def test_a_kill_between_emptying_the_output_and_the_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older, longer output must not be taken for the rows of the run that replaces it."""
    output = tmp_path / "out.jsonl"
    input = write_input(tmp_path, 30)
    run(input, output)

    def die(self: object, path: Path) -> None:  # noqa: ARG001
        raise Stop

    monkeypatch.setattr(resume.Note, "_write", die)
    other = write_input(tmp_path, 60, "other.txt")
    with pytest.raises(Stop):
        run(other, output)
    monkeypatch.undo()
    assert run(other, output, resume=True).resumed_rows == 0
    assert output.read_bytes().count(b"\n") == 60


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".npy"])
def test_a_kill_while_the_output_is_completed(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending)
    output.write_bytes(b"older")
    writer = type(writer_of(output, FakePredictor().card))
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_assemble", _stopped)
        with pytest.raises(Stop):
            run(input, output)
    assert output.read_bytes() == b"older"
    assert not (tmp_path / f"out{ending}.finishing").exists()
    with monkeypatch.context() as patch:  # complete, but its note and its spool still there
        patch.setattr(resume.Note, "remove", _stopped)
        with pytest.raises(Stop):
            run(input, output, resume=True)
    assert output.read_bytes() == whole
    predictor = FakePredictor()
    assert run(input, output, predictor, resume=True).resumed_rows == 50
    assert predictor.texts == []
    assert output.read_bytes() == whole
    assert names(tmp_path) == sorted(["in.txt", output.name, f"whole{ending}"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_report_says_whether_the_output_was_complete_before(tmp_path: Path, ending: str) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    run_until(10, input, output)
    assert not run(input, output, resume=True).complete_before
    assert run(input, output, resume=True).complete_before
    assert not run(input, output).complete_before


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_unfinished_is_counted(tmp_path: Path, ending: str) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    card = FakePredictor().card
    assert unfinished(check_output(output), card=card) is None
    run_until(10, input, output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert unfinished(check_output(output), card=card) == Unfinished(10, noted=True)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run(input, output)
    assert unfinished(check_output(output), card=card) is None


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".arrow"])
def test_what_is_unfinished_may_be_of_other_columns(tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"out{ending}"
    run_until(10, write_input(tmp_path), output)
    other = FakePredictor("token-classification").card
    assert unfinished(check_output(output), card=other) == Unfinished(None, noted=True)


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".npy"])
def test_rows_that_nothing_tells_the_origin_of_are_counted_too(tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"out{ending}"
    run_until(10, write_input(tmp_path), output)
    progress_path(output).unlink()
    assert unfinished(check_output(output), card=FakePredictor().card) == Unfinished(10, noted=False)


def test_the_option_is_named_before_a_model_that_differs_by_it(tmp_path: Path) -> None:
    """The identity of a model depends on its limits, too."""
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    run_until(10, input, output, settings={"max_length": 128, "long_text": "truncate"})
    predictor = FakePredictor()
    predictor.identity = "cd" * 32
    settings = {"max_length": 128, "long_text": "stride"}
    with pytest.raises(UsageError, match="begun with long_text='truncate', and now it is stride"):
        run(input, output, predictor, resume=True, settings=settings)
