"""The command line on terminals, in pipes, and interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tests.commands import Command, process, read_lines, with_metadata, written
from tests.corpus import SENTENCES

# Terminals, pipes and signals ---------------------------------------------------------------------


def on_a_terminal(arguments: Sequence[object], *, stdout: Any) -> tuple[int, str]:
    """Run the command with a terminal as standard error; return exit code and what it shows."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    program = [str(Path(sys.executable).parent / "bertonnx"), *map(str, arguments)]
    running = subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=follower if stdout is None else stdout,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:
        pass  # Linux's way to say that nobody has the terminal open any more
    os.close(leader)
    return running.wait(timeout=300), shown.decode(errors="replace")


def test_a_progress_bar_on_a_terminal_only(classifier: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "".join(f"text number {i}\n" for i in range(3000)))
    code, shown = on_a_terminal(["run", classifier, file, "-o", tmp_path / "o.jsonl"], stdout=None)
    assert code == 0
    assert re.search(r"\d+ rows .*━", shown), shown
    assert re.search(r"3000 rows in [\d.]+ s \(\d+ a second\) on cpu", shown)
    # Where the results themselves go to the terminal, a bar would only tear them apart.
    code, shown = on_a_terminal(["run", classifier, file], stdout=None)
    assert code == 0
    assert "━" not in shown
    assert shown.count('{"row": ') == 3000
    out, err = process("run", classifier, file).communicate(timeout=300)
    assert (out, err) == ((tmp_path / "o.jsonl").read_bytes(), b"")


def test_a_reader_that_goes_away_is_no_error(classifier: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "".join(f"text number {i}\n" for i in range(20_000)))
    running = process("run", classifier, file)
    assert running.stdout is not None
    assert running.stderr is not None
    assert json.loads(running.stdout.readline())["row"] == 0
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait(timeout=300) == 141
    running.stderr.close()


def test_standard_streams_that_are_closed(classifier: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "text\n")
    program = f"'{Path(sys.executable).parent / 'bertonnx'}' run '{classifier}'"

    def shell(line: str) -> tuple[int, bytes, bytes]:
        done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    code, _, err = shell(f"{program} - <&-")
    assert (code, err) == (1, b"error: the input is standard input, and it is closed; name a file\n")
    code, _, err = shell(f"{program} '{file}' >&-")
    assert (code, err[:36]) == (1, b"error: the output is standard output")
    code, out, _ = shell(f"{program} '{file}' 2>&-")
    assert (code, json.loads(out)["row"]) == (0, 0)
    code, _, err = shell(f"{program} '{file}' >/dev/full")
    assert (code, err) == (1, b"error: cannot write standard output: No space left on device\n")
    code, _, err = shell(f"{program.replace(' run ', ' info ')} >/dev/full")
    assert (code, err) == (1, b"error: cannot read or write standard output: No space left on device\n")


def test_names_that_the_terminal_cannot_show(classifier: Path, tmp_path: Path) -> None:
    def renamed(metadata: dict[str, str]) -> None:
        card = json.loads(metadata["bertonnx.card"])
        metadata["bertonnx.card"] = json.dumps({**card, "labels": ["負", "中", "正"]})

    model = with_metadata(classifier, tmp_path / "model.onnx", renamed)
    done = subprocess.run(
        [sys.executable, "-m", "bertonnx", "info", model],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u8ca0, \\u4e2d, \\u6b63" in done.stdout


TELLING = """
import os, sys
from bertonnx.__main__ import main
from bertonnx.runtime.io.outputs import Writer

tell, write = int(sys.argv.pop(1)), Writer.write

def told(self, index, result):
    write(self, index, result)
    os.write(tell, b".")

Writer.write = told
main()
"""
"""The command, writing a byte to a pipe for every row that it has written."""


@contextmanager
def telling(*arguments: object) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """Yield the running command, and what there is a byte in for every row that it has written."""
    reads, tells = os.pipe()
    with (
        open(reads, "rb", buffering=0) as rows,  # noqa: PTH123  (a pipe has no path)
        subprocess.Popen(
            [sys.executable, "-c", TELLING, str(tells), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[tells],
        ) as running,
    ):
        os.close(tells)
        yield running, rows


def test_ctrl_c_keeps_what_was_finished_and_resume_completes_it(classifier: Path, tmp_path: Path) -> None:
    data = "".join(f"{text}\n" for text in SENTENCES * 10)
    file = written(tmp_path / "a.txt", data)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert process("run", classifier, file, "-o", whole).communicate(timeout=300) == (b"", b"")

    with telling("run", classifier, "-", "-o", output) as (running, rows):
        assert running.stdin is not None
        assert running.stderr is not None
        running.stdin.write("".join(data.splitlines(keepends=True)[:400]).encode())
        running.stdin.flush()
        for _ in range(20):
            assert rows.read(1) == b"."
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert running.wait(timeout=300) == 130
    assert said == b"interrupted; finished rows are kept; repeat the command with --resume to continue\n"
    finished = output.read_bytes()
    assert finished
    assert whole.read_bytes().startswith(finished)
    assert len(finished) < len(whole.read_bytes())
    again = process("run", classifier, "-", "-o", output, "--resume", stdin=subprocess.PIPE)
    out, err = again.communicate(data.encode(), timeout=300)
    assert (again.returncode, out, err) == (0, b"", b"")
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.jsonl", "whole.jsonl"]


def test_resume_needs_the_same_options(classifier: Path, tmp_path: Path, command: Command) -> None:
    file = written(tmp_path / "a.txt", b"good\n\xff\ngood\n")
    output = tmp_path / "out.jsonl"
    assert command("run", classifier, file, "-o", output, "--on-error", "fail").code == 1
    for options in (["--top-k", 2], ["--max-length", 20], ["--long-text", "stride"]):
        outcome = command("run", classifier, file, "-o", output, "--resume", *options)
        assert outcome.code == 2
        assert "was begun with" in outcome.error
    assert command("run", classifier, file, "-o", output, "--resume").code == 3
    assert [line["row"] for line in read_lines(output)] == [0, 1, 2]
