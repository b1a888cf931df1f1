"""One peer in a process of its own, told by lines what to do.

    python -m peers.worker ENGINE SETUP.json TEXTS.json CORES

Each line on standard input is a JSON object, and each gets one on standard output:

- `{"do": "embed", "texts": NAME, "save": FILE or null}` gives `{"seconds": ...}`;
- `{"do": "tune", "texts": NAME, "budgets": [...], "save": FILE or null}` gives `{"budget": ...}`, the
  fastest of these batch sizes, used from then on; an engine that has none embeds once, and gives null;
- `{"do": "latency", "texts": NAME, "runs": N}` gives `{"seconds": [...]}`;
- `{"do": "sgemm"}` gives `{"gflops": ..., "kernels": ...}`; the engine `sgemm` can do that alone.

The first line out says that the engine is loaded. What fails gives `{"error": ...}`. Time is from the
texts to NumPy arrays, in this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peers.engines import ENGINES, Engine, Setup

Answer = dict[str, Any]


class Worker:
    """An engine and the texts, and what can be asked of them."""

    def __init__(self, engine: Engine, texts: dict[str, list[str]]) -> None:
        self.engine, self.texts = engine, texts
        self.budgets: dict[str, int | None] = {}

    def embed(self, texts: str, save: str | None) -> Answer:
        """Embed a workload once, and save the vectors where a file is named."""
        if self.engine.budget is not None:
            self.engine.budget = self.budgets.get(texts, self.engine.budget)
        began = time.perf_counter()
        vectors = self.engine.embed(self.texts[texts])
        seconds = time.perf_counter() - began
        if save is not None:
            np.save(save, vectors)
        return {"seconds": seconds}

    def tune(self, texts: str, budgets: list[int], save: str | None) -> Answer:
        """Embed a workload with each of some batch sizes, and take the fastest from now on."""
        if self.engine.budget is None:
            self.embed(texts, save)
            return {"budget": None}

        def seconds(budget: int) -> float:
            self.budgets[texts] = budget
            return float(self.embed(texts, save)["seconds"])

        self.budgets[texts] = min(budgets, key=seconds)
        return {"budget": self.budgets[texts]}

    def latency(self, texts: str, runs: int) -> Answer:
        """Embed texts one at a time."""
        seconds = []
        for i in range(runs):
            text = self.texts[texts][i % len(self.texts[texts])]
            began = time.perf_counter()
            self.engine.one(text)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}


def main() -> None:
    name, setup_file, texts_file, cores = sys.argv[1:]
    _end_with_the_parent()
    # Whatever a library prints must not get between the lines.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    setup = json.loads(Path(setup_file).read_text(encoding="utf-8"))
    made = Setup(**{key: Path(value) for key, value in setup.items()}, cores=int(cores))
    actions: dict[str, Callable[..., Answer]] = {}

    def load() -> Answer:
        if name == "sgemm":
            from peers.sgemm import sgemm

            actions["sgemm"] = lambda: dict(zip(("gflops", "kernels"), sgemm(made.cores), strict=True))
            return {"version": np.__version__}
        engine = ENGINES[name](made)
        worker = Worker(engine, json.loads(Path(texts_file).read_text(encoding="utf-8")))
        actions.update(embed=worker.embed, tune=worker.tune, latency=worker.latency)
        return {"version": f"{engine.package} {engine.version}"}

    _answer(answers, load)
    for line in sys.stdin:
        asked = json.loads(line)
        action = actions[asked.pop("do")]
        _answer(answers, partial(action, **asked))


def _end_with_the_parent() -> None:
    """A worker is mostly stopped, and one whose parent was killed would stay so for ever."""
    if sys.platform == "linux":
        death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def _answer(stream: Any, act: Callable[[], Answer]) -> None:
    try:
        answer = act()
    except Exception as error:  # whatever a peer raises is a cell of the table
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
