"""The whole export: options, report, card, and that it says nothing by itself."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto

import bertonnx
from bertonnx.errors import FusionError, UnsupportedError, UsageError
from bertonnx.runtime.modelfile.modelfile import read_model_file, weights_sha256
from tests.checkpoints import edit_weights
from tests.corpus import SENTENCES
from tests.figures import parity_of
from tests.tiny import save_tiny

TEXTS = list(SENTENCES[:12])


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("convert") / "checkpoint", task="feature-extraction")


@pytest.fixture(scope="module")
def report(embedder: Path) -> bertonnx.ExportReport:
    return bertonnx.export(embedder, embedder.parent / "model.onnx")


def _embed(path: Path) -> Any:
    with bertonnx.load(path, "cpu") as model:
        return model.embed(TEXTS)


def test_what_the_report_says(report: bertonnx.ExportReport, embedder: Path) -> None:
    assert report.path == embedder.parent / "model.onnx"
    assert report.sidecar is None
    assert report.bytes == report.path.stat().st_size
    assert report.golden is not None
    assert report.golden.max_abs_difference == 0
    assert report.golden.provider == "cpu"
    assert any("feature-extraction" in note for note in report.notes)
    assert read_model_file(report.path).card == report.card


def test_what_the_card_says(report: bertonnx.ExportReport) -> None:
    card = report.card
    assert (card.task, card.family, card.precision, card.optimize) == (
        "feature-extraction",
        "bert",
        "fp32",
        "full",
    )
    assert (card.pooling, card.normalize, card.width, card.max_length) == ("mean", False, 32, 96)
    assert card.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert card.outputs == ("sentence_embedding", "last_hidden_state")
    assert card.fusions["attention"] == {"found": 2, "expected": 2}
    assert card.fusions["gelu"] == {"found": 2, "expected": 2}
    assert card.fusions["layer_norm"] == {"found": 5, "expected": 5}
    assert card.weights_sha256 == weights_sha256(report.path)
    parity = parity_of(card)
    assert set(parity.outputs) == set(card.outputs)
    assert parity.tolerance == 1e-4
    assert 0 < parity.max_abs_difference < 1e-4 * max(1, parity.max_abs_reference)
    assert card.source["kind"]
    assert card.source["id"] == "checkpoint"
    assert card.saved_by == {"transformers": transformers.__version__}
    folder = report.path.parent / "checkpoint"
    assert card.files["model.safetensors"] == sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(card.files)
    assert set(card.files) <= {path.name for path in folder.iterdir()}
    assert {"bertonnx", "onnx", "onnxruntime", "optimum", "torch", "transformers"} <= set(card.versions)


def test_the_file_holds_nothing_of_the_exporting_machine(
    report: bertonnx.ExportReport, embedder: Path
) -> None:
    model = onnx.load(str(report.path))
    data = model.SerializeToString()
    assert model.producer_name == "bertonnx"
    assert str(embedder.parent).encode() not in data
    assert b"/tmp/" not in data
    assert b"site-packages" not in data


def test_exporting_twice_gives_the_same_bytes(
    report: bertonnx.ExportReport, embedder: Path, tmp_path: Path
) -> None:
    again = bertonnx.export(embedder, tmp_path / "model.onnx")
    assert again.path.read_bytes() == report.path.read_bytes()


def test_the_library_prints_nothing(
    embedder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    path = bertonnx.export(embedder, tmp_path / "model.onnx", progress=steps.append).path
    _embed(path)
    assert capfd.readouterr() == ("", "")
    assert steps == [
        "reading the checkpoint",
        "tracing the graph",
        "optimizing the graph",
        "comparing with PyTorch",
        "writing the file",
    ]


@pytest.mark.parametrize("optimize", ["none", "basic"])
def test_less_optimization_changes_speed_and_not_results(
    optimize: str, report: bertonnx.ExportReport, embedder: Path, tmp_path: Path
) -> None:
    less = bertonnx.export(embedder, tmp_path / "model.onnx", optimize=optimize)
    assert (less.card.optimize, less.card.fusions) == (optimize, {})
    operators = {node.op_type for node in onnx.load(str(less.path)).graph.node}
    assert "Softmax" in operators
    assert "MultiHeadAttention" not in operators
    np.testing.assert_allclose(_embed(less.path), _embed(report.path), atol=1e-4)


@pytest.mark.parametrize("task", ["feature-extraction", "text-classification", "fill-mask"])
def test_half_precision(task: str, tmp_path: Path) -> None:
    source = save_tiny(
        tmp_path / "checkpoint", task=task, hidden_size=128, intermediate_size=256, initializer_range=0.1
    )
    full = bertonnx.export(source, tmp_path / "full.onnx")
    half = bertonnx.export(source, tmp_path / "half.onnx", precision="fp16")
    assert half.card.precision == "fp16"
    assert parity_of(half.card).tolerance == 2e-2
    sizes = [
        sum(len(tensor.raw_data) for tensor in onnx.load(str(path)).graph.initializer)
        for path in (full.path, half.path)
    ]
    assert 0.48 < sizes[1] / sizes[0] < 0.6
    model = onnx.load(str(half.path))
    assert {output.type.tensor_type.elem_type for output in model.graph.output} == {TensorProto.FLOAT}
    texts = [f"{text} {full.card.mask_token or ''}" for text in TEXTS]
    with bertonnx.load(half.path, "cpu") as small, bertonnx.load(full.path, "cpu") as large:
        for text in texts:
            small.predict([text])
        if task == "feature-extraction":
            got, expected = small.embed(texts), large.embed(texts)
            assert got.dtype == np.float32
            assert 0 < np.abs(got - expected).max() < 2e-2 * np.abs(expected).max()
    # Meant for CUDA: on a CPU, ONNX Runtime's products of fp16 round a batch in another way than one text.
    assert bertonnx.check(half.path, "cpu").max_abs_difference < 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_of_half_precision_is_exported_in_full(dtype: torch.dtype, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint")
    edit_weights(source, lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).split(".")[1]}))
    report = bertonnx.export(source, tmp_path / "model.onnx")
    assert report.card.precision == "fp32"
    types = {tensor.data_type for tensor in onnx.load(str(report.path)).graph.initializer}
    assert TensorProto.FLOAT in types
    assert not types & {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@pytest.mark.parametrize("pooling", ["cls", "max", "last"])
def test_pooling(pooling: str, report: bertonnx.ExportReport, embedder: Path, tmp_path: Path) -> None:
    other = bertonnx.export(embedder, tmp_path / "model.onnx", pooling=pooling)
    assert other.card.pooling == pooling
    assert np.abs(_embed(other.path) - _embed(report.path)).max() > 0.1


def test_normalize(report: bertonnx.ExportReport, embedder: Path, tmp_path: Path) -> None:
    unit = bertonnx.export(embedder, tmp_path / "model.onnx", normalize=True)
    assert unit.card.normalize
    plain = _embed(report.path)
    np.testing.assert_allclose(
        _embed(unit.path), plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5
    )


def test_max_length(embedder: Path, tmp_path: Path) -> None:
    report = bertonnx.export(embedder, tmp_path / "model.onnx", max_length=20)
    assert report.card.max_length == 20
    with bertonnx.load(report.path) as model:
        assert model.predict(["the film " * 50])[0]["truncated"] is True
        assert len(model.tokenize(["the film " * 50])[0].pieces[0].ids) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision='fp8' is unknown; it can be fp32, fp16"),
        ({"optimize": "more"}, "optimize='more' is unknown; it can be none, basic, full"),
        ({"task": "translation"}, "task='translation' is unknown; it can be feature-extraction, text"),
        ({"pooling": "median"}, "pooling='median' is unknown; it can be mean, cls, max, last"),
    ],
)
def test_options_that_do_not_exist(
    options: dict[str, Any], message: str, embedder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        bertonnx.export(embedder, tmp_path / "model.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_the_checkpoint_cannot_serve_lists_those_it_can(embedder: Path, tmp_path: Path) -> None:
    with pytest.raises(bertonnx.BertonnxError) as caught:
        bertonnx.export(embedder, tmp_path / "model.onnx", task="question-answering")
    assert "feature-extraction" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_the_family_cannot_serve_lists_those_it_can(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", "esm", "feature-extraction")
    with pytest.raises(UnsupportedError, match="what works: task='feature-extraction'"):
        bertonnx.export(source, tmp_path / "model.onnx", task="question-answering")


def test_attention_that_was_not_found_in_every_layer_gives_no_file(
    embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.exporters.steps import attention

    real = attention._match
    matched: list[object] = []

    def match_once(graph: Any, node: onnx.NodeProto) -> Any:
        match = real(graph, node)
        if match is not None:
            matched.append(match)
        return match if len(matched) < 2 else None

    monkeypatch.setattr(attention, "_match", match_once)
    with pytest.raises(
        FusionError, match=r"attention was fused in 1 of 2 layers of this bert model.*no file was"
    ):
        bertonnx.export(embedder, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("family", "key"), [("deberta", "talking_head"), ("ibert", "quant_mode")])
def test_a_key_that_makes_another_attention_is_named(tmp_path: Path, family: str, key: str) -> None:
    config: dict[str, Any] = {key: True, "num_hidden_layers": 1}
    source = save_tiny(tmp_path / "source", family, "feature-extraction", **config)
    with pytest.raises(FusionError, match=f"config.json has {key} true: .* so it would be slow; no file was"):
        bertonnx.export(source, tmp_path / "model.onnx")
    assert bertonnx.export(source, tmp_path / "model.onnx", optimize="basic").path.is_file()


def test_a_tokenizer_that_adds_no_tokens(tmp_path: Path) -> None:
    # Of an empty text it makes none at all, which PyTorch fails on as well.
    source = save_tiny(tmp_path / "m", task="text-classification")
    state = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(json.dumps({**state, "post_processor": None}))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(TEXTS[0])["input_ids"]])).logits
    path = bertonnx.export(source, tmp_path / "model.onnx").path
    with bertonnx.load(path, "cpu") as opened:
        (item,) = opened.classify(TEXTS[:1])
    assert [*item["scores"].values()] == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-5)
    assert "" not in [example["text"] for example in read_model_file(path).golden if "outputs" in example]
