"""Files beside an output: links that somebody planted, modes, locks, and outputs that are taken away."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bertonnx.errors import InputError, OutputError, UsageError
from bertonnx.runtime.io import resume
from bertonnx.runtime.io.files import Lock, replacing
from bertonnx.runtime.io.job import JobProgress
from bertonnx.runtime.io.writers import check_output
from tests.fake_predictor import FakePredictor
from tests.jobs import ENDINGS, ROOT, names, run, run_until, texts, whole_output, write_input

SPOOLED = [".parquet", ".arrow", ".npy"]
BESIDE = [
    *((ending, name) for ending in SPOOLED for name in ("partial", "finishing")),
    *((ending, name) for ending in (".jsonl", ".npy") for name in ("progress", "progress.new", "lock")),
]


@pytest.mark.parametrize(("ending", "name"), BESIDE)
def test_a_planted_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path, ending: str, name: str) -> None:
    input, output, victim = write_input(tmp_path), tmp_path / f"out{ending}", tmp_path / "victim"
    victim.write_bytes(b"precious")
    planted = tmp_path / f"out{ending}.{name}"
    planted.symlink_to(victim)
    # What is written at the end has replaced a link at the beginning by a file of this run's own.
    if name == "progress" and run(input, output).rows == 50:
        assert not planted.exists()
    else:
        with pytest.raises(OutputError, match=rf"{planted.name} is a link, .* remove it: rm '"):
            run(input, output)
    assert victim.read_bytes() == b"precious"
    planted.unlink(missing_ok=True)
    planted.symlink_to(victim)
    with pytest.raises(OutputError, match="is a link"):
        run(input, output, resume=True)
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("ending", SPOOLED)
def test_a_second_name_of_a_spool_is_not_written_through(tmp_path: Path, ending: str) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    run_until(20, input, output)
    other = tmp_path / "other"
    os.link(tmp_path / f"out{ending}.partial", other)
    before = other.read_bytes()
    with pytest.raises(OutputError, match=r"partial is a link"):
        run(input, output, resume=True)
    # Without going on it is taken away, and made anew.
    run(input, output)
    assert other.read_bytes() == before


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_mode(tmp_path: Path, ending: str, mode: int) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    output.touch()
    output.chmod(mode)
    modes: set[int] = set()

    def look(now: JobProgress) -> None:
        if now.rows == 40:
            modes.update(stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("out*") if p.suffix != ".lock")

    run(input, output, progress=look)
    assert modes == {mode}, "before the end nobody else can read it either"
    assert stat.S_IMODE(output.stat().st_mode) == mode


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path, ending: str) -> None:
    old = os.umask(0o027)
    try:
        run(write_input(tmp_path), tmp_path / f"out{ending}")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / f"out{ending}").stat().st_mode) == 0o640


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("deed", ["removed", "replaced", "folder removed", "folder replaced"])
def test_an_output_that_is_taken_away_meanwhile_is_an_error(tmp_path: Path, ending: str, deed: str) -> None:
    input, folder = write_input(tmp_path), tmp_path / "folder"
    folder.mkdir()
    output = folder / f"out{ending}"
    written = output if ending in (".jsonl", ".csv", ".tsv") else folder / f"out{ending}.partial"

    def take_away(now: JobProgress) -> None:
        if now.rows == 40:
            if deed.startswith("folder"):
                folder.rename(tmp_path / "elsewhere")
                if deed == "folder replaced":
                    folder.mkdir()
            else:
                written.unlink()
                if deed == "replaced":
                    written.write_bytes(b"of somebody else\n")

    with pytest.raises(OutputError, match=r"was removed, renamed or replaced|No such file"):
        run(input, output, progress=take_away)


def test_an_output_that_is_taken_away_is_noticed_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    monkeypatch.setattr(resume, "SECONDS_BETWEEN_MARKS", 0.0)
    predictor = FakePredictor(window=1)

    def take_away(now: JobProgress) -> None:
        if now.rows == 10:
            output.unlink()

    with pytest.raises(OutputError, match="was removed"):
        run(input, output, predictor, progress=take_away)
    assert len(predictor.texts) == 11


@pytest.mark.parametrize("deed", ["append", "empty", "change"])
def test_somebody_else_writes_into_the_output(tmp_path: Path, deed: str) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"

    def append(now: JobProgress) -> None:
        if now.rows == 50 and deed == "append":
            with output.open("a") as file:
                file.write("x")
        elif now.rows == 40 and deed == "empty":
            # What is written after that leaves a hole in front of it.
            os.truncate(output, 0)
        elif now.rows == 40 and deed == "change":
            with output.open("r+b") as changed:
                changed.write(b"#")

    with pytest.raises(OutputError, match="was removed, renamed or replaced"):
        run(input, output, progress=append)


LOCKED = """
import sys
from pathlib import Path
from bertonnx.runtime.io.files import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ending", [".jsonl", ".npy"])
def test_one_run_at_a_time(tmp_path: Path, ending: str) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending)
    run_until(20, input, output)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command = [sys.executable, "-c", LOCKED, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for resuming in (False, True):
            with pytest.raises(
                OutputError, match=rf"another run writes .*out{ending} \(process {holder.pid}\)"
            ):
                run(input, output, resume=resuming)
        holder.kill()
    # A dead run holds nothing, whatever it left.
    assert f"out{ending}.lock" in names(tmp_path)
    assert left == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".lock"}
    assert run(input, output, resume=True).resumed_rows == 20
    assert output.read_bytes() == whole
    assert names(tmp_path) == ["in.txt", f"out{ending}", f"whole{ending}"]


