"""A worker that kills runs of a real model, as `kills.py` does.

    python tests/fuzz/real_kills.py FOLDER FIRST LAST

Each seed kills at least one run. What the resumed run writes is compared, byte for byte and value for value,
with what a run writes that nobody disturbs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bertonnx
from tests.fuzz.kills import ROWS, story, write_inputs
from tests.fuzz.texts import make_models

__all__ = ["main"]


def main(place: str, first: str, last: str) -> None:
    """Tell a story for each seed."""
    folder = Path(place)
    make_models(folder)
    write_inputs(folder)
    # Opened in each child: a model that its parent opened would not work there.
    model = folder / "text-classification.onnx"

    def run(input: Path, output: Path, *, resuming: bool) -> None:
        report = bertonnx.run(model, input, output, resume=resuming, provider="cpu", threads=1)
        assert report.rows in (ROWS, ROWS // 10)

    for seed in range(int(first), int(last)):
        print(seed, story(folder, seed, run, least=1), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
