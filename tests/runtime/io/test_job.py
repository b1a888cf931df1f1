"""Jobs that are not disturbed, and what can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bertonnx.errors import BertonnxError, InputError, OutputError, RowError, UsageError
from bertonnx.runtime.io.job import JobProgress
from bertonnx.runtime.io.resume import progress_path
from bertonnx.runtime.rows import Item, Row
from bertonnx.wording import COMMAND_LINE, PYTHON, Face, Option, R
from tests.fake_predictor import FakePredictor
from tests.jobs import ENDINGS, ROOT, names, run, whole_output, write_input


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_job(tmp_path: Path, ending: str) -> None:
    input = write_input(tmp_path)
    output = tmp_path / f"out{ending}"
    steps: list[JobProgress] = []
    report = run(input, output, progress=steps.append)
    assert (report.rows, report.errors, report.truncated, report.resumed_rows) == (50, 3, 1, 0)
    assert report.seconds > 0
    assert [step.rows for step in steps] == list(range(1, 51))
    assert (steps[-1].errors, steps[-1].truncated) == (3, 1)
    assert steps[-1].bytes_done == steps[-1].bytes_total == input.stat().st_size
    assert names(tmp_path) == ["in.txt", output.name]


def test_the_lines_are_in_the_order_of_the_input(tmp_path: Path) -> None:
    run(write_input(tmp_path), tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(50))
    assert [line["row"] for line in lines if "error" in line] == [3, 20, 43]
    assert [line["row"] for line in lines if line.get("truncated")] == [11]


def test_standard_output(tmp_path: Path) -> None:
    input = write_input(tmp_path)
    run(input, tmp_path / "out.jsonl")
    program = (
        "from bertonnx.runtime.io.job import Job\nfrom tests.fake_predictor import FakePredictor\n"
        "Job(FakePredictor(), '-', None).run()"
    )
    with input.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=file, capture_output=True, check=True, cwd=ROOT
        )
    assert done.stdout == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_input_gives_an_empty_output(tmp_path: Path, ending: str) -> None:
    (tmp_path / "in.txt").touch()
    report = run(tmp_path / "in.txt", tmp_path / f"out{ending}")
    assert (report.rows, report.errors) == (0, 0)
    assert names(tmp_path) == ["in.txt", f"out{ending}"]


def test_question_answering_and_pair_models_need_pairs(tmp_path: Path) -> None:
    input = write_input(tmp_path)
    for predictor in (FakePredictor("question-answering"), FakePredictor(pairs=True)):
        with pytest.raises(InputError, match="pairs of texts are needed"):
            run(input, tmp_path / "out.jsonl", predictor)
    table = tmp_path / "in.csv"
    table.write_text("context,question\nThe context,What?\n")
    run(table, tmp_path / "out.jsonl", FakePredictor("question-answering"))
    assert json.loads((tmp_path / "out.jsonl").read_text())["answer"] == "The conte"


def test_the_look_ahead_is_the_predictors(tmp_path: Path) -> None:
    """What a job itself holds is one row."""
    input = write_input(tmp_path, 1000)
    predictor = FakePredictor(window=10)
    output = tmp_path / "out.jsonl"

    def look(now: JobProgress) -> None:
        assert len(predictor.texts) <= now.rows + 1
        assert output.read_bytes().count(b"\n") == now.rows

    run(input, output, predictor, progress=look)


def test_nothing_is_touched_when_the_input_is_bad(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    for name in ("in.csv", "no.csv", "in.docx", "."):
        for ending in ENDINGS:
            output = tmp_path / f"out{ending}"
            output.write_text("older")
            with pytest.raises(InputError):
                run(tmp_path / name, output)
            assert output.read_text() == "older"
            output.unlink()
            assert names(tmp_path) == ["in.csv"]


def test_nothing_is_touched_when_the_first_row_ends_the_job(tmp_path: Path) -> None:
    bad = write_input(tmp_path, 1, "bad.jsonl")
    for ending in ENDINGS:
        output = tmp_path / f"out{ending}"
        output.write_text("older")
        with pytest.raises(RowError, match="row 0: "):
            run(bad, output, on_error="fail")
        assert output.read_text() == "older"
        assert not progress_path(output).exists()


def test_the_output_is_checked_first(tmp_path: Path) -> None:
    input = write_input(tmp_path)
    predictor = FakePredictor()
    checks: list[tuple[Path, type[BertonnxError]]] = [
        (tmp_path / "out.docx", UsageError),
        (tmp_path / "no" / "out.csv", OutputError),
        (tmp_path, OutputError),
        (Path("/proc/out.csv"), OutputError),
    ]
    for output, kind in checks:
        with pytest.raises(kind):
            run(input, output, predictor)
    table = tmp_path / "in.csv"
    table.write_text("text\na\n")
    with pytest.raises(UsageError, match="is the input"):
        run(table, table)
    assert table.read_text() == "text\na\n"
    assert predictor.texts == []


def test_the_first_error_ends_a_job_that_shall_fail(tmp_path: Path) -> None:
    input = write_input(tmp_path)
    output = tmp_path / "out.jsonl"
    with pytest.raises(RowError, match=r"^row 3: cannot do") as caught:
        run(input, output, on_error="fail")
    assert caught.value.kind == "runtime"
    assert output.read_bytes().count(b"\n") == 3
    report = run(input, output, resume=True)
    assert (report.rows, report.errors, report.truncated, report.resumed_rows) == (50, 3, 1, 3)


class Worded(FakePredictor):
    def _result(self, row: Row) -> Item | RowError:  # noqa: ARG002
        return RowError("too-long", "use {option}", option=Option("top_k", 2))


@pytest.mark.parametrize(
    ("face", "said"), [(None, "use top_k=2"), (COMMAND_LINE, "use --top-k 2"), (R, "use top_n = 2")]
)
def test_a_row_s_error_is_worded_for_the_face(tmp_path: Path, face: Face | None, said: str) -> None:
    input, output = write_input(tmp_path, 1), tmp_path / "out.jsonl"
    run(input, output, Worded(), **({} if face is None else {"face": face}))
    error = {"type": "too-long", "message": said}
    assert json.loads(output.read_text()) == {"row": 0, "error": error}
    with pytest.raises(RowError) as caught:
        run(input, output, Worded(), on_error="fail")
    assert caught.value.worded(face or PYTHON) == f"row 0: {said}"


def test_a_full_device_says_what_is_kept(tmp_path: Path) -> None:
    input = write_input(tmp_path)
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        run(input, tmp_path / "out.jsonl")
    assert names(tmp_path) == ["in.txt", "out.jsonl"]


def test_a_disk_that_fills_up_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertonnx.runtime.io.text import _LineWriter

    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    put = _LineWriter._put

    def full(self: _LineWriter, text: str) -> None:
        if '"row": 25' in text:
            put(self, text[:20])
            raise OSError(28, "No space left on device")
        put(self, text)

    monkeypatch.setattr(_LineWriter, "_put", full)
    with pytest.raises(
        OutputError, match=r"No space left on device; .* kept: mend that and go on with resume=True"
    ):
        run(input, output)
    monkeypatch.undo()
    assert run(input, output, resume=True).resumed_rows == 25
    assert output.read_bytes() == whole_output(tmp_path, input, ".jsonl")
