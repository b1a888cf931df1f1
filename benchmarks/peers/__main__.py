"""bertonnx and its peers, side by side on CPU: throughput, latency, and whether the vectors agree.

    python benchmarks/peers [--quick] [--rounds 5] [--part 1.0] [--models minilm,bert-base] [--peers A,B]

Builds a virtual environment with this checkout and the peers (`peers/requirements.txt`; about 2 GB) in
`BERTONNX_PEERS`, by default `~/.cache/bertonnx-peers`, and runs `peers/run.py` with it. On Linux or
macOS; nothing is fetched but packages. The peers: Optimum's ORTModel, Sentence-Transformers with torch
and with ONNX, fastembed, OpenVINO and CTranslate2 in fp32 and INT8, plain torch; `peers/engines.py` says how
each is set up.

Workloads: 900 sentences of about 23 tokens, 300 passages of 8 to 512 tokens (a sixteenth of both for
bert-base), and single texts of 16, 128 and 512 tokens. They are cut from `peers/corpus.txt`, or from
SST-2 where `BERTONNX_SHARED` names a folder with `data/sst2_dev.tsv`. On two cores it takes about an
hour and a half, most of it the slowest entries; `--part 0.25` a third of that.

Written to `results/peers.md` and `.json`, with a chart each in `results/peers-MODEL-WORKLOAD.svg`; with
`--quick` (three minutes once all is installed, MiniLM alone, a twentieth of the texts) to the folder
`quick` of the one above instead. Ends with 1 where an fp32 entry computes other vectors than torch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def main() -> None:
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return
    folder = Path(os.environ.get("BERTONNX_PEERS") or Path.home() / ".cache" / "bertonnx-peers").resolve()
    interpreter = str(_environment(folder))
    environment = {
        **os.environ,
        "BERTONNX_PEERS": str(folder),
        "PYTHONPATH": str(BENCHMARKS),
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    os.execve(interpreter, [interpreter, "-m", "peers.run", *sys.argv[1:]], environment)


def _environment(folder: Path) -> Path:
    """Return the interpreter of the environment with the peers, built where it is not there yet."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + bytes(BENCHMARKS)).hexdigest()
    place, mark = folder / "venv", folder / "venv" / "requirements.sha256"
    if not mark.is_file() or mark.read_text() != wanted:
        print(f"installing the peers into {place}", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        # torch first and alone: in one go pip may choose builds for GPUs, several gigabytes.
        torch = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("torch=="))
        subprocess.run([*pip, torch], check=True)
        subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)
        # This checkout; the requirements above are what it needs, in versions that suit the peers too.
        subprocess.run([*pip, "--no-deps", "--editable", str(BENCHMARKS.parent)], check=True)
        mark.write_text(wanted)
    return place / "bin" / "python"


if __name__ == "__main__":
    main()
