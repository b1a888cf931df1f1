"""Which form of normalization and GELU is fast in which ONNX Runtime: one command for all versions.

    python benchmarks/versions.py [--rounds 3] [VERSION...]

One thread, float32, 1,024 tokens: the forms that a graph can have of an addition with layer normalization
(384 and 768 wide) and of GELU after a bias (1,536 and 3,072 wide). Each version is installed into a folder of
its own, without what it depends on, and runs in a process of its own; versions take turns, and a cell is the
least time of all rounds in milliseconds. The forms that export writes are marked.

Bar: normalization as export writes it takes at most 3 times what the best form of the best version takes, in
each version that `pip install "bertonnx[cpu]"` may take (`models.onnxruntimes`), and more in those that it
leaves out. Needs `bertonnx[cpu,export]`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from bertonnx.models.onnxruntimes import OLDEST, SLOW, version_of
from common import alternate, cache, measure, parser, publish, table, verdict

VERSIONS = ("1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.28.0", "1.29.0", "1.30.0", "1.31.1", "1.32.0")
WRITTEN = ("Add, LayerNormalization", "Add, Gelu")
NORMALIZATIONS = (WRITTEN[0], "SkipLayerNormalization")
BAR = 3.0
PACKAGES = ("numpy", "onnx")

CHILD = """
import json, os, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime
from onnx import TensorProto, helper, numpy_helper

MS = "com.microsoft"
node = helper.make_node

def forms(width):
    inner = 4 * width
    both = node("Add", ["x", "skip"], ["s"])
    norm = [both, node("LayerNormalization", ["s", "g", "b"], ["y"], epsilon=1e-12)]
    skip = [node("SkipLayerNormalization", ["x", "skip", "g", "b"], ["y"], domain=MS, epsilon=1e-12)]
    apart = [
        both, node("ReduceMean", ["s", "axis"], ["m"]), node("Sub", ["s", "m"], ["d"]),
        node("Mul", ["d", "d"], ["dd"]), node("ReduceMean", ["dd", "axis"], ["v"]),
        node("Add", ["v", "e"], ["ve"]), node("Sqrt", ["ve"], ["r"]), node("Div", ["d", "r"], ["n"]),
        node("Mul", ["n", "g"], ["ng"]), node("Add", ["ng", "b"], ["y"]),
    ]
    added = [node("Add", ["x", "b"], ["s"])]
    return {
        "Add, LayerNormalization": (width, norm), "SkipLayerNormalization": (width, skip),
        "normalization spelled out": (width, apart),
        "Add, Gelu": (inner, [*added, node("Gelu", ["s"], ["y"], domain=MS)]),
        "BiasGelu": (inner, [node("BiasGelu", ["x", "b"], ["y"], domain=MS)]),
        "FastGelu with bias (by tanh)": (inner, [node("FastGelu", ["x", "b"], ["y"], domain=MS)]),
    }

def least(width, nodes):
    dice = np.random.default_rng(0)
    some = lambda *shape: dice.standard_normal(shape).astype(np.float32)
    weights = {"g": some(width), "b": some(width), "axis": np.array([-1]), "e": np.array(1e-12, np.float32)}
    read = {name for each in nodes for name in each.input}
    feeds = {name: some(8, 128, width) for name in ("x", "skip") if name in read}
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, "form", [value(name, array.shape) for name, array in feeds.items()], [value("y", None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items() if name in read],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MS, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(25):
        began = time.perf_counter()
        session.run(["y"], feeds)
        times.append(time.perf_counter() - began)
    return 1000 * min(times)

widths = (384, 768)
all_forms = {f"{name}, {width}": form for width in widths for name, form in forms(width).items()}
print(json.dumps({name: least(*form) for name, form in all_forms.items()}))
"""

Times = Mapping[str, float]


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("versions", nargs="*", default=VERSIONS, help="default " + " ".join(VERSIONS))
    arguments = options.parse_args()
    folders = {version: _installed(version) for version in arguments.versions}
    cases = {version: partial(_times, folder) for version, folder in folders.items()}
    rounds = alternate(cases, rounds=arguments.rounds)
    least = {
        version: {form: min(times[form] for times in found) for form in found[0]}
        for version, found in rounds.items()
    }
    publish("versions", title="Forms by version of ONNX Runtime", body=_body(least), packages=PACKAGES)


def _installed(version: str) -> Path:
    """Return a folder that holds one version of ONNX Runtime alone, installed once."""
    folder = cache().parent / f"onnxruntime-{version}"
    if not (folder / "onnxruntime").is_dir():
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            folder,
        ]
        measure([*pip, f"onnxruntime=={version}"])
    return folder


def _times(folder: Path) -> Times:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    try:
        found: Times = json.loads(measure([sys.executable, "-c", CHILD], threads=1).output)
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return found


def _body(least: Mapping[str, Times]) -> str:
    forms = list(next(iter(least.values())))
    rows = [
        (
            f"{form} **written**" if form.rpartition(", ")[0] in WRITTEN else form,
            *(f"{times[form]:.2f}" for times in least.values()),
        )
        for form in forms
    ]
    said = "\n\n".join(_verdict(version, least) for version in least)
    return f"Milliseconds.\n\n{table(('form, width', *least), rows)}\n\n{said}"


def _verdict(version: str, least: Mapping[str, Times]) -> str:
    """Say whether the table of versions is right about one."""
    worst, form = max(_ratios(version, least))
    taken = version_of(version) >= OLDEST and not any(a <= version_of(version) < b for a, b in SLOW)
    what = f"{version} is {'taken' if taken else 'left out, as over 3 times as slow'}"
    return verdict((worst <= BAR) == taken, what, f"{worst:.2f} ({form})")


def _ratios(version: str, least: Mapping[str, Times]) -> Sequence[tuple[float, str]]:
    """Return how many times as long as the best form of the best version the written one takes, by width."""
    found = []
    for width in (384, 768):
        forms = [f"{name}, {width}" for name in NORMALIZATIONS]
        best = min(times[form] for times in least.values() for form in forms)
        found.append((least[version][forms[0]] / best, forms[0]))
    return found


if __name__ == "__main__":
    main()
