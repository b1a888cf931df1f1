"""Which fused operators pay on this CPU: one node of ONNX Runtime against the nodes it stands for.

    python benchmarks/operators.py [--rounds 60]

One thread, float32, 1,024 tokens (8 rows of 128) of MiniLM (384 wide, 12 heads) and bert-base (768 wide,
12 heads). Both sides of a row are sessions in one process that run in turn, with the graph optimizer off
so that nothing is fused again; their results are compared first. A row says how many times faster the
fused side is; below 1 it is better left apart.

It decides nothing by itself: what `exporters/` fuses and what `runtime/session` keeps from being fused
follows from it, and it is here to be repeated on another machine or ONNX Runtime. Needs
`bertonnx[cpu,export]`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from common import alternate, median, parser, publish, table

BATCH, LENGTH, HEADS = 8, 128, 12
WIDTHS = {"MiniLM": 384, "bert-base": 768}
EXACT, TANH_GELU = 1e-4, 5e-3
"""Largest difference between both sides; FastGelu is another function than Gelu."""
MICROSOFT = "com.microsoft"
PACKAGES = ("onnxruntime", "onnx", "numpy")

Array = npt.NDArray[np.float32]
Nodes = Sequence[onnx.NodeProto]


@dataclass(frozen=True)
class Pair:
    """A fused node and the nodes it stands for, over the same inputs and weights; both put out `y`."""

    name: str
    fused: Nodes
    parts: Nodes
    inputs: Mapping[str, Array]
    weights: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    tolerance: float = EXACT


def main() -> None:
    rounds = parser(__doc__, rounds=60).parse_args().rounds
    rows = []
    for model, width in WIDTHS.items():
        for pair in _pairs(width):
            fused, parts = _times(pair, rounds)
            rows.append((pair.name, model, *_row(fused, parts)))
    header = ("fused against parts", "model", "fused ms", "minimum", "parts ms", "minimum", "times faster")
    body = (
        f"{BATCH * LENGTH} tokens, one thread, medians and minima of {rounds} alternating runs; "
        f"times faster is parts to fused, of medians and (of minima).\n\n{table(header, rows)}"
    )
    publish("operators", title="Fused operators on this CPU", body=body, packages=PACKAGES)


def _row(fused: list[float], parts: list[float]) -> tuple[str, ...]:
    times = [f"{1000 * value:.2f}" for side in (fused, parts) for value in (median(side), min(side))]
    return (*times, f"{median(parts) / median(fused):.2f} ({min(parts) / min(fused):.2f})")


def _times(pair: Pair, rounds: int) -> tuple[list[float], list[float]]:
    runs = {"fused": _runner(pair, pair.fused), "parts": _runner(pair, pair.parts)}
    worst = float(np.max(np.abs(runs["fused"]() - runs["parts"]())))
    if not worst <= pair.tolerance:
        raise SystemExit(f"{pair.name}: the two sides differ by {worst}, so they are not the same work")
    timed = alternate({name: partial(_seconds, run) for name, run in runs.items()}, rounds=rounds, warm_up=3)
    return timed["fused"], timed["parts"]


def _seconds(run: Callable[[], Array]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _runner(pair: Pair, nodes: Nodes) -> Callable[[], Array]:
    session = onnxruntime.InferenceSession(
        _model(pair, nodes).SerializeToString(), _options(), providers=["CPUExecutionProvider"]
    )
    wanted = {item.name for item in session.get_inputs()}
    feeds = {name: array for name, array in pair.inputs.items() if name in wanted}
    return lambda: session.run(["y"], feeds)[0]


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _model(pair: Pair, nodes: Nodes) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in pair.inputs.items()
        if name in read
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in pair.weights.items() if name in read]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "pair", inputs, [output], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _pairs(width: int) -> list[Pair]:
    dice = np.random.default_rng(0)

    def some(*shape: int, scale: float = 1.0) -> Array:
        return (scale * dice.standard_normal(shape)).astype(np.float32)

    return [
        _skip_norm(some, width),
        _bias_gelu(some, 4 * width),
        _fast_gelu(some, 4 * width),
        _attention(some, width, mask=False),
        _attention(some, width, mask=True),
        _masked_against_unmasked(some, width),
        _gemm(some, width),
        _packed(some, width),
    ]


Some = Callable[..., Array]


def _skip_norm(some: Some, width: int) -> Pair:
    fused = helper.make_node(
        "SkipLayerNormalization", ["x", "skip", "gamma", "beta"], ["y"], domain=MICROSOFT, epsilon=1e-12
    )
    parts = [
        helper.make_node("Add", ["x", "skip"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "gamma", "beta"], ["y"], axis=-1, epsilon=1e-12),
    ]
    inputs = {"x": some(BATCH, LENGTH, width), "skip": some(BATCH, LENGTH, width)}
    weights = {"gamma": some(width), "beta": some(width)}
    return Pair("SkipLayerNormalization / Add, LayerNormalization", [fused], parts, inputs, weights)


def _bias_gelu(some: Some, width: int) -> Pair:
    fused = helper.make_node("BiasGelu", ["x", "bias"], ["y"], domain=MICROSOFT)
    parts = [
        helper.make_node("Add", ["x", "bias"], ["sum"]),
        helper.make_node("Gelu", ["sum"], ["y"], domain=MICROSOFT),
    ]
    inputs = {"x": some(BATCH, LENGTH, width)}
    return Pair("BiasGelu / Add, Gelu", [fused], parts, inputs, {"bias": some(width)})


def _fast_gelu(some: Some, width: int) -> Pair:
    fused = helper.make_node("FastGelu", ["x", "bias"], ["y"], domain=MICROSOFT)
    parts = [
        helper.make_node("Add", ["x", "bias"], ["sum"]),
        helper.make_node("Gelu", ["sum"], ["y"], domain=MICROSOFT),
    ]
    inputs = {"x": some(BATCH, LENGTH, width)}
    weights = {"bias": some(width)}
    return Pair("FastGelu / Add, Gelu (another function)", [fused], parts, inputs, weights, TANH_GELU)


def _multi_head(mask: bool) -> onnx.NodeProto:
    inputs = ["q", "k", "v", *(["", "", "mask"] if mask else [])]
    return helper.make_node("MultiHeadAttention", inputs, ["y"], domain=MICROSOFT, num_heads=HEADS)


def _attention(some: Some, width: int, *, mask: bool) -> Pair:
    shape = np.array([0, 0, HEADS, width // HEADS])
    weights = {
        "split": shape,
        "joined": np.array([0, 0, width]),
        "scale": np.array(1 / np.sqrt(width // HEADS), dtype=np.float32),
    }
    inputs = {name: some(BATCH, LENGTH, width) for name in "qkv"}
    inputs["mask"] = np.zeros((BATCH, 1, LENGTH, LENGTH), dtype=np.float32)
    name = f"MultiHeadAttention {'with' if mask else 'without'} attention_bias / spelled out"
    return Pair(name, [_multi_head(mask)], _spelled_out(mask), inputs, weights)


def _spelled_out(mask: bool) -> list[onnx.NodeProto]:
    def heads(name: str, perm: list[int]) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Reshape", [name, "split"], [f"{name}4"]),
            helper.make_node("Transpose", [f"{name}4"], [f"{name}h"], perm=perm),
        ]

    add = [helper.make_node("Add", ["scaled", "mask"], ["masked"])] if mask else []
    return [
        *heads("q", [0, 2, 1, 3]),
        *heads("k", [0, 2, 3, 1]),
        *heads("v", [0, 2, 1, 3]),
        helper.make_node("MatMul", ["qh", "kh"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        *add,
        helper.make_node("Softmax", ["masked" if mask else "scaled"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "vh"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "joined"], ["y"]),
    ]


def _masked_against_unmasked(some: Some, width: int) -> Pair:
    inputs = {name: some(BATCH, LENGTH, width) for name in "qkv"}
    inputs["mask"] = np.zeros((BATCH, 1, LENGTH, LENGTH), dtype=np.float32)
    name = "MultiHeadAttention without / with attention_bias of zeros"
    return Pair(name, [_multi_head(False)], [_multi_head(True)], inputs)


def _gemm(some: Some, width: int) -> Pair:
    fused = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    parts = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])]
    weights = {"w": some(width, width, scale=width**-0.5), "b": some(width)}
    return Pair("Gemm / MatMul, Add", [fused], parts, {"x": some(BATCH * LENGTH, width)}, weights)


def _packed(some: Some, width: int) -> Pair:
    fused = [
        helper.make_node("MatMul", ["x", "w"], ["qkv"]),
        helper.make_node("Split", ["qkv"], ["q", "k", "v"], axis=-1, num_outputs=3),
        helper.make_node("Concat", ["q", "k", "v"], ["y"], axis=-1),
    ]
    weights = {f"w{name}": some(width, width, scale=width**-0.5) for name in "qkv"}
    parts = [
        *(helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"),
        helper.make_node("Concat", ["q", "k", "v"], ["y"], axis=-1),
    ]
    weights["w"] = np.concatenate([weights[f"w{name}"] for name in "qkv"], axis=1)
    inputs = {"x": some(BATCH, LENGTH, width)}
    return Pair("one MatMul for Q, K, V and Split / three MatMul", fused, parts, inputs, weights)


if __name__ == "__main__":
    main()
