"""The matrix: checkpoints of every kind, saved by one version of their library and read under another.

    python -m tests.matrix [--older .venv] [--newer .venv-transformers5]
                           [--families NAME ...] [--tasks NAME ...] [--no-sentence]

Of every family and task one, and of every Sentence-Transformers module. `tools/test.sh` makes the two
environments: transformers 4.57 in the older one, the newest 5 in the other. Each saves tiny checkpoints with
its own library and notes what that library answers; each exports what either saved.

An outcome is right (ids equal, numbers within 1e-4 of the largest), or refused by an error; anything else
ends this command with exit code 1. Asked for everything, it writes `outcome.json`, of which
`tools/make_docs.py` makes docs/families.md. Everything takes some 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    given = parser.parse_args()
    chosen = [
        *(["--families", *given.families] if given.families else []),
        *(["--tasks", *given.tasks] if given.tasks else []),
        *(["--no-sentence"] if given.no_sentence else []),
    ]
    pythons = {"older": given.older / "bin" / "python", "newer": given.newer / "bin" / "python"}
    with tempfile.TemporaryDirectory(prefix="bertonnx-matrix-") as place:
        folders = {name: Path(place, name) for name in pythons}
        _together([[pythons[name], "-m", "tests.matrix.saving", folders[name], *chosen] for name in pythons])
        outcomes = {
            (saver, reader): Path(place, f"{saver}-{reader}.json") for saver in pythons for reader in pythons
        }
        _together(
            [
                [pythons[reader], "-m", "tests.matrix.reading", folders[saver], path]
                for (saver, reader), path in outcomes.items()
            ]
        )
        versions = {name: json.loads((folders[name] / "versions.json").read_text()) for name in pythons}
        found = {
            f"{saver} > {reader}": json.loads(path.read_text()) for (saver, reader), path in outcomes.items()
        }
    return _told(versions, found, keep=not chosen)


def _together(commands: list[list[str | Path]]) -> None:
    """Run commands, two at a time, and end where one fails."""
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda command: subprocess.run(command, check=True), commands):
            pass


def _told(versions: dict[str, dict[str, str]], found: dict[str, dict[str, str]], *, keep: bool) -> int:
    """Print what is not right, write the whole, and return the exit code."""
    wrong = 0
    for way, outcomes in found.items():
        for name, said in outcomes.items():
            if said != "right":
                print(f"{way}  {name}: {said}")
            wrong += not said.startswith(("right", "refused: "))
        right = sum(said == "right" for said in outcomes.values())
        print(f"{way}: {right} right, {len(outcomes) - right} not, of {len(outcomes)}")
    if keep:
        OUTCOME.write_text(
            json.dumps(
                {"versions": versions, "outcomes": found}, indent=1, ensure_ascii=False, sort_keys=True
            )
            + "\n",
            encoding="utf-8",
        )
        print("type: python tools/make_docs.py")
    print(f"{wrong} neither right nor refused")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
