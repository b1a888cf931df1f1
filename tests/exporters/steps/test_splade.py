"""SPLADE in the graph against PyTorch: small weights, padding, and the same bits in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.verify import late_reference
from bertonnx.models.registry import resolve
from bertonnx.models.splade import SATURATIONS, STRATEGIES
from bertonnx.runtime.rows import Array

WORDS = 50


def computed(
    strategy: str, saturation: str, logits: Array, mask: np.ndarray[tuple[int, int], np.dtype[np.int64]]
) -> Array:
    inputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "t", WORDS]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["n", "t"]),
    ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", WORDS])]
    proto = helper.make_graph([], "splade", inputs, outputs)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    graph = Graph(model)
    made = resolve(STRATEGIES[strategy].graph)(graph, "logits", "attention_mask", SATURATIONS[saturation])
    graph.add("Identity", [made], "out", output="out")
    graph.finish()
    onnx.checker.check_model(graph.model)
    feeds: dict[str, Any] = {"logits": logits, "attention_mask": mask}
    found: Array = run_graph(graph.model, feeds, ["out"])["out"]
    return found


def logits_of(texts: int, tokens: int) -> Array:
    rng = np.random.default_rng(3)
    made = rng.normal(size=(texts, tokens, WORDS)).astype(np.float32)
    made[..., :10] *= np.float32(1e-9)  # less than float32 can add to 1
    made[..., 10:20] *= np.float32(1e-4)
    made[..., 20] = -1.0
    return made


@pytest.mark.parametrize("strategy", STRATEGIES.names)
@pytest.mark.parametrize("saturation", SATURATIONS.names)
def test_it_is_pytorchs(strategy: str, saturation: str) -> None:
    logits = logits_of(3, 7)
    mask = np.ones((3, 7), dtype=np.int64)
    mask[1, 4:] = 0
    wanted = getattr(late_reference, f"splade_{strategy}")(
        torch.from_numpy(logits), torch.from_numpy(mask), SATURATIONS[saturation]
    ).numpy()
    found = computed(strategy, saturation, logits, mask)
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=0)
    # A word of little weight is there all the same, and one of none is not.
    assert ((found > 0) == (wanted > 0)).all()
    assert (wanted[:, :10] < 1e-7).all()
    assert (found[:, 20] == 0).all()


@pytest.mark.parametrize("strategy", STRATEGIES.names)
def test_bits_do_not_depend_on_the_batch(strategy: str) -> None:
    logits = logits_of(8, 33)
    mask = np.ones((8, 33), dtype=np.int64)
    together = computed(strategy, "relu", logits, mask)
    for row in range(8):
        alone = computed(strategy, "relu", logits[row : row + 1], mask[row : row + 1])
        assert alone.tobytes() == together[row : row + 1].tobytes()
