"""bertonnx and its peers, side by side on CPU: throughput, single texts, and whether the vectors agree.

    python benchmarks/peers [--minutes 3] [--rounds 4] [--threads 2,1] [--models minilm,bert-base]
                            [--part 1.0] [--peers A,B] [--prepare] [--quick] [--anew]

Builds two virtual environments in `BERTONNX_PEERS`, by default `~/.cache/bertonnx-peers` (4 GB): with this
checkout and the peers of today (`current.txt`), and with Optimum's ORTModel, which needs an older
transformers (`older.txt`). Then runs `run.py` with the first. On Linux or macOS; nothing is fetched but
packages. The peers: Optimum's ORTModel (fp32, and INT8 as it quantizes dynamically), Sentence-Transformers
with torch, ONNX and OpenVINO, fastembed, OpenVINO (fp32, and INT8 by NNCF), CTranslate2 (fp32, and INT8
with and without packed weights), plain torch; `engines.py` says how each is set up, and in which
environment it runs.

Workloads: sentences of about 23 tokens, passages of 8 to 512 tokens, and single texts of 16, 128 and 512
tokens; fewer of them for bert-base's shapes (`prepare.py` says how many). They are cut from `corpus.txt`,
or from SST-2 where `BERTONNX_SHARED` names a folder with `data/sst2_dev.tsv`.

What is measured is a cell: a model, a number of threads (all cores, and one), fp32 or INT8, a workload. In
a cell entries take turns, every other round backwards. After the first round those go on that took at most
1.5 times the fastest's time; the others have one round to show (column `rounds`). Entries that take texts
in their order, as the documentation of most shows it, are measured for throughput with MiniLM on all cores
alone; they are twice as slow where lengths differ. With `--minutes` it begins no cell after that time, and
the same command goes on with the next; a change of the code, of the peers or of the sizes begins anew, as
does `--anew`. `--prepare` makes the environments and the models, and measures nothing. On two slow cores
the cells take 35 minutes, and the first preparation 20.

Written, when all cells are measured, to `results/peers.md` and `.json`, with a chart each in
`results/peers-MODEL-WORKLOAD.svg`; with `--quick` (MiniLM on all cores, few texts, two rounds: 3 minutes
once all is prepared) to the folder `quick` of the one above instead. Ends with 1 where an fp32 entry
computes other vectors than torch.

Bars: in every cell fp32 at least as fast as the best peer, and INT8 1.15 times as fast as the best INT8 peer
with vectors that are nearer to fp32's; fp32 at least 0.88 (MiniLM) and 0.94 (bert-base) of the rate of matrix
products in the same cell.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
CURRENT, OLDER = "current", "older"


def main() -> None:
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return
    folder = Path(os.environ.get("BERTONNX_PEERS") or Path.home() / ".cache" / "bertonnx-peers").resolve()
    for name in (CURRENT, OLDER):
        _environment(folder / name, Path(__file__).with_name(f"{name}.txt"))
        # This checkout; the requirements are what it needs, in versions that suit the peers too.
        checkout = ["install", "--quiet", "--no-deps", "--editable", str(BENCHMARKS.parent)]
        _once(folder / name / "checkout", str(BENCHMARKS), partial(_pip, folder / name, *checkout))
    interpreter = str(_interpreter(folder / CURRENT))
    environment = {
        **os.environ,
        "BERTONNX_PEERS": str(folder),
        "PYTHONPATH": str(BENCHMARKS),
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    os.execve(interpreter, [interpreter, "-m", "peers.run", *sys.argv[1:]], environment)


def _interpreter(place: Path) -> Path:
    return place / "bin" / "python"


def _environment(place: Path, requirements: Path) -> None:
    """Build an environment where it is not there yet as it is asked for."""
    wanted = hashlib.sha256(requirements.read_bytes() + bytes(place)).hexdigest()

    def build() -> None:
        print(f"installing {requirements.name} into {place}", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        # torch first and alone: in one go pip may choose builds for GPUs, several gigabytes.
        lines = requirements.read_text(encoding="utf-8").splitlines()
        _pip(place, "install", "--quiet", next(line for line in lines if line.startswith("torch==")))
        _pip(place, "install", "--quiet", "-r", str(requirements))
        # optimum-intel brings it, for images; a build for another kind of torch breaks transformers' imports.
        _pip(place, "uninstall", "--quiet", "--yes", "torchvision")

    _once(place / "requirements.sha256", wanted, build)


def _once(mark: Path, wanted: str, make: Callable[[], None]) -> None:
    """Make something where its mark does not say that it was made of the same."""
    if not mark.is_file() or mark.read_text(encoding="utf-8") != wanted:
        make()
        mark.write_text(wanted, encoding="utf-8")


def _pip(place: Path, *arguments: str) -> None:
    subprocess.run([str(_interpreter(place)), "-m", "pip", *arguments], check=True)


if __name__ == "__main__":
    main()
