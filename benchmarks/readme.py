"""README's figures: all of one machine and one day, by one command.

    python benchmarks/readme.py [--minutes 10] [--write]

Runs `startup.py`, `load.py`, `install_size.py` and `peers` where their last results are of another machine or
day, and writes README's tables from what they left in `results/`. Until all are of one machine and day, each
figure stands with its own, and the command ends with 1 and says what is missing. Results of other machines,
which `results/elsewhere` keeps, stand in a table of their own. With `--minutes` nothing is begun after that
time, a cell of `peers` neither, and the same command goes on. `--write` runs nothing. Needs what those need,
and takes as long: three quarters of an hour where nothing is measured yet.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from common import RESULTS, ROOT, hardware, machine, parser, say, table

README = ROOT / "README.md"
FIRST, LAST = "<!-- benchmarks/readme.py begins -->", "<!-- benchmarks/readme.py ends -->"
COMMANDS = {name: f"benchmarks/{name}.py" for name in ("startup", "load", "install_size")}
PEERS = "benchmarks/peers"
OURS = {"fp32": "bertonnx", "int8": "bertonnx-int8"}
LABELS = {"fp32": "fp32", "int8": "INT8"}
MODELS = {"minilm": "all-MiniLM-L6-v2", "bert-base": "bert-base"}
LENGTHS = ("16", "128", "512")
SAID = {
    "startup": (
        "from process start to the first prediction (all-MiniLM-L6-v2)",
        "`bertonnx run` is {faster:.1f} times faster than transformers' pipeline over Optimum's ORTModel",
    ),
    "load": (
        "loading bert-base",
        "{faster:.1f} times faster than the same file with ONNX Runtime's default options",
    ),
    "install_size": ("installed size of `bertonnx[cpu]`", "{megabytes:.0f} MB more than NumPy"),
}

Results = Mapping[str, dict[str, Any]]


class Place(NamedTuple):
    """Where and when something was measured."""

    day: str
    machine: str

    @property
    def said(self) -> str:
        """It in words."""
        days = [f"{datetime.date.fromisoformat(day):%d %B %Y}".lstrip("0") for day in self.day.split(", ")]
        return f"{' and '.join(days)}, {self.machine}"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--write", action="store_true", help="run nothing, write the last results")
    options.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after these")
    chosen = options.parse_args()
    end = time.monotonic() + 60 * chosen.minutes
    for name in () if chosen.write else (*COMMANDS, "peers"):
        here, left = place(machine(())), (end - time.monotonic()) / 60
        if place_of(name) != here and left > 0:
            command = [COMMANDS[name]] if name in COMMANDS else [PEERS, "--minutes", f"{left:.2f}"]
            say(" ".join(command))
            # A part of the peers ends with 1, and what is missing is said below.
            subprocess.run([sys.executable, *command], cwd=ROOT, check=name in COMMANDS)
    write(results_in(RESULTS), elsewhere())
    if missing := lacking(results_in(RESULTS)):
        sys.exit(f"README's figures are not of one machine and day: {missing}")


def place(about: list[str]) -> Place:
    """Return the place of a result."""
    return Place(about[0], hardware(about))


def place_of(name: str) -> Place | None:
    """Return the place of a benchmark's last result."""
    found = results_in(RESULTS).get(name)
    return place(found["machine"]) if found else None


def results_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the benchmarks left for README in a folder."""
    files = {name: folder / f"{name}.json" for name in (*COMMANDS, "peers")}
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.is_file()}


def elsewhere() -> list[dict[str, dict[str, Any]]]:
    """Return the results of other machines."""
    return [results_in(folder) for folder in sorted((RESULTS / "elsewhere").glob("*/"))]


def lacking(results: Results) -> str:
    """Return what keeps the figures from being of one machine and day; nothing where they are."""
    places = {
        name: place(results[name]["machine"]) if name in results else None for name in (*COMMANDS, "peers")
    }
    if (
        None not in places.values()
        and len(set(places.values())) == 1
        and ", " not in results["peers"]["machine"][0]
    ):
        return ""
    return "; ".join(f"{name}: {where.said if where else 'not measured'}" for name, where in places.items())


def write(results: Results, others: list[dict[str, dict[str, Any]]]) -> None:
    """Write README's tables."""
    before, _, rest = README.read_text(encoding="utf-8").partition(FIRST)
    after = rest.partition(LAST)[2]
    README.write_text(f"{before}{FIRST}\n{section(results, others)}\n{LAST}{after}", encoding="utf-8")