def test_one_run_at_a_time_in_one_process_and_through_a_link(tmp_path: Path) -> None:
    output, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(output)
    first = check_output(output)
    with first.lock, first.lock, pytest.raises(OutputError, match="another run writes"):
        run(write_input(tmp_path), link)
    assert names(tmp_path) == ["in.txt", "link.jsonl"]
    assert run(write_input(tmp_path), link).rows == 50


def test_where_nothing_can_be_locked_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    report = run(write_input(tmp_path), tmp_path / "out.jsonl")
    assert report.rows == 50
    (note,) = report.notes
    assert "nothing keeps a second run from writing" in str(note)
    assert "(No locks available)" in str(note)
    assert names(tmp_path) == ["in.txt", "out.jsonl"]


def test_a_lock_whose_file_was_taken_away_by_its_holder_is_taken_anew(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    path = tmp_path / "out.jsonl.lock"
    lock = Lock(output)
    real = fcntl.flock
    taken: list[int] = []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if not taken:
            path.unlink()
        taken.append(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with lock:
            assert len(taken) == 2
            assert path.read_text() == str(os.getpid())
    assert not path.exists()


@pytest.mark.parametrize("make", ["same", "hard link", "symbolic link", "through a link"])
def test_the_output_must_not_be_the_input(tmp_path: Path, make: str) -> None:
    input = tmp_path / "in.jsonl"
    input.write_text('{"text": "a"}\n')
    output = tmp_path / "out.jsonl"
    if make == "hard link":
        os.link(input, output)
    elif make == "symbolic link":
        output.symlink_to(input)
    elif make == "through a link":
        (tmp_path / "folder").symlink_to(tmp_path)
        output = tmp_path / "folder" / "in.jsonl"
    else:
        output = input
    with pytest.raises(UsageError, match="is the input; name another file"):
        check_output(output, input=input)
    assert input.read_text() == '{"text": "a"}\n'


def test_standard_input_can_be_the_output_too(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("a\n")
    program = (
        "import sys\nfrom bertonnx.errors import UsageError\n"
        "from bertonnx.runtime.io.writers import check_output\n"
        "try: check_output(sys.argv[1], input='-')\n"
        "except UsageError as error: print(error)\n"
    )
    with path.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", program, path],
            stdin=stdin,
            capture_output=True,
            check=True,
            cwd=ROOT,
            text=True,
        )
    assert "is the input; name another file" in done.stdout


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "other.jsonl")
    (tmp_path / "other.jsonl").symlink_to(tmp_path / "out.jsonl")
    with pytest.raises(OutputError, match=r"cannot write .*out\.jsonl: "):
        run(write_input(tmp_path), tmp_path / "out.jsonl")


def test_a_device_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"/dev/null is no file, .* without output, results go to standard"):
        check_output("/dev/null")
    (tmp_path / "out.jsonl").symlink_to("/dev/null")
    assert run(write_input(tmp_path), tmp_path / "out.jsonl").rows == 50


def test_a_pipe_is_written_to_and_leaves_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        run(write_input(tmp_path), pipe)
        out, _ = reader.communicate(timeout=300)
    assert out.count(b"\n") == 50
    assert names(tmp_path) == ["in.txt", "out.jsonl"]


def _change_at(row: int, input: Path, deed: str) -> Callable[[JobProgress], None]:
    def change(now: JobProgress) -> None:
        if now.rows != row:
            return
        if deed == "rewritten":
            input.write_text("".join(f"{text}\n" for text in reversed(texts(50))))
        elif deed == "shrunk":
            os.truncate(input, input.stat().st_size - 5)
        elif deed == "grown":
            with input.open("a") as file:
                file.write("one more\n")
        elif deed == "touched":
            os.utime(input)
        elif deed == "removed":
            input.unlink()
        else:
            input.rename(input.with_name("older"))
            write_input(input.parent, 20)

    return change


