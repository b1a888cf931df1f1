"""Writes the pages of docs/ that are made from the code: families.md and commands.md.

python tools/make_docs.py           # write them
python tools/make_docs.py --check   # exit 1 where they are not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from matrix_page import matrix_part

from bertonnx.cli import app
from bertonnx.models.families import EXCLUDED_FAMILIES, FAMILIES, Family
from bertonnx.models.tasks import TASKS

DOCS = Path(__file__).resolve().parent.parent / "docs"

_MADE = "<!-- Made by tools/make_docs.py; edit the code that it reads, not this page. -->"


def families_page() -> str:
    """Return docs/families.md."""
    return "\n".join(_families()) + "\n"


def commands_page() -> str:
    """Return docs/commands.md."""
    return "\n".join(_commands()) + "\n"


_HEADED = [task for task in TASKS if task.headed]
"""Any encoder can be part of a model of the other tasks, whose weights are more than its own."""


def _families() -> Iterator[str]:
    yield _MADE
    yield "# Families and tasks"
    yield ""
    yield (
        "`tests/whole/test_matrix.py` tests every tick: it exports a tiny random checkpoint with a real "
        "tokenizer, compares the file with PyTorch, checks it and runs it."
    )
    yield ""
    yield f"| family | {' | '.join(task.name for task in _HEADED)} | attention fused in every layer |"
    yield f"|---|{'---|' * (len(_HEADED) + 1)}"
    notes: list[str] = []
    for family in FAMILIES:
        cells = " | ".join(_cell(family, task.name, notes) for task in _HEADED)
        fused = "yes" if family.attention else f"no{_note(notes, family.why_unfused)}"
        newer = _note(notes, f"needs transformers {family.since} or later") if family.since else ""
        yield f"| `{family.name}`{newer} | {cells} | {fused} |"
    yield ""
    yield from (f"{i}. {note[0].upper()}{note[1:]}." for i, note in enumerate(notes, 1))
    yield ""
    yield (
        "Other text encoders of transformers are exported too. For those, nothing checks that attention is "
        "fused in every layer. A checkpoint needs a `tokenizer.json` where "
        "transformers has no fast tokenizer for it, as for XLM and FlauBERT on the Hub; the error says so. "
        "What the folder's tokenizer files say counts, as the transformers version that saved them reads it."
    )
    yield ""
    yield "These are refused:"
    yield ""
    yield from (f"- `{name}`: {reason}" for name, reason in EXCLUDED_FAMILIES.items())
    yield ""
    yield matrix_part([family.name for family in FAMILIES], [task.name for task in TASKS])


def _cell(family: Family, task: str, notes: list[str]) -> str:
    return f"no{_note(notes, family.gaps[task])}" if task in family.gaps else "✓"


def _note(notes: list[str], text: str) -> str:
    if text not in notes:
        notes.append(text)
    return f" ({notes.index(text) + 1})"


def _commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    yield _MADE
    yield "# Commands"
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        arguments = [item for item in command.params if item.param_type_name == "argument"]
        yield ""
        yield f"## `bertonnx {' '.join([name, *(str(item.metavar) for item in arguments)])}`"
        yield ""
        yield str(command.help)
        yield ""
        items = [item for item in command.params if item.name != "help"]
        if not items:
            yield "It has no options."
            continue
        yield "| option | meaning |"
        yield "|---|---|"
        for item in items:
            names = ", ".join(f"`{option}`" for option in (*item.opts, *item.secondary_opts))
            if item.param_type_name == "argument":
                names = f"`{item.metavar}`"
            choices = f" `{item.metavar}`." if item.metavar and "|" in item.metavar else ""
            yield f"| {names} |{choices.replace('|', chr(92) + '|')} {item.help}{_default(item)} |"
    yield ""
    yield "## Exit codes"
    yield ""
    yield "| code | meaning |"
    yield "|---|---|"
    yield "| 0 | success |"
    yield "| 1 | an error; the message says what is wrong and what to type |"
    yield "| 2 | wrong usage |"
    yield "| 3 | finished, but some rows have errors |"
    yield "| 130 | interrupted; `--resume` continues |"


def _default(item: Any) -> str:
    """Return an option's default where it has one and its help does not say it."""
    shown = item.default not in (None, False, True) and not item.required and "efault" not in item.help
    return f" Default: `{item.default}`." if shown else ""


def main() -> int:
    """Write or check the pages."""
    stale = []
    for name, text in (("families.md", families_page()), ("commands.md", commands_page())):
        path = DOCS / name
        if "--check" in sys.argv[1:]:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"out of date: {', '.join(stale)}; type: python tools/make_docs.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
