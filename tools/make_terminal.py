"""Writes docs/terminal.svg: README's first commands, really run, as a terminal shows them.

    BERTONNX_SHARED=FOLDER python tools/make_terminal.py

The model is the sentiment classifier FOLDER/models/sst2-minilm. Without BERTONNX_SHARED a tiny random
classifier takes its place: enough to see how the picture looks, but its labels mean nothing. Of the summary
the picture shows the lines that `SHOWN` lists; a line of dots stands for the others.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 116
COMMANDS = (
    "bertonnx export sst2-minilm -o sentiment.onnx",
    "cat examples/reviews.txt",
    "bertonnx run sentiment.onnx examples/reviews.txt",
)
SHOWN = ("wrote", "  task", "  size", "  labels", "  PyTorch")


def main() -> None:
    """Run the commands in a scratch folder and write the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "examples", folder / "examples")
        _save_checkpoint(folder / "sst2-minilm")
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            for line in _shortened(_output(command, folder)):
                if len(line) > WIDTH:
                    raise SystemExit(f"wider than the picture ({len(line)} of {WIDTH}): {line}")
                console.print(Text(line))
    svg = console.export_svg(title="bertonnx", theme=MONOKAI, unique_id="terminal")
    # The picture must not fetch fonts from anywhere; a viewer's own monospace font does.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "monospace")
    (ROOT / "docs/terminal.svg").write_text(svg, encoding="utf-8")


def _save_checkpoint(folder: Path) -> None:
    shared = os.environ.get("BERTONNX_SHARED")
    if shared is not None:
        folder.symlink_to(Path(shared, "models/sst2-minilm"))
        return
    print("BERTONNX_SHARED is not set: the picture shows a random model", file=sys.stderr)
    sys.path.insert(0, str(ROOT))
    from tests.tiny import save_tiny

    save_tiny(folder, labels=("NEGATIVE", "POSITIVE"))


def _output(command: str, folder: Path) -> list[str]:
    program, *arguments = shlex.split(command)
    words = [sys.executable, "-m", program, *arguments] if program == "bertonnx" else [program, *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _shortened(lines: list[str]) -> Iterator[str]:
    """Yield a command's lines, of a summary only those that the picture has room for."""
    if not lines[0].startswith("wrote"):
        yield from lines
        return
    yield from (line for line in lines if line.startswith(SHOWN))
    yield "  ..."


if __name__ == "__main__":
    main()
