"""`tools/sections.py`: sections side by side, shown in order, and nothing that goes on after them."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "sections.py"

WAITING = """
import runpy, sys
tool = runpy.run_path(sys.argv[1])
tool["main"].__globals__["sections"] = lambda *_: [tool["Section"]("waits", sys.argv[2])]
sys.exit(tool["main"]())
"""


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


def ran(tool: dict[str, Any], *todo: tuple[Any, ...]) -> tuple[int, list[str]]:
    """Run sections; return the exit code and the lines that were shown, without times."""
    said: list[bytes] = []
    code: int = tool["run"]([tool["Section"](*section) for section in todo], said.append, cores=2)
    shown = re.sub(r",? +\d+:\d\d$", "", b"".join(said).decode(), flags=re.MULTILINE)
    return code, [re.sub(" +", " ", line) for line in shown.splitlines() if line]


def test_they_run_side_by_side_and_are_shown_whole_in_order(tool: dict[str, Any], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # The first ends only where the second runs beside it.
    first = ("first", f"echo one\nread line <'{pipe}'\necho $line >&2")
    second = ("second", f"echo two\necho three >'{pipe}'\necho four")
    assert ran(tool, first, second) == (
        0,
        [
            *("=== first ===", "one", "three", "--- first: passed"),
            *("=== second ===", "two", "four", "--- second: passed"),
            *("first passed", "second passed", "all"),
        ],
    )


def test_what_fails_is_named_and_what_needs_it_is_left_out(tool: dict[str, Any]) -> None:
    code, lines = ran(
        tool,
        ("fails", "echo before\nfalse\necho after"),
        ("needs it", "echo never", ["fails"]),
        ("needs that", "echo never", ["goes on", "needs it"]),
        ("goes on", "echo yes"),
    )
    assert code == 1
    assert lines[:3] == ["=== fails ===", "before", "--- fails: FAILED (1)"]
    assert lines[-7:-3] == ["fails FAILED (1)", "needs it LEFT OUT", "needs that LEFT OUT", "goes on passed"]
    assert lines[-2:] == ["=== how fails ended ===", "before"]
    assert "yes" in lines
    assert not {"never", "after"} & {*lines}


def test_the_last_lines_of_what_fails_come_last(tool: dict[str, Any]) -> None:
    _, lines = ran(tool, ("long", "seq 200\nprintf end\nfalse"), ("other", "echo yes"))
    assert lines[-81] == "=== how long ended ==="
    assert lines[-80:] == [*map(str, range(122, 201)), "end"]


def test_a_section_makes_models_for_others(tool: dict[str, Any]) -> None:
    makes = ("models", 'mkdir "$BERTONNX_TINY"')
    assert ran(tool, makes, ("uses them", 'cd "$BERTONNX_TINY"', ["models"]))[0] == 0


def test_no_more_run_than_there_is_room_for(tool: dict[str, Any], tmp_path: Path) -> None:
    # Each would see the other's folder if they ran beside each other.
    alone = f"mkdir '{tmp_path / 'taken'}'\nsleep 0.3\nrmdir '{tmp_path / 'taken'}'"
    assert ran(tool, ("one", alone, [], 2), ("other", alone, [], 3))[0] == 0
    assert ran(tool, ("one", alone, [], 1, "its turn"), ("other", alone, [], 1, "its turn"))[0] == 0


def _ends(process: int) -> bool:
    """Wait for the end of a process that was told to end, of whoever is its parent now."""
    for _ in range(3000):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_nothing_goes_on_after_a_section(tool: dict[str, Any], tmp_path: Path) -> None:
    left = tmp_path / "left"
    assert ran(tool, ("leaves", f"sleep 600 &\necho $! >'{left}'"))[0] == 0
    assert _ends(int(left.read_text()))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_end_with_the_program(number: signal.Signals) -> None:
    command = "sleep 600 &\necho $!\necho $$\nwait"
    program = [sys.executable, "-c", WAITING, str(TOOL), command]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "\n"
        assert running.stdout.readline() == "=== waits ===\n"
        started = [int(running.stdout.readline()) for _ in range(2)]
        running.send_signal(number)
        assert running.wait(60) not in (0, None)
    assert all(map(_ends, started))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="processes ignore signals elsewhere")
def test_sections_can_be_interrupted_where_this_cannot() -> None:
    heard = f"'{sys.executable}' -c 'import signal; print(signal.getsignal(signal.SIGINT))'"
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", WAITING, str(TOOL), heard]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert "default_int_handler" in said


def test_every_folder_of_tests_and_every_environment_is_run(tool: dict[str, Any]) -> None:
    todo = tool["sections"]([], {})
    names = {section.name for section in todo}
    commands = "\n".join(section.command for section in todo)
    for folder in (TOOL.parents[1] / "tests/environments").glob("*/requirements.txt"):
        name = folder.parent.name
        assert name in names or f"tests/environments/{name}" in commands
    assert all({*section.after} <= names for section in todo)
    left_out = re.findall(r"--ignore=(\S+)", commands)
    assert left_out
    assert all((TOOL.parents[1] / path).is_file() for path in left_out)
    chosen = tool["sections"](["-k", "a b"], {"VENV": "/x y"})
    assert [section.name for section in chosen] == ["install", "lint", "tests", "types", "R"]
    assert "'/x y/bin/python' -m pytest" in chosen[2].command
    assert chosen[2].command.endswith("-k 'a b'")
