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

from bertonnx.exporters.checkpoint.sentence_layers import Cut, Dense, LayerNorm, Normalize, Pool
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


def _embedded(mask: npt.NDArray[np.int64], *layers: Any, raw: Array = HIDDEN) -> Array:
    model = _raw("last_hidden_state", ["b", "s", 8])
    add_heads(Graph(model), bare("feature-extraction", layers=layers))
    embedding, tokens = _run(model, raw, mask, "sentence_embedding", "last_hidden_state")
    np.testing.assert_array_equal(tokens, raw)
    return embedding


def _pooled(pooling: str, mask: npt.NDArray[np.int64], raw: Array = HIDDEN) -> torch.Tensor:
    vectors = []
    for tokens, kept in zip(torch.from_numpy(raw), torch.from_numpy(mask).bool(), strict=True):
        real = tokens[kept]
        vectors.append(
            {
                "mean": real.mean(0),
                "cls": tokens[0],
                "max": real.amax(0),
                "last": real[-1],
                "mean_sqrt_len_tokens": real.sum(0) / len(real) ** 0.5,
                "weightedmean": torch.from_numpy(
                    np.average(real.numpy(), axis=0, weights=range(1, len(real) + 1))
                ),
            }[pooling]
        )
    return torch.stack(vectors)


@pytest.mark.parametrize("mask", [FULL, PADDED], ids=["unpadded", "padded"])
@pytest.mark.parametrize("pooling", POOLINGS.names)
def test_pooling(pooling: str, mask: npt.NDArray[np.int64]) -> None:
    got = _embedded(mask, Pool(modes=(pooling,)))
    np.testing.assert_allclose(got, _pooled(pooling, mask).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS.names)
def test_what_is_padded_never_counts(pooling: str) -> None:
    noisy = np.where(PADDED[..., None] == 1, HIDDEN, np.float32(1e6)).astype(np.float32)
    expected = _pooled(pooling, PADDED).numpy()
    np.testing.assert_allclose(
        _embedded(PADDED, Pool(modes=(pooling,)), raw=noisy), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("pooling", POOLINGS.names)
def test_a_text_alone_has_the_bits_it_has_in_a_batch(pooling: str) -> None:
    layers = Pool(modes=(pooling,)), Normalize()
    together = _embedded(FULL, *layers)
    alone = [_embedded(FULL[:1], *layers, raw=HIDDEN[i : i + 1]) for i in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_several_poolings_are_joined_in_their_order() -> None:
    got = _embedded(PADDED, Pool(modes=("max", "cls")))
    expected = torch.cat([_pooled("max", PADDED), _pooled("cls", PADDED)], dim=1)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)


def test_places_of_thousands_of_tokens_are_counted_exactly() -> None:
    """The sum of 8,192 places is more than float32 counts one by one."""
    tokens = np.ones((1, 8192, 8), dtype=np.float32)
    got = _embedded(np.ones((1, 8192), dtype=np.int64), Pool(modes=("weightedmean",)), raw=tokens)
    np.testing.assert_allclose(got, 1, rtol=2e-6)


def test_normalize() -> None:
    layers = Pool(modes=("cls",)), Normalize()
    expected = torch.nn.functional.normalize(_pooled("cls", PADDED), p=2, dim=1)
    np.testing.assert_allclose(_embedded(PADDED, *layers), expected.numpy(), rtol=1e-6)
    assert not np.isnan(_embedded(FULL, *layers, raw=np.zeros_like(HIDDEN))).any()


def test_tokens_can_be_normalized_before_they_are_pooled() -> None:
    tokens = Normalize(reads="token_embeddings", writes="token_embeddings")
    unit = torch.nn.functional.normalize(torch.from_numpy(HIDDEN), dim=-1).numpy()
    got = _embedded(PADDED, tokens, Pool(modes=("mean",)))
    np.testing.assert_allclose(got, _pooled("mean", PADDED, unit).numpy(), rtol=1e-5, atol=1e-6)


def test_a_cut_keeps_the_first_numbers_as_they_are() -> None:
    got = _embedded(PADDED, Pool(modes=("cls",)), Normalize(), Cut(length=3))
    expected = torch.nn.functional.normalize(_pooled("cls", PADDED), p=2, dim=1)[:, :3]
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)


def _numbers(*shape: int) -> Array:
    return CHANCE.normal(size=shape).astype(np.float32)


def test_layer_normalization() -> None:
    weight, bias = _numbers(8), _numbers(8)
    norm = torch.nn.LayerNorm(8)
    norm.weight.data, norm.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    got = _embedded(PADDED, Pool(modes=("cls",)), LayerNorm(weight=weight, bias=bias))
    np.testing.assert_allclose(got, norm(_pooled("cls", PADDED)).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("residual", ["", "of the same width", "projected"])
def test_dense_layers(residual: str, bias: bool) -> None:
    """By hand, as Sentence-Transformers 6.2: the input is added to what the activation gives."""
    value = _pooled("mean", PADDED)
    layers = []
    for _ in range(2):
        width = 8 if residual == "of the same width" else 6 if value.shape[1] == 8 else 5
        weight, offset = _numbers(width, value.shape[1]), _numbers(width) if bias else None
        projection = _numbers(width, value.shape[1]) if residual == "projected" else None
        layers.append(
            Dense(
                weight=weight, bias=offset, activation="tanh", residual=bool(residual), projection=projection
            )
        )
        out = value @ torch.from_numpy(weight).T + (0 if offset is None else torch.from_numpy(offset))
        shortcut = value if projection is None else value @ torch.from_numpy(projection).T
        value = out.tanh() + (shortcut if residual else 0)
    got = _embedded(PADDED, Pool(modes=("mean",)), *layers)
    np.testing.assert_allclose(got, value.numpy(), rtol=1e-4, atol=1e-5)


def test_layers_can_make_the_logits_of_a_ranker() -> None:
    weight = _numbers(1, 8)
    score = Dense(weight=weight, bias=None, activation="none", writes="scores")
    model = _raw("last_hidden_state", ["b", "s", 8])
    layers = Pool(modes=("cls",)), score
    add_heads(Graph(model), bare("text-ranking", activation="sigmoid", layers=layers))
    logits, scores = _run(model, HIDDEN, PADDED, "logits", "scores")
    np.testing.assert_allclose(logits, HIDDEN[:, 0] @ weight.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-5)


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
        ("text-ranking", {"logits": [_BATCH, 1], "scores": [_BATCH, 1]}),
        ("token-classification", {"logits": [_BATCH, _TOKENS, 3], "scores": [_BATCH, _TOKENS, 3]}),
        ("question-answering", {"start_logits": [_BATCH, _TOKENS], "end_logits": [_BATCH, _TOKENS]}),
        ("fill-mask", {"logits": [_BATCH, _TOKENS, 0]}),
    ],
)
def test_outputs_are_declared_as_the_row_says(task: str, shapes: dict[str, list[str | int]]) -> None:
    """By name what is dynamic, by number what is known; 0 stands for what is not said."""
    row = task_named(task)
    model = _raw(row.raw_outputs[0], ["b", "s", 8])
    layers = (Pool(modes=("mean",)),) if row.pooled else ()
    add_heads(
        Graph(model), bare(task, width=8, layers=layers, labels=("a", "b", "c") if row.labelled else ())
    )
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
