"""fp16: every family, what stays float32, overflow, the gate, and a real sentiment model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import bertonnx
from bertonnx.errors import BertonnxError, InputError, ParityError, PrecisionError, UsageError
from bertonnx.exporters.fp16.half import RoundToHalf, ToHalf, round_to_half
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.verify import gate
from bertonnx.models.families import Family
from bertonnx.models.figures import AgreementFigures
from bertonnx.runtime.modelfile.modelfile import read_model_file
from tests.cells import Cells
from tests.checkpoints import edit_weights
from tests.corpus import SENTENCES
from tests.figures import half_of, parity_of
from tests.graphs import changed
from tests.tiny import one_of_each, save_tiny

GENTLE: dict[str, dict[str, Any]] = {"mobilebert": {"initializer_range": 0.05}}
"""MobileBERT has no layer normalization: with the usual tiny weights its numbers grow past what fp16 can
tell apart."""

BIASED = {"mpnet", "deberta"}
"""Families whose attention has a bias beside the mask, which is always there."""


def _id(value: object) -> str:
    return value.name if isinstance(value, Family) else str(value)


def _operators(graph: onnx.GraphProto) -> list[str]:
    """Return the operators of a graph and its branches."""
    found = []
    for node in graph.node:
        found.append(node.op_type)
        for attribute in node.attribute:
            found += _operators(attribute.g)
    return found


# What makes fp16 of a graph knows nothing of its task.
@pytest.mark.parametrize(("family", "task"), one_of_each(1), ids=_id)
def test_a_cell(family: Family, task: str, cell: Cells, tmp_path: Path) -> None:
    if family.name in GENTLE:
        source = save_tiny(tmp_path / "checkpoint", family.name, task, **GENTLE[family.name])
    else:
        source = cell(family.name, task).checkpoint
    # Random weights put answers side by side: what is measured is below, by parity and cosine.
    report = bertonnx.export(source, tmp_path / "model.onnx", precision="fp16", min_agreement=0.0)
    assert report.card.precision == "fp16"
    assert report.card.fusions["attention"]["found"] == report.card.fusions["attention"].get("expected")
    parity = parity_of(report.card)
    assert 0 < parity.max_abs_difference <= parity.allowed == 2e-2 * max(1.0, parity.max_abs_reference)
    assert report.golden is not None
    assert report.golden.max_abs_difference <= report.golden.tolerance
    half = half_of(report.card)
    if half.metric == "cosine":
        assert half.worst > 0.999
    model = onnx.load(str(report.path))
    wide = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2]
    assert wide == []
    if report.card.fusions["attention"]["found"] and family.name not in BIASED:
        assert "If" in _operators(model.graph)  # the two ways through attention, with and without a mask


def test_the_card_and_the_summary_say_what_fp16_changed(tmp_path: Path) -> None:
    from bertonnx.display import summary

    source = save_tiny(tmp_path / "checkpoint")
    said: list[str] = []
    report = bertonnx.export(
        source, tmp_path / "model.onnx", precision="fp16", min_agreement=0.5, progress=said.append
    )
    figures = half_of(report.card)
    assert read_model_file(report.path).card.half == figures
    assert (figures.metric, figures.provider, figures.min_agreement) == ("labels", "cpu", 0.5)
    assert 0.5 <= figures.agreement <= 1.0
    assert figures.texts >= 200
    assert 0 < figures.mean_abs_difference < 0.01
    assert report.card.quantization is None
    assert said[-4:] == [
        "comparing fp16 with fp32",
        "converting to fp16",
        "comparing fp16 with PyTorch",
        "writing the file",
    ]
    lines = "\n".join(map(str, summary(report)))
    assert f"agreement with fp32 {figures.agreement:.2%}" in lines
    assert "fp16" in lines


def test_fp32_says_nothing_of_fp16(tmp_path: Path) -> None:
    report = bertonnx.export(save_tiny(tmp_path / "checkpoint"), tmp_path / "model.onnx")
    assert report.card.half is None


@pytest.mark.parametrize("optimize", ["none", "basic", "full"])
def test_every_optimization_can_be_halved(optimize: str, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", task="feature-extraction")
    report = bertonnx.export(source, tmp_path / "model.onnx", precision="fp16", optimize=optimize)
    assert half_of(report.card).worst > 0.999
    with bertonnx.load(report.path, "cpu") as model:
        assert np.isfinite(model.embed(list(SENTENCES[:8]))).all()


def test_both_ways_through_attention_give_the_same(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", task="feature-extraction")
    path = bertonnx.export(source, tmp_path / "model.onnx", precision="fp16").path
    ids = np.random.default_rng(0).integers(5, 800, (2, 9))
    ones = np.ones_like(ids)
    feeds = {"input_ids": ids, "attention_mask": ones, "token_type_ids": np.zeros_like(ids)}
    padded = {name: np.pad(array, ((0, 0), (0, 4))) for name, array in feeds.items()}
    model = onnx.load(str(path))
    (alone,), (beside,) = (
        run_graph(model, given, ["sentence_embedding"]).values() for given in (feeds, padded)
    )
    np.testing.assert_allclose(alone, beside, atol=5e-3)


def test_a_gpu_is_told_that_nothing_is_padded(tmp_path: Path) -> None:
    from bertonnx.runtime.modelfile.mapped import without_weights
    from bertonnx.runtime.modelfile.unpadded import assume_unpadded
    from bertonnx.runtime.session.session import import_onnxruntime

    path = bertonnx.export(save_tiny(tmp_path / "checkpoint"), tmp_path / "m.onnx", precision="fp16").path
    told = assume_unpadded(without_weights(path))
    assert told is not None
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    ort.InferenceSession(told, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(str(tmp_path / "loaded.onnx"), load_external_data=False).graph
    assert "If" not in _operators(loaded)
    attentions = [node for node in loaded.node if node.op_type == "MultiHeadAttention"]
    assert [len(node.input) for node in attentions] == [3, 3]


# What stays float32 -------------------------------------------------------------------------------


def _graph(
    nodes: list[onnx.NodeProto], outputs: list[str], weights: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _encoder(scale: float = 1.0) -> onnx.ModelProto:
    """Return ids -> embedding -> product -> layer normalization -> logits -> softmax."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.normal(size=(50, 8)).astype(np.float32),
        "w": (scale * rng.normal(size=(8, 8))).astype(np.float32),
        "gamma": np.ones(8, np.float32),
        "beta": np.zeros(8, np.float32),
        "head": rng.normal(size=(8, 3)).astype(np.float32),
        "bias": rng.normal(size=3).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "w"], ["product"]),
        helper.make_node("LayerNormalization", ["product", "gamma", "beta"], ["normed"]),
        helper.make_node("MatMul", ["normed", "head"], ["summed"]),
        helper.make_node("Add", ["summed", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    return _graph(nodes, ["logits", "scores"], weights)


FEEDS = {"input_ids": np.arange(12).reshape(2, 6)}


def test_bodies_are_half_and_ends_are_float32() -> None:
    expected = run_graph(_encoder(), FEEDS, ["logits", "scores"])
    model, counts = changed(_encoder(), ToHalf())
    # The last sum stays float32, and so does the softmax.
    assert counts == [4]
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["bias"] == TensorProto.FLOAT
    assert {types[f"{name}/float16"] for name in ("table", "w", "gamma", "beta", "head")} == {
        TensorProto.FLOAT16
    }
    assert {output.type.tensor_type.elem_type for output in model.graph.output} == {TensorProto.FLOAT}
    # Nothing is cast but what leaves the half: not around the layer normalization, nor after the softmax.
    assert _operators(model.graph).count("Cast") == 1
    actual = run_graph(model, FEEDS, ["logits", "scores"])
    for name in ("logits", "scores"):
        np.testing.assert_allclose(actual[name], expected[name], atol=2e-2)
        assert actual[name].dtype == np.float32


def test_rounding_by_casts_is_what_float16_holds() -> None:
    rounded, counts = changed(_encoder(), RoundToHalf())
    assert counts == [4]
    assert rounded.graph.initializer[0].data_type == TensorProto.FLOAT
    values = run_graph(rounded, FEEDS, ["embedded", "product", "normed", "summed", "logits"])
    for name in ("embedded", "product", "normed", "summed"):
        np.testing.assert_array_equal(values[name], values[name].astype(np.float16).astype(np.float32))
    assert np.any(values["logits"] != values["logits"].astype(np.float16))
    product = values["embedded"] @ numpy_helper.to_array(_weight(rounded, "w/float16"))
    np.testing.assert_allclose(values["product"], product.astype(np.float16), rtol=1e-3)


def _weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def test_rounding_overflows_where_a_gpu_does() -> None:
    exact, rounded = (
        run_graph(model, FEEDS, ["logits"])["logits"]
        for model in (_encoder(1e5), round_to_half(_encoder(1e5)))
    )
    assert np.isfinite(exact).all()
    assert not np.isfinite(rounded).all()


def test_masks_become_the_lowest_number() -> None:
    lowest = np.array(np.finfo(np.float32).min)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Greater", ["input_ids", "limit"], ["masked"]),
        helper.make_node("Unsqueeze", ["masked", "last"], ["mask"]),
        helper.make_node("Where", ["mask", "fill", "embedded"], ["last_hidden_state"]),
    ]
    weights = {
        "table": np.ones((50, 8), np.float32),
        "limit": np.array(5),
        "last": np.array([-1]),
        "fill": lowest.astype(np.float32),
    }
    for convert in (_half, round_to_half):
        values = run_graph(
            convert(_graph(nodes, ["last_hidden_state"], weights)), FEEDS, ["last_hidden_state"]
        )
        assert values["last_hidden_state"].min() == -65504


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    return changed(model, ToHalf())[0]


def test_positions_keep_their_distance() -> None:
    """Of integers above 2,048 float16 knows every other one: an angle of 4,001 must not be that of 4,000."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["position"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["position", "frequency"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["last_hidden_state"]),
    ]
    model = _graph(nodes, ["last_hidden_state"], {"frequency": np.array(0.7, np.float32)})
    feeds = {"input_ids": np.arange(4000, 4012).reshape(2, 6)}
    rounded = run_graph(round_to_half(model), feeds, ["last_hidden_state"])["last_hidden_state"]
    actual = run_graph(_half(model), feeds, ["last_hidden_state"])["last_hidden_state"]
    expected = np.sin(feeds["input_ids"] * 0.7)
    np.testing.assert_allclose(actual, expected, atol=2e-3)
    np.testing.assert_allclose(rounded, expected, atol=2e-3)


def test_constant_nodes_are_halved_within_range() -> None:
    huge = numpy_helper.from_array(np.array(-1e30, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["huge"], value=huge),
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Mul", ["embedded", "huge"], ["last_hidden_state"]),
    ]
    model = _graph(nodes, ["last_hidden_state"], {"table": np.ones((50, 8), np.float32)})
    values = run_graph(_half(model), FEEDS, ["last_hidden_state"])["last_hidden_state"]
    assert set(values.ravel()) == {-65504.0}


# What is refused ----------------------------------------------------------------------------------


def _refused(kind: type[BertonnxError], folder: Path, source: Path, **options: object) -> str:
    with pytest.raises(kind) as caught:
        bertonnx.export(source, folder / "out" / "model.onnx", precision="fp16", **options)  # type: ignore[arg-type]
    assert list((folder / "out").iterdir()) == []
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "question-answering"])
def test_numbers_over_65504_are_refused(task: str, folder: Path) -> None:
    """A layer that overflows in fp16, and that a layer normalization after it hides in fp32."""
    source = save_tiny(folder / "checkpoint", task=task)
    edit_weights(source, lambda weights: {name: _large(name, tensor) for name, tensor in weights.items()})
    exact = bertonnx.export(source, folder / "fp32.onnx")
    assert parity_of(exact.card).max_abs_difference < 1e-4
    message = _refused(PrecisionError, folder, source, min_agreement=0.0)
    assert message.startswith("fp16 fails: ")
    assert message.endswith("no file was written. Export this model without precision='fp16'")


def _large(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 3e5 if name.endswith("layer.0.output.dense.weight") else tensor


@pytest.mark.parametrize("own", [False, True])
def test_too_little_agreement_is_refused_with_what_may_help(
    own: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gate.require_agreement

    def low(reduction: gate.Reduction, figures: AgreementFigures, *, own_texts: bool) -> None:
        real(reduction, replace(figures, agreement=0.9765), own_texts=own_texts)

    monkeypatch.setattr(gate, "require_agreement", low)
    source = save_tiny(folder / "checkpoint")
    options = {"calibration": _own_texts(folder)} if own else {}
    message = _refused(PrecisionError, folder, source, **options)
    assert "fp16 agrees with fp32 to 97.65% (labels) on " in message
    for part in ("99% was asked", "no file was written", "judge on ", "calibration='FILE'"):
        assert part in message
    assert ("more texts" in message) == own
    assert "calibrat" not in message.replace("calibration='FILE'", "")
    assert message.endswith("accept it with min_agreement=0.976; or leave precision='fp16' out")
    bertonnx.export(source, folder / "m.onnx", precision="fp16", min_agreement=0.976)


def _own_texts(folder: Path) -> Path:
    own = folder / "own.txt"
    own.write_text("\n".join(dict.fromkeys(text.replace("\n", " ") for text in SENTENCES if text.strip())))
    return own


def test_too_far_from_pytorch_is_refused(folder: Path) -> None:
    source = save_tiny(folder / "checkpoint")

    def coarse(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add 500 to every number, which float16 then tells apart by quarters, and take it away again."""
        shift, pooler = "bert.encoder.layer.1.output.LayerNorm.bias", "bert.pooler.dense.weight"
        balanced = weights[pooler] - weights[pooler].mean(dim=1, keepdim=True)
        return weights | {shift: weights[shift] + 500, pooler: balanced}

    edit_weights(source, coarse)
    message = _refused(ParityError, folder, source, min_agreement=0.0)
    assert "(fp16); no file was written" in message
    assert message.endswith("leave precision='fp16' out")


def test_options_of_the_gate(folder: Path) -> None:
    source = save_tiny(folder / "checkpoint")
    assert "min_agreement=2.0 is not a share" in _refused(UsageError, folder, source, min_agreement=2.0)
    assert "target is for INT8" in _refused(UsageError, folder, source, target="avx2")
    few = folder / "few.txt"
    few.write_text("one\ntwo\n")
    assert "few.txt" in _refused(InputError, folder, source, calibration=few)
    with pytest.raises(UsageError, match=r"min_agreement is for INT8 and fp16.*precision='fp16'"):
        bertonnx.export(source, folder / "out" / "model.onnx", min_agreement=0.9)


def test_the_users_own_texts_judge(folder: Path) -> None:
    source = save_tiny(folder / "checkpoint")
    own = _own_texts(folder)
    report = bertonnx.export(source, folder / "m.onnx", precision="fp16", calibration=own, min_agreement=0.9)
    assert half_of(report.card).texts == len(own.read_text().splitlines())


# A real model -------------------------------------------------------------------------------------


def test_labels_of_the_sentiment_model(tmp_path: Path) -> None:
    folder = os.environ.get("BERTONNX_SHARED")
    if not folder:
        pytest.skip("real models are needed: set BERTONNX_SHARED to a folder with models/ and data/")
    lines = Path(folder, "data", "sst2_dev.tsv").read_text(encoding="utf-8").splitlines()
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(line.split("\t")[0] for line in lines), encoding="utf-8")
    source = Path(folder, "models", "sst2-minilm")
    half = bertonnx.export(
        source, tmp_path / "fp16.onnx", precision="fp16", calibration=texts, min_agreement=0.999
    )
    assert half_of(half.card).agreement >= 0.999
    assert half_of(half.card).texts > 800
    full = bertonnx.export(source, tmp_path / "fp32.onnx")
    assert half.bytes < 0.52 * full.bytes
    with bertonnx.load(half.path, "cpu") as small, bertonnx.load(full.path, "cpu") as large:
        pairs = list(zip(small.classify(lines), large.classify(lines), strict=True))
    assert np.mean([a["label"] == b["label"] for a, b in pairs]) >= 0.999
