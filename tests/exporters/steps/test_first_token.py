"""The last layer is computed for the first token alone, where nothing else is read; same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import bertonnx
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.first_token import KeepFirstToken
from tests.graphs import changed
from tests.tiny import save_tiny


def _feeds(batch: int, tokens: int, padded: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(tokens).integers(5, 800, (batch, tokens))
    mask = np.ones_like(ids)
    if padded:
        mask[-1, -padded:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _export(
    folder: Path, family: str, task: str, monkeypatch: pytest.MonkeyPatch, *, step: bool
) -> onnx.ModelProto:
    source = save_tiny(folder / f"{family}-{task}", family, task)
    with monkeypatch.context() as patch:
        if not step:
            patch.setattr(KeepFirstToken, "apply", lambda *_: 0)
        path = bertonnx.export(source, folder / f"{step}.onnx").path
    return onnx.load(path)


def _queries(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[int]:
    """Return how many tokens each attention gives a row for."""
    outputs = [
        node.output[0]
        for node in model.graph.node
        if any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute)
        and "attention" in node.output[0]
        and "bias" not in node.output[0]
    ]
    return [array.shape[1] for array in run_graph(model, feeds, outputs).values()]


@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "roberta", "electra", "roformer", "mpnet", "deberta"]
)
def test_same_outputs_padded_and_not(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _export(tmp_path, family, "text-classification", monkeypatch, step=False)
    smaller = _export(tmp_path, family, "text-classification", monkeypatch, step=True)
    assert len(smaller.graph.node) != len(whole.graph.node), "the step changed nothing"
    for feeds in (_feeds(3, 12), _feeds(3, 12, padded=5), _feeds(1, 2)):
        expected = run_graph(whole, feeds, ["logits"])["logits"]
        actual = run_graph(smaller, feeds, ["logits"])["logits"]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_only_the_last_attention_gets_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = _feeds(2, 12)
    whole = _export(tmp_path, "bert", "text-classification", monkeypatch, step=False)
    smaller = _export(tmp_path, "bert", "text-classification", monkeypatch, step=True)
    assert _queries(whole, feeds) == [12, 12]
    assert _queries(smaller, feeds) == [12, 1]


@pytest.mark.parametrize(
    "task", ["feature-extraction", "token-classification", "question-answering", "fill-mask"]
)
def test_heads_that_read_every_token_are_left_alone(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _export(tmp_path, "bert", task, monkeypatch, step=False)
    assert changed(model, KeepFirstToken(_feeds(2, 10)))[1] == [0]
    assert _queries(model, _feeds(2, 12)) == [12, 12]
