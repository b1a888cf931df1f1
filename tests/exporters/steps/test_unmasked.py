"""Attention without a mask, in whole models: sliding windows, text-dependent biases, padded batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import bertonnx
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session.session import open_session
from tests.tiny import save_tiny


@pytest.mark.parametrize(
    ("family", "branched"), [("bert", 2), ("deberta", 0), ("modernbert", 1), ("mpnet", 0)]
)
def test_only_what_is_padding_is_branched(family: str, branched: int, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", family, "feature-extraction")
    report = bertonnx.export(source, tmp_path / "model.onnx")
    path = report.path
    nodes = onnx.load(str(path)).graph.node
    inner = [
        [n.op_type for n in item.g.node] for node in nodes if node.op_type == "If" for item in node.attribute
    ]
    assert inner.count(["MultiHeadAttention"]) == 2 * branched
    assert sum(node.op_type == "MultiHeadAttention" for node in nodes) == 2 - branched

    session = open_session(path, report.card, LoadOptions(provider="cpu"))
    chance = np.random.default_rng(1)
    ids = chance.integers(5, 200, (2, 60))
    mask = np.ones_like(ids)
    mask[1, 23:] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (together,) = session.run(("sentence_embedding",), {name: feeds[name] for name in session.inputs})
    for row, length in enumerate((60, 23)):
        alone = {name: array[row : row + 1, :length] for name, array in feeds.items()}
        (single,) = session.run(("sentence_embedding",), {name: alone[name] for name in session.inputs})
        np.testing.assert_allclose(single[0], together[row], atol=2e-4)
