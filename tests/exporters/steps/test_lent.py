"""Matrices that a trace is lent: in the graph with their numbers, each as often as it is read in a way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from bertonnx.errors import CheckpointError
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.lent import Lent
from bertonnx.exporters.steps.trace import trace
from tests.checkpoints import read
from tests.tiny import save_tiny


def _places(model: torch.nn.Module) -> list[str]:
    return [name for module in model.modules() for name in module._parameters if name in vars(module)]


def test_every_matrix_is_in_the_graph_once_and_turned_for_linear_layers(tmp_path: Path) -> None:
    checkpoint = read(save_tiny(tmp_path, "bert", "fill-mask"))
    model = trace(checkpoint)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    parameters = dict(checkpoint.model.named_parameters(remove_duplicate=False))
    matrices = {name: array for name, array in held.items() if name.removesuffix("/turned") in parameters}
    for name, array in matrices.items():
        own = parameters[name.removesuffix("/turned")].detach().numpy()
        np.testing.assert_array_equal(array, own.T if name.endswith("/turned") else own)
    # Its words are read as a table, and by the head that is tied to it as a product.
    words, query = (
        f"bert.{name}.weight"
        for name in ("embeddings.word_embeddings", "encoder.layer.1.attention.self.query")
    )
    assert {words, f"{words}/turned", f"{query}/turned"} <= {*matrices}
    assert query not in held
    assert not any(node.op_type == "Transpose" and node.input[0] in held for node in model.graph.node)
    assert not _places(checkpoint.model)


def test_layers_that_share_a_matrix_read_one(tmp_path: Path) -> None:
    checkpoint = read(save_tiny(tmp_path, "albert", "feature-extraction", num_hidden_layers=3))
    model = trace(checkpoint)
    reads = Counter(value for node in model.graph.node for value in node.input)
    shared = [tensor.name for tensor in model.graph.initializer if "query.weight" in tensor.name]
    # Of its two layers within a group each has a matrix, which all groups share.
    assert [reads[name] for name in shared] == [3, 3]


def test_what_a_model_does_not_read_from_a_module_is_its_own_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As code does that keeps a list of its weights."""
    checkpoint = read(save_tiny(tmp_path, "bert", "feature-extraction"))
    maker: Any = type(checkpoint.model)
    own = maker.forward
    table: Any = checkpoint.model.get_input_embeddings()
    kept = table.weight

    def forward(self: Any, input_ids: torch.Tensor, **others: Any) -> Any:
        embedded = torch.nn.functional.embedding(input_ids, kept)
        return own(self, inputs_embeds=embedded, **others)

    ids = np.arange(5, 29).reshape(2, 12)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with torch.no_grad():
        given = {name: torch.from_numpy(array) for name, array in feeds.items()}
        expected = checkpoint.model(**given).last_hidden_state.numpy()
    monkeypatch.setattr(maker, "forward", forward)
    actual = run_graph(trace(checkpoint), feeds, ["last_hidden_state"])["last_hidden_state"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_model_gets_its_own_back_where_its_code_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = read(save_tiny(tmp_path, "bert", "feature-extraction"))
    maker: Any = type(checkpoint.model)
    lent: list[str] = []

    def forward(self: Any, input_ids: torch.Tensor, **_: Any) -> Any:  # noqa: ARG001
        lent.extend(_places(self))
        raise RuntimeError("no")

    monkeypatch.setattr(maker, "forward", forward)
    with pytest.raises(CheckpointError):
        trace(checkpoint)
    assert lent
    assert not _places(checkpoint.model)


def test_vectors_and_half_numbers_are_not_lent() -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3).half())
    lent = Lent(model)
    assert [tuple(tensor.shape) for tensor in lent.tensors] == [(4, 3)]
    assert lent.inputs == ["lent/0"]
