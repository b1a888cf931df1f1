"""The matrix: checkpoints of every kind, saved by one version of their library and read under another.

    python -m tests.matrix [--older .venv] [--newer .venv-transformers5]
                           [--families NAME ...] [--tasks NAME ...] [--no-sentence]
                           [--processes N] [--place FOLDER]

Of every family and task one, and of every Sentence-Transformers module. `tools/test.sh` makes the two
environments: transformers 4.57 in the older one, the newest 5 in the other. Each saves tiny checkpoints with
its own library and notes what that library answers; each exports what either saved.

An outcome is right (ids equal, numbers within 1e-4 of the largest), or refused by an error; anything else
ends this command with exit code 1. Asked for everything, it writes `outcome.json`, of which
`tools/make_docs.py` makes docs/families.md. Everything takes some 40 minutes on two cores; where `--place`
keeps what was saved and found, a command that was ended goes on there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.matrix.reading import saved_in

OUTCOME = Path(__file__).with_name("outcome.json")


def main() -> int:
    """Save, read, and say what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--older", type=Path, default=Path(".venv"))
    parser.add_argument("--newer", type=Path, default=Path(".venv-transformers5"))
    parser.add_argument("--families", nargs="*", default=[])
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--no-sentence", action="store_true", help="leave Sentence-Transformers folders out")
    parser.add_argument("--processes", type=int, default=2, help="how many at a time")
    parser.add_argument("--place", type=Path, help="an empty folder, or one to go on with")
    given = parser.parse_args()
    chosen = [
        *(["--families", *given.families] if given.families else []),
        *(["--tasks", *given.tasks] if given.tasks else []),
        *(["--no-sentence"] if given.no_sentence else []),
    ]
    pythons = {"older": given.older / "bin" / "python", "newer": given.newer / "bin" / "python"}
    with nullcontext(given.place) if given.place else tempfile.TemporaryDirectory() as place:
        found = _tried(Path(place), pythons, chosen, given.processes)
    return _told(found, keep=not chosen)


Found = dict[str, dict[str, Any]]
"""`versions` by environment, the folders that each `saved`, and `outcomes` by way and folder."""


def _tried(place: Path, pythons: dict[str, Path], chosen: list[str], processes: int) -> Found:
    """Save all and read all."""
    folders = {name: place / name for name in pythons}
    notes = {name: folder / "versions.json" for name, folder in folders.items()}
    # Written last, so that it tells what was saved to its end.
    saving = [name for name in pythons if not notes[name].is_file()]
    _together(
        [[pythons[name], "-m", "tests.matrix.saving", folders[name], *chosen] for name in saving], processes
    )
    ways = [(saver, reader) for saver in pythons for reader in pythons]
    parts = {
        (*way, part): place / f"{'-'.join(way)}-{part}-of-{processes}.json"
        for part in range(processes)
        for way in ways
    }
    _together(
        [
            [
                *(pythons[reader], "-m", "tests.matrix.reading", folders[saver], path),
                *("--part", f"{part}/{processes}"),
            ]
            for (saver, reader, part), path in parts.items()
        ],
        processes,
    )
    outcomes: dict[str, dict[str, str]] = {f"{saver} > {reader}": {} for saver, reader in ways}
    for (saver, reader, _), path in parts.items():
        # Of few folders, a part may be of none.
        if path.is_file():
            outcomes[f"{saver} > {reader}"].update(json.loads(path.read_text()))
    return {
        "versions": {name: json.loads(path.read_text()) for name, path in notes.items()},
        "saved": {name: saved_in(folder) for name, folder in folders.items()},
        "outcomes": outcomes,
    }


def _together(commands: list[list[str | Path]], processes: int) -> None:
    """Run commands, some at a time, and end with the reason of the first that fails."""
    with ThreadPoolExecutor(processes) as pool:
        for command, ended in zip(commands, pool.map(_ended, commands), strict=True):
            if ended.returncode:
                words = " ".join(map(str, command))
                sys.exit(f"{words}\nended with exit code {ended.returncode}:\n{ended.stderr[-3000:]}")


def _ended(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)


def _told(found: Found, *, keep: bool) -> int:
    """Print what is not right, write the whole, and return the exit code."""
    wrong = 0
    for way, outcomes in found["outcomes"].items():
        for name, said in outcomes.items():
            if said != "right":
                print(f"{way}  {name}: {said}")
            wrong += not said.startswith(("right", "refused: "))
        right = sum(said == "right" for said in outcomes.values())
        print(f"{way}: {right} right, {len(outcomes) - right} not, of {len(outcomes)}")
    if keep:
        text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
        OUTCOME.write_text(text + "\n", encoding="utf-8")
        print("type: python tools/make_docs.py")
    print(f"{wrong} neither right nor refused")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
