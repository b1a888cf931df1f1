"""The part of docs/families.md that is made of what `python -m tests.matrix` found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["OUTCOME", "matrix_part"]

OUTCOME = Path(__file__).resolve().parent.parent / "tests" / "matrix" / "outcome.json"

_RIGHT, _REFUSED = "right", "refused: "
_SENTENCE = "sentence-transformers"

Found = Mapping[str, Any]
"""`versions`: environment -> package -> version. `saved`: environment -> folders, as "FAMILY/TASK".
`outcomes`: way ("older > newer") -> folder -> outcome."""


def matrix_part(families: Sequence[str], tasks: Sequence[str], found: Found | None = None) -> str:
    """Return the tables of families and tasks, and of the modules of Sentence-Transformers.

    Args:
        families: rows, in their order.
        tasks: columns, in their order.
        found: what `tests/matrix/outcome.json` holds; default that file.

    Raises:
        ValueError: an outcome is neither right nor a refusal.
    """
    found = json.loads(OUTCOME.read_text(encoding="utf-8")) if found is None else found
    for way, folders in found["outcomes"].items():
        for folder, said in folders.items():
            if not said.startswith((_RIGHT, _REFUSED)):
                raise ValueError(f"{way}, {folder}: {said}")
    return "\n".join([*_families(found, families, tasks), "", *_modules(found)])


def _families(found: Found, families: Sequence[str], tasks: Sequence[str]) -> Iterator[str]:
    older, newer = (found["versions"][name]["transformers"] for name in ("older", "newer"))
    yield "## Saved by one version, exported under another"
    yield ""
    yield (
        "`python -m tests.matrix` saves a tiny checkpoint of every family and task with transformers "
        f"{older} and with {newer}, exports each under both, and compares token ids (equal), segments and "
        "numbers (within 1e-4 of the largest) with what the version that saved it answers, for single texts "
        "and pairs. A tick: right in every way that there is. A number: refused in the ways that the note "
        "names, and right in the others. A fraction: so many of the ways were tried. A dash: neither version "
        "has such a head."
    )
    yield ""
    notes: list[str] = []
    saved = [folder for folders in found["saved"].values() for folder in folders]
    columns = [task for task in tasks if any(f"{family}/{task}" in saved for family in families)]
    yield f"| family | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for family in families:
        cells = [
            _cell(found, family, task, notes, ways=2 * saved.count(f"{family}/{task}")) for task in columns
        ]
        yield f"| `{family}` | {' | '.join(cells)} |"
    yield ""
    yield from (f"{number}. {note}" for number, note in enumerate(notes, 1))


def _said(found: Found, folder: str) -> dict[str, str]:
    return {way: folders[folder] for way, folders in found["outcomes"].items() if folder in folders}


def _cell(found: Found, family: str, task: str, notes: list[str], *, ways: int) -> str:
    """Return what a cell of the table says; `ways` counts the savers and the readers of each."""
    if not ways:
        return "–"
    said = _said(found, f"{family}/{task}")
    refusals: dict[str, list[str]] = {}
    for way, outcome in said.items():
        if outcome != _RIGHT:
            # One note for all families of which the same is said.
            words = outcome.removeprefix(_REFUSED).replace(f" {family} ", " FAMILY ")
            refusals.setdefault(words, []).append(_way(found, way, "transformers"))
    numbers = []
    for words, refused in refusals.items():
        note = f"Saved by {' and by '.join(refused)}: {_escaped(words)}"
        if note not in notes:
            notes.append(note)
        numbers.append(str(notes.index(note) + 1))
    marks = ["✓"] if _RIGHT in said.values() else []
    marks += [f"({', '.join(numbers)})"] if numbers else []
    marks += [f"{len(said)}/{ways}"] if len(said) < ways else []
    return " ".join(marks)


def _way(found: Found, way: str, package: str) -> str:
    saver, reader = (found["versions"][name][package] for name in way.split(" > "))
    return f"{saver}, exported under {reader if saver != reader else 'the same'}"


def _modules(found: Found) -> Iterator[str]:
    older, newer = (found["versions"][name][_SENTENCE] for name in ("older", "newer"))
    yield "## Modules of Sentence-Transformers"
    yield ""
    yield (
        f"The same, of folders that sentence-transformers {older} and {newer} saved, against their `encode`, "
        "`encode_query`, `encode_document` and `predict`. Right in every way that there is:"
    )
    yield ""
    folders = {folder for folders in found["outcomes"].values() for folder in folders}
    names = sorted((folder for folder in folders if folder.startswith(f"{_SENTENCE}/")), key=str.lower)
    said = {name.partition("/")[2]: _said(found, name) for name in names}
    right = [name for name, ways in said.items() if {*ways.values()} == {_RIGHT}]
    yield f"{'; '.join(right)}."
    yield ""
    yield "Refused:"
    yield ""
    yield "| folder | saved by | message |"
    yield "|---|---|---|"
    for name, ways in said.items():
        by_words: dict[str, list[str]] = {}
        for way, outcome in ways.items():
            if outcome != _RIGHT:
                by_words.setdefault(outcome.removeprefix(_REFUSED), []).append(way)
        for words, refused in by_words.items():
            # Which version exports makes no difference to most.
            each = len(refused) == len(ways)
            which = "each" if each else "; ".join(_way(found, way, _SENTENCE) for way in refused)
            yield f"| {name} | {which} | {_escaped(words)} |"


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "\\<")