@pytest.mark.parametrize("deed", ["rewritten", "shrunk"])
@pytest.mark.parametrize("ending", [".jsonl", ".npy"])
def test_an_input_that_changes_while_it_is_read(tmp_path: Path, ending: str, deed: str) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    with pytest.raises(InputError, match=r"in\.txt changed while it was read, .* run again when nothing"):
        run(input, output, progress=_change_at(20, input, deed))
    assert resume.progress_path(output).exists(), "it does not look complete"
    with pytest.raises(UsageError, match=r"in\.txt has changed since"):
        run(input, output, resume=True)


@pytest.mark.parametrize("deed", ["grown", "touched", "removed", "replaced"])
def test_an_input_whose_beginning_stays(tmp_path: Path, deed: str) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    whole = whole_output(tmp_path, input, ".jsonl")
    report = run(input, output, FakePredictor(window=1), progress=_change_at(20, input, deed))
    assert output.read_bytes() == whole
    said = "".join(map(str, report.notes))
    expected = {
        "grown": "grew while it was read: the 9 bytes that were added",
        "replaced": "was replaced while",
    }
    assert expected.get(deed, "") in said
    assert bool(said) == (deed in expected)


@pytest.mark.parametrize("ending", ENDINGS)
def test_damage_in_what_is_unfinished_is_found_and_computed_again(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.runtime.io import arrow_out

    monkeypatch.setattr(resume, "SECONDS_BETWEEN_MARKS", 0.0)
    monkeypatch.setattr(arrow_out, "ROWS_SPOOLED", 5)
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending)
    run_until(40, input, output)
    spool = tmp_path / f"out{ending}.partial"
    written = spool if spool.exists() else output
    data = bytearray(written.read_bytes())
    # A digit of a number, or a bit of a float: still well formed.
    place = next(i for i in range(len(data) // 2, len(data)) if chr(data[i]).isdigit())
    data[place] = ord("7") if data[place] != ord("7") else ord("3")
    written.write_bytes(data)
    report = run(input, output, resume=True)
    assert 5 <= report.resumed_rows < 40
    assert any("was damaged; the rows from there on are computed again" in str(note) for note in report.notes)
    assert output.read_bytes() == whole


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("part", [1.0, 0.4])
def test_a_header_without_a_note_is_where_a_run_begins(tmp_path: Path, ending: str, part: float) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending)
    header = whole.splitlines(True)[0]
    output.write_bytes(header[: int(len(header) * part)])
    assert run(input, output, resume=True).resumed_rows == 0
    assert output.read_bytes() == whole


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_what_is_no_header_is_not_replaced_by_going_on(tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"out{ending}"
    output.write_text("notes of mine")
    with pytest.raises(UsageError, match="was not written by this command"):
        run(write_input(tmp_path), output, resume=True)
    assert output.read_text() == "notes of mine"


@pytest.mark.parametrize(("ending", "name"), BESIDE)
def test_a_folder_of_the_name_of_a_file_beside_the_output(tmp_path: Path, ending: str, name: str) -> None:
    in_the_way = tmp_path / f"out{ending}.{name}"
    in_the_way.mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        run(write_input(tmp_path), tmp_path / f"out{ending}")
    assert in_the_way.is_dir()


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_cannot_be_removed_at_the_end_is_an_error_and_the_results_are_there(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    input, output = write_input(tmp_path), tmp_path / f"out{ending}"
    whole = whole_output(tmp_path, input, ending)
    unlink = Path.unlink

    def busy(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".progress"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", busy)
    with pytest.raises(OutputError, match=r"the results are complete, and .* cannot be removed: Device"):
        run(input, output)
    assert output.read_bytes() == whole


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, problem: BaseException) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    path.chmod(0o640)

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise problem

    with pytest.raises(type(problem)):
        fail()
    assert (names(tmp_path), path.read_text()) == (["r.json"], "old")
    with replacing(path) as file:
        file.write(b"new")
    assert (names(tmp_path), path.read_text()) == (["r.json"], "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_nothing_is_written_through_a_link_beside_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    aside = tmp_path / f"r.json.{os.getpid()}.new"
    aside.symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="is a link"), replacing(tmp_path / "r.json") as file:
        file.write(b"x")
    assert (tmp_path / "mine").read_text() == "precious"
    assert aside.is_symlink()
