"""Heads in the graph against the same in PyTorch, padded and not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bertonnx.exporters.checkpoint.sentence_transformers import Dense
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.steps.heads import add_heads
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.session.session import import_onnxruntime
from tests.checkpoints import bare

Array = npt.NDArray[np.float32]
CHANCE = np.random.default_rng(4)
HIDDEN = CHANCE.normal(size=(3, 5, 8)).astype(np.float32) - 1
FULL = np.ones((3, 5), dtype=np.int64)
PADDED = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=np.int64)


def _raw(name: str, shape: Sequence[str | int]) -> onnx.ModelProto:
    """Return a graph that hands its input `raw` on as `name`."""
    inputs = [
        helper.make_tensor_value_info("raw", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "s"]),
    ]
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["raw"], [name])], "raw", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _run(model: onnx.ModelProto, raw: Array, mask: npt.NDArray[np.int64], *outputs: str) -> list[Array]:
    onnx.checker.check_model(model)
    session = import_onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = {item.name for item in session.get_inputs()}
    feeds = {"raw": raw, "attention_mask": mask}
    results: list[Array] = session.run(list(outputs), {k: v for k, v in feeds.items() if k in names})
    return results


def _embedded(mask: npt.NDArray[np.int64], raw: Array = HIDDEN, **options: Any) -> Array:
    model = _raw("last_hidden_state", ["b", "s", 8])
    add_heads(Graph(model), bare("feature-extraction", width=8, **options))
    embedding, tokens = _run(model, raw, mask, "sentence_embedding", "last_hidden_state")
    np.testing.assert_array_equal(tokens, raw)
    return embedding


def _pooled(pooling: str, mask: npt.NDArray[np.int64], raw: Array = HIDDEN) -> torch.Tensor:
    vectors = []
    for tokens, kept in zip(torch.from_numpy(raw), torch.from_numpy(mask).bool(), strict=True):
        real = tokens[kept]
        vectors.append(
            {"mean": real.mean(0), "cls": tokens[0], "max": real.amax(0), "last": real[-1]}[pooling]
        )
    return torch.stack(vectors)


@pytest.mark.parametrize("mask", [FULL, PADDED], ids=["unpadded", "padded"])
@pytest.mark.parametrize("pooling", POOLINGS.names)
def test_pooling(pooling: str, mask: npt.NDArray[np.int64]) -> None:
    got = _embedded(mask, pooling=pooling)
    np.testing.assert_allclose(got, _pooled(pooling, mask).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS.names)
def test_what_is_padded_never_counts(pooling: str) -> None:
    noisy = np.where(PADDED[..., None] == 1, HIDDEN, np.float32(1e6)).astype(np.float32)
    expected = _pooled(pooling, PADDED).numpy()
    np.testing.assert_allclose(_embedded(PADDED, noisy, pooling=pooling), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS.names)
def test_a_text_alone_has_the_bits_it_has_in_a_batch(pooling: str) -> None:
    together = _embedded(FULL, pooling=pooling, normalize=True)
    alone = [_embedded(FULL[:1], HIDDEN[i : i + 1], pooling=pooling, normalize=True) for i in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_normalize() -> None:
    got = _embedded(PADDED, pooling="cls", normalize=True)
    expected = torch.nn.functional.normalize(_pooled("cls", PADDED), p=2, dim=1)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)
    assert not np.isnan(_embedded(FULL, np.zeros_like(HIDDEN), pooling="cls", normalize=True)).any()


_TORCH: dict[str, Any] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": torch.nn.functional.gelu,
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", list(_TORCH))
def test_dense_layers(activation: str, bias: bool) -> None:
    layers = []
    expected = _pooled("mean", PADDED)
    for features, width in ((6, 8), (4, 6)):
        weight = CHANCE.normal(size=(features, width)).astype(np.float32)
        offset = CHANCE.normal(size=features).astype(np.float32) if bias else None
        layers.append(Dense(weight, offset, activation))
        expected = torch.nn.functional.linear(
            expected, torch.from_numpy(weight), None if offset is None else torch.from_numpy(offset)
        )
        expected = _TORCH[activation](expected)
    got = _embedded(PADDED, pooling="mean", dense=tuple(layers))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)


_ACTIVATIONS: dict[str, Any] = {
    "softmax": lambda x: x.softmax(-1),
    "sigmoid": torch.sigmoid,
    "none": lambda x: x,
}


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
@pytest.mark.parametrize("activation", list(_ACTIVATIONS))
def test_scores(activation: str, task: str) -> None:
    raw = 5 * (HIDDEN[..., :3] if task == "token-classification" else HIDDEN[:, 0, :3])
    shape: list[str | int] = ["b", "s", 3] if task == "token-classification" else ["b", 3]
    model = _raw("logits", shape)
    add_heads(Graph(model), bare(task, activation=activation, labels=("a", "b", "c")))
    logits, scores = _run(model, raw, FULL, "logits", "scores")
    np.testing.assert_array_equal(logits, raw)
    np.testing.assert_allclose(
        scores, _ACTIVATIONS[activation](torch.from_numpy(raw)).numpy(), rtol=1e-5, atol=1e-6
    )


_BATCH, _TOKENS = "batch_size", "sequence_length"


@pytest.mark.parametrize(
    ("task", "shapes"),
    [
        (
            "feature-extraction",
            {"sentence_embedding": [_BATCH, 8], "last_hidden_state": [_BATCH, _TOKENS, 0]},
        ),
        ("text-classification", {"logits": [_BATCH, 3], "scores": [_BATCH, 3]}),
        ("token-classification", {"logits": [_BATCH, _TOKENS, 3], "scores": [_BATCH, _TOKENS, 3]}),
        ("question-answering", {"start_logits": [_BATCH, _TOKENS], "end_logits": [_BATCH, _TOKENS]}),
        ("fill-mask", {"logits": [_BATCH, _TOKENS, 0]}),
    ],
)
def test_outputs_are_declared_as_the_row_says(task: str, shapes: dict[str, list[str | int]]) -> None:
    """By name what is dynamic, by number what is known; 0 stands for what is not said."""
    row = task_named(task)
    model = _raw(row.raw_outputs[0], ["b", "s", 8])
    add_heads(Graph(model), bare(task, width=8, labels=("a", "b", "c") if row.labelled else ()))
    declared = {
        output.name: [axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim]
        for output in model.graph.output
    }
    assert declared == shapes
    types = {output.type.tensor_type.elem_type for output in model.graph.output}
    assert types == {TensorProto.FLOAT}


def test_fill_mask_gets_no_head() -> None:
    model = _raw("logits", ["b", "s", 8])
    add_heads(Graph(model), bare("fill-mask"))
    assert [node.op_type for node in model.graph.node] == ["Identity"]
    assert [output.name for output in model.graph.output] == ["logits"]
