"""Which form of attention is fastest on this CPU, and how far each is from the speed of products alone.

    python benchmarks/attention.py [--rounds 60]

One thread, float32, no mask, 512 tokens as 16 x 32, 4 x 128 and 1 x 512, with the heads of MiniLM (12 of 32)
and bert-base (12 of 64): from queries, keys and values of shape (batch, tokens, width) to the same shape. All
forms are sessions of one process that run in turn, with the graph optimizer off; a cell is the least time in
milliseconds.

`product limit` is the time that the two products of attention would take at the speed of a product of the
linear layers (512 tokens by the width squared) in the same ONNX Runtime: no form in float32 can pass it.
`bits` says whether a row alone gives the bits that it gives in its batch.

Bar: no form with the same bits alone and in a batch saves over 2% of a layer in float32 (this attention, and
the linear layers at the speed of their products) against `MultiHeadAttention`, which export writes. Needs
`bertonnx[cpu,export]`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from common import alternate, parser, publish, table, verdict

TOKENS = 512
LENGTHS = (32, 128, 512)
HEADS = 12
MODELS = {"MiniLM": 32, "bert-base": 64}
"""How large a head is."""
LINEAR = 12
"""Squares of the width in the weights of a layer: four of attention, eight of what follows it."""
WRITTEN = "MultiHeadAttention"
MICROSOFT = "com.microsoft"
NO_FLASH = "ORT_DISABLE_FLASH_ATTENTION"
BAR = 0.02
EXACT = 1e-4
PACKAGES = ("onnxruntime", "onnx", "numpy")

Array = npt.NDArray[np.float32]
Nodes = Sequence[onnx.NodeProto]
Run = Callable[[Sequence[Array]], Array]


def main() -> None:
    rounds = parser(__doc__, rounds=60).parse_args().rounds
    rows, said = [], []
    for model, size in MODELS.items():
        limit = _product_speed(HEADS * size, rounds)
        for length in LENGTHS:
            times, same = _measured(size, length, rounds)
            least = {name: min(found) for name, found in times.items()}
            shape = f"{model}, {TOKENS // length} x {length}"
            flops = 4 * TOKENS * length * HEADS * size
            for name, seconds in least.items():
                reached = f"{flops / seconds / limit:.0%}"
                bits = "same" if same[name] else "differ"
                rows.append((shape, name, f"{1e3 * seconds:.2f}", reached, bits))
            rows.append((shape, "product limit", f"{1e3 * flops / limit:.2f}", "100%", ""))
            best = min((name for name in least if same[name]), key=least.__getitem__)
            linear = 2 * TOKENS * LINEAR * (HEADS * size) ** 2 / limit
            saved = (least[WRITTEN] - least[best]) / (linear + least[WRITTEN])
            claim = f"{shape}: no form saves over {BAR:.0%} of a layer"
            said.append(verdict(saved <= BAR, claim, f"{saved:.1%} ({best})"))
    header = ("heads, batch", "form", "least ms", "of the product limit", "bits")
    body = f"{rounds} alternating runs each.\n\n{table(header, rows)}\n\n" + "\n\n".join(said)
    publish("attention", title="Forms of attention on this CPU", body=body, packages=PACKAGES)


def _measured(size: int, length: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """Return for each form its times, and whether rows have the same bits alone and in a batch."""
    dice = np.random.default_rng(0)
    shape = (TOKENS // length, length, HEADS * size)
    inputs = [dice.standard_normal(shape).astype(np.float32) for _ in "qkv"]
    forms = dict(_forms(size))
    expected = forms[WRITTEN](inputs)
    same = {}
    for name, run in forms.items():
        together = run(inputs)
        worst = float(np.max(np.abs(together - expected)))
        if not worst <= EXACT:
            raise SystemExit(f"{name} differs by {worst}, so it is not the same work")
        alone = [run([array[i : i + 1] for array in inputs]) for i in range(len(together))]
        same[name] = np.array_equal(np.concatenate(alone), together)
    cases = {name: partial(_seconds, run, inputs) for name, run in forms.items()}
    return alternate(cases, rounds=rounds, warm_up=2), same


def _seconds(run: Run, inputs: Sequence[Array]) -> float:
    began = time.perf_counter()
    run(inputs)
    return time.perf_counter() - began


def _forms(size: int) -> Iterator[tuple[str, Run]]:
    """Yield the forms: what export writes first."""
    node, width = helper.make_node, HEADS * size
    ours = node(WRITTEN, ["q", "k", "v"], ["y"], domain=MICROSOFT, num_heads=HEADS)
    yield WRITTEN, _runner([ours], width)
    # Read when a session is made.
    os.environ[NO_FLASH] = "1"
    yield f"{WRITTEN}, not by blocks", _runner([ours], width)
    del os.environ[NO_FLASH]
    for opset in (23, 24):
        standard = node("Attention", ["q", "k", "v"], ["y"], q_num_heads=HEADS, kv_num_heads=HEADS)
        yield f"Attention of opset {opset}", _runner([standard], width, opset=opset)
    yield "spelled out", _runner(_spelled_out(), width, weights=_constants(size))


def _constants(size: int) -> dict[str, npt.NDArray[Any]]:
    return {
        "split": np.array([0, 0, HEADS, size]),
        "joined": np.array([0, 0, HEADS * size]),
        "scale": np.array(size**-0.5, dtype=np.float32),
    }


def _spelled_out() -> list[onnx.NodeProto]:
    def heads(name: str, perm: list[int]) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Reshape", [name, "split"], [f"{name}4"]),
            helper.make_node("Transpose", [f"{name}4"], [f"{name}h"], perm=perm),
        ]

    return [
        *heads("q", [0, 2, 1, 3]),
        *heads("k", [0, 2, 3, 1]),
        *heads("v", [0, 2, 1, 3]),
        # As the exporter would: a product of fewer numbers than the scores are.
        helper.make_node("Mul", ["qh", "scale"], ["qs"]),
        helper.make_node("MatMul", ["qs", "kh"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "vh"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "joined"], ["y"]),
    ]


def _product_speed(width: int, rounds: int) -> float:
    """Return the operations a second of a product of the linear layers."""
    dice = np.random.default_rng(0)
    weight = dice.standard_normal((width, width)).astype(np.float32)
    run = _runner([helper.make_node("MatMul", ["q", "w"], ["y"])], width, weights={"w": weight})
    inputs = [dice.standard_normal((1, TOKENS, width)).astype(np.float32)]
    times = [_seconds(run, inputs) for _ in range(rounds + 2)]
    return 2 * TOKENS * width**2 / min(times)


def _runner(
    nodes: Nodes, width: int, *, opset: int = 20, weights: dict[str, npt.NDArray[Any]] | None = None
) -> Run:
    read = {name for node in nodes for name in node.input}
    names = [name for name in "qkv" if name in read]
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    graph = helper.make_graph(
        list(nodes),
        "attention",
        [value(name, shape=["batch", "tokens", width]) for name in names],
        [value("y", shape=["batch", "tokens", width])],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Array]) -> Array:
        found: list[Array] = session.run(["y"], dict(zip(names, inputs, strict=True)))
        return found[0]

    return run


if __name__ == "__main__":
    main()