def section(results: Results, others: list[dict[str, dict[str, Any]]]) -> str:
    """Return README's tables."""
    together = not lacking(results)
    where = {name: place(found["machine"]).said for name, found in results.items()}
    rows = [
        [*_figure(name, results[name]), f"`python {command}`", *([] if together else [where[name]])]
        for name, command in COMMANDS.items()
        if name in results
    ]
    header = ["", "", "command", *([] if together else ["measured on"])]
    lines = [_plain(header, rows)]
    if together:
        lines.insert(0, f"All measured on {where['peers']}, by `python benchmarks/readme.py`.")
    if "peers" in results:
        lines += _peers(results["peers"], "" if together else f" Measured on {where['peers']}.")
    if shown := [_elsewhere(found) for found in others]:
        lines += ["On other machines:", _plain(["", *_columns()], shown)]
    return "\n\n".join(lines)


def _figure(name: str, found: Mapping[str, Any]) -> tuple[str, str]:
    what, said = SAID[name]
    return what, said.format_map(found)


def _plain(header: list[str], rows: list[list[str]]) -> str:
    """Return a table with every column to the left."""
    return table(header, rows).replace("---:", "---")


def _peers(peers: Mapping[str, Any], measured: str) -> list[str]:
    """Return a table of how many times as fast bertonnx is as the fastest peer."""
    threads = peers["models"]["minilm"].get("threads", 2)
    rows = [
        [f"{MODELS[model]}, {LABELS[precision]}", *_ratios(found["engines"], precision)]
        for model, found in peers["models"].items()
        for precision in OURS
    ]
    header = ["", "short texts", "texts of 8 to 512 tokens", *(f"one text of {n} tokens" for n in LENGTHS)]
    return [
        f"From raw text to vectors on {threads} threads: how many times as fast as the fastest peer of the "
        f"same precision, and which that was (`python {PEERS}`).{measured}",
        _plain(header, rows),
    ]


def _ratios(engines: Mapping[str, Any], precision: str) -> list[str]:
    cells = [("seconds", "short"), ("seconds", "mixed"), *(("latency", length) for length in LENGTHS)]
    return [_ratio(engines, precision, what, cell) for what, cell in cells]


def _ratio(engines: Mapping[str, Any], precision: str, what: str, cell: str) -> str:
    times = {
        name: median(entry[what][cell])
        for name, entry in engines.items()
        if entry["precision"] == precision and "error" not in entry and cell in entry[what]
    }
    ours = times.pop(OURS[precision], None)
    if ours is None or not times:
        return ""
    best = min(times, key=lambda name: times[name])
    return f"{times[best] / ours:.2f} ({engines[best]['name'].partition(',')[0]})"


def _columns() -> list[str]:
    return ["start", "load", *(f"{MODELS['minilm']}, {LABELS[each]}, short" for each in OURS)]


def _elsewhere(results: Results) -> list[str]:
    """Return the line of another machine."""
    places = sorted({place(found["machine"]).said for found in results.values()})
    alone = [f"{results[name]['faster']:.1f}" if name in results else "" for name in ("startup", "load")]
    peers = results["peers"]["models"]["minilm"]["engines"] if "peers" in results else {}
    return ["; ".join(places), *alone, *(_ratio(peers, each, "seconds", "short") for each in OURS)]


if __name__ == "__main__":
    main()
