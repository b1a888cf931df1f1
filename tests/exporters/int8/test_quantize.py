"""INT8 from the outside: every family, the file, the card, the gate, and what is refused."""

from __future__ import annotations

import json
import platform
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bertonnx
from bertonnx.display import card_lines
from bertonnx.errors import (
    BertonnxError,
    InputError,
    ProviderError,
    QuantizationError,
    RowError,
    UsageError,
)
from bertonnx.exporters.int8.quantize import int8_figures
from bertonnx.exporters.verify import gate
from bertonnx.exporters.verify.latency import Latency
from bertonnx.models.card import CARD_KEY, lasting
from bertonnx.models.families import Family
from bertonnx.models.figures import AgreementFigures, QuantizedFigures
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Encoded, Row, as_rows
from bertonnx.runtime.session.cpu import CpuFeatures, cpu_features
from bertonnx.runtime.session.session import import_onnxruntime, open_session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import COMMAND_LINE
from tests.cells import Cells
from tests.corpus import SENTENCES
from tests.figures import INT8_FIGURES, int8_of
from tests.tiny import one_of_each, save_tiny

_ERROR = 0.05
"""Allowed median error of outputs as part of their spread, of two layers: at widths of 16 to 64, errors do
not average out as they do at 384. Errors of more layers (ALBERT's run six times) add up as the root of their
number."""

_LARGEST = 1e4
"""What is beyond is no result: BigBird subtracts a million where no answer can be."""

_STOCK: dict[str, dict[str, Any]] = {
    "per channel": {"per_channel": True, "reduce_range": True},
    "U8U8": {"weight_type": "QUInt8"},
}


def _id(value: object) -> str:
    return value.name if isinstance(value, Family) else str(value)


def _outputs(path: Path, exact: bertonnx.ExportReport) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a file's first output for some texts as `exact` reads them, all numbers one after the other."""
    card = exact.card
    texts = [f"{text} {card.mask_token or ''}" for text in SENTENCES[:20]]
    pairs = texts[::-1] if card.task == "question-answering" else None
    rows = [row for row in as_rows(texts, pairs) if isinstance(row, Row)]
    tokenizer = TextTokenizer(read_model_file(exact.path).tokenizer, card)
    session = open_session(path, card, LoadOptions(provider="cpu"))
    parts = []
    for item in tokenizer.encode(rows):
        assert isinstance(item, Encoded)
        ids, types = item.pieces[0].ids[None], item.pieces[0].type_ids[None]
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        parts.append(session.run(card.outputs[:1], {name: feeds[name] for name in session.inputs})[0].ravel())
    return np.concatenate(parts)


@pytest.mark.parametrize(("family", "task"), one_of_each(0), ids=_id)
def test_a_cell(family: Family, task: str, cell: Cells, tmp_path: Path) -> None:
    exact = cell(family.name, task).report
    report = bertonnx.export(
        cell(family.name, task).checkpoint, tmp_path / "int8.onnx", quantize=True, min_agreement=0.0
    )
    assert report.card.precision == "int8"
    assert int8_of(report.card).layers >= 6
    assert report.golden is not None
    assert report.golden.max_abs_difference <= report.golden.tolerance

    expected = _outputs(exact.path, exact)
    usual = np.abs(expected) < _LARGEST
    errors = np.abs(_outputs(report.path, exact) - expected)[usual]
    assert errors.mean() > 0
    layers = max(2, report.card.fusions["attention"]["expected"])
    assert np.median(errors) < _ERROR * (layers / 2) ** 0.5 * expected[usual].std()
    for name, options in _STOCK.items():
        stock = _outputs(_stock(exact.path, tmp_path / f"{name}.onnx", **options), exact)
        lost = np.abs(stock - expected)[usual].mean()
        assert errors.mean() < lost, f"{errors.mean() / lost:.2f} times the error of stock {name}"
    _independent_of_the_batch(report)


def _stock(source: Path, target: Path, *, weight_type: str = "QInt8", **options: bool) -> Path:
    """Quantize the fp32 file as ONNX Runtime itself does."""
    import_onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        weight_type=QuantType[weight_type],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        **options,
    )
    return target


def _independent_of_the_batch(report: bertonnx.ExportReport) -> None:
    texts = [f"{text} {report.card.mask_token or ''}" for text in SENTENCES[:16]]
    pairs = texts[::-1] if report.card.task == "question-answering" else None
    with bertonnx.load(report.path, threads=1) as one, bertonnx.load(report.path, threads=2) as two:
        together = list(one.stream(as_rows(texts, pairs)))
        backwards = list(two.stream(as_rows(texts[::-1], pairs[::-1] if pairs else None)))[::-1]
        alone = [
            next(iter(one.stream(as_rows([t], [pairs[i]] if pairs else None)))) for i, t in enumerate(texts)
        ]
    assert not any(isinstance(item, RowError) for item in together)
    for first, second, third in zip(together, backwards, alone, strict=True):
        assert _bits(first) == _bits(second) == _bits(third)


def _bits(item: Any) -> Any:
    if isinstance(item, dict):
        return {
            key: value.tobytes() if isinstance(value, np.ndarray) else value for key, value in item.items()
        }
    return item


def test_the_card_says_what_int8_changed(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint")
    said: list[str] = []
    report = bertonnx.export(
        source, tmp_path / "model.onnx", quantize=True, min_agreement=0.5, progress=said.append
    )
    figures = int8_of(report.card)
    with bertonnx.load(report.path) as model:
        assert model.card.quantization == figures
    assert figures.scheme == "row-wise dynamic INT8"
    assert (figures.metric, figures.target, figures.pair_safe) == ("labels", "auto", True)
    assert 0.5 <= figures.agreement <= 1.0
    assert figures.texts == figures.calibration_texts == 128
    assert figures.latency_batch == 8
    assert figures.latency_tokens == 32
    assert figures.latency_fp32_ms is not None
    assert figures.latency_int8_ms is not None
    assert figures.latency_ratio == pytest.approx(figures.latency_fp32_ms / figures.latency_int8_ms)
    assert 0 < figures.weights_bytes < figures.weights_bytes_fp32
    assert any("INT8" in text for text in said)


def test_two_exports_differ_in_times_alone(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", "bert", "text-ranking")
    contents = []
    for name in ("one.onnx", "two.onnx"):
        options: dict[str, Any] = {"quantize": True, "min_agreement": 0.5}
        path = bertonnx.export(source, tmp_path / name, **options).path
        model = onnx.load(str(path))
        card = next(entry for entry in model.metadata_props if entry.key == CARD_KEY)
        assert json.loads(card.value)["measured"]["latency_batch"] == 8
        assert "latency_ratio" not in json.loads(card.value)["quantization"]
        card.value = lasting(card.value)
        contents.append(model.SerializeToString())
        bertonnx.check(path)
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("name", "noted"), [("Neoverse", "Neoverse"), ("", platform.machine())])
def test_the_card_names_a_cpu_that_has_no_name(
    name: str, noted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.exporters.int8 import quantize

    monkeypatch.setattr(quantize, "cpu_features", lambda: CpuFeatures("arm64", name, (), known=True))
    made = QuantizedFigures(
        **{item.name: getattr(INT8_FIGURES, item.name) for item in fields(QuantizedFigures)}
    )
    judged = AgreementFigures(
        **{item.name: getattr(INT8_FIGURES, item.name) for item in fields(AgreementFigures)}
    )
    figures = int8_figures(made, judged, Latency(3.0, 1.5, 8, 32))
    assert figures.cpu == noted != ""
    assert (figures.latency_fp32_ms, figures.latency_int8_ms, figures.latency_ratio) == (3.0, 1.5, 2.0)
    assert (figures.latency_batch, figures.latency_tokens) == (8, 32)
    assert int8_figures(made, judged, None) == replace(INT8_FIGURES, cpu=noted)


def test_check_finds_a_changed_int8_weight(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint")
    report = bertonnx.export(source, tmp_path / "model.onnx", quantize=True, min_agreement=0.0)
    assert bertonnx.check(report.path, "cpu").max_abs_difference == 0.0
    model = onnx.load(str(report.path))
    weight = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8)
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    report.path.write_bytes(model.SerializeToString())
    with pytest.raises(BertonnxError, match="weights"):
        bertonnx.check(report.path, "cpu")


def test_check_says_where_a_cpu_would_saturate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported where VNNI is, checked where it is not."""
    from bertonnx.exporters.int8 import quantize
    from bertonnx.runtime.session import cpu

    source = save_tiny(tmp_path / "checkpoint")
    there = CpuFeatures("x86_64", "Sapphire Rapids", ("avx2", "avx512_vnni"), known=True)
    here = CpuFeatures("x86_64", "Milan", ("avx2",), known=True)
    for module in (cpu, quantize):
        monkeypatch.setattr(module, "cpu_features", lambda: there)
    options: dict[str, Any] = {"quantize": True, "min_agreement": 0.0}
    unsafe = bertonnx.export(source, tmp_path / "vnni.onnx", target="vnni", **options)
    safe = bertonnx.export(source, tmp_path / "auto.onnx", **options)
    bertonnx.check(unsafe.path, "cpu")
    monkeypatch.setattr(cpu, "cpu_features", lambda: here)
    with pytest.raises(ProviderError, match=r"target='vnni'.*no VNNI.*target='auto'"):
        bertonnx.check(unsafe.path, "cpu")
    bertonnx.check(safe.path, "cpu")


@pytest.mark.parametrize("target", ["vnni", "arm64"])
def test_a_file_for_another_cpu_is_judged_without_that_cpu(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.exporters.int8 import quantize
    from bertonnx.runtime.session import cpu

    here = CpuFeatures("x86_64", "Milan", ("avx2",), known=True)
    there = CpuFeatures("x86_64", "Sapphire Rapids", ("avx2", "avx512_vnni"), known=True)
    monkeypatch.setattr(quantize, "cpu_features", lambda: here)
    monkeypatch.setattr(cpu, "cpu_features", lambda: here)
    source = save_tiny(tmp_path / "checkpoint")
    options: dict[str, Any] = {"quantize": True, "min_agreement": 0.0}
    report = bertonnx.export(source, tmp_path / "model.onnx", target=target, **options)
    figures = int8_of(report.card)
    assert figures.agreement > 0.5
    assert figures.latency_int8_ms is None
    assert "latency_int8_ms" not in report.card.as_dict()["quantization"]
    assert report.golden is None
    assert any("bertonnx.check('model.onnx')" in note for note in report.notes)
    said = [message.worded(COMMAND_LINE) for message in report.messages]
    assert any("type: bertonnx check model.onnx" in line for line in said)
    assert "Milan would saturate" in "".join(map(str, card_lines(report.card, report.bytes)))
    with pytest.raises(ProviderError, match="no VNNI"):
        bertonnx.load(report.path, "cpu")
    # Where it can run, its golden examples, made in float32, hold.
    monkeypatch.setattr(cpu, "cpu_features", lambda: there)
    if not cpu_features().saturates:
        assert bertonnx.check(report.path, "cpu").examples > 0
        bertonnx.load(report.path, "cpu").close()


def test_the_gate_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertonnx.exporters.int8 import layers, pairsafe

    def broken(weight: Any, sample: Any = None, *, pair_safe: bool, spread: Any = None) -> Any:
        quantized, scales = pairsafe.quantize_weight(weight, sample, pair_safe=pair_safe, spread=spread)
        return quantized[::-1].copy(), scales

    monkeypatch.setattr(layers, "quantize_weight", broken)
    source = save_tiny(tmp_path / "checkpoint", task="feature-extraction")
    with pytest.raises(QuantizationError, match="min_agreement"):
        bertonnx.export(source, tmp_path / "model.onnx", quantize=True)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_gate_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = gate.require_agreement

    def low(reduction: gate.Reduction, figures: AgreementFigures, *, own_texts: bool) -> None:
        real(reduction, replace(figures, agreement=0.98), own_texts=own_texts)

    monkeypatch.setattr(gate, "require_agreement", low)
    source = save_tiny(tmp_path / "checkpoint")
    output = tmp_path / "model.onnx"
    output.write_bytes(b"precious")
    with pytest.raises(QuantizationError, match="no file was written"):
        bertonnx.export(source, output, quantize=True, force=True)
    assert output.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "model.onnx"]


def test_the_users_texts_are_used(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(SENTENCES[:50]))
    source = save_tiny(tmp_path / "checkpoint")
    report = bertonnx.export(
        source, tmp_path / "model.onnx", quantize=True, calibration=texts, min_agreement=0.0
    )
    assert int8_of(report.card).texts == int8_of(report.card).calibration_texts == 25


def _refused(error: type[BertonnxError], tmp_path: Path, **options: Any) -> str:
    source = save_tiny(tmp_path / "checkpoint")
    with pytest.raises(error) as caught:
        bertonnx.export(source, tmp_path / "model.onnx", **options)
    assert not (tmp_path / "model.onnx").exists()
    return str(caught.value)


def test_fp16_and_int8_contradict_each_other(tmp_path: Path) -> None:
    message = _refused(UsageError, tmp_path, quantize=True, precision="fp16")
    assert "quantize=True" in message
    assert "precision='fp16'" in message


@pytest.mark.parametrize("optimize", ["none", "basic"])
def test_int8_needs_the_fused_graph(optimize: str, tmp_path: Path) -> None:
    assert f"optimize='{optimize}'" in _refused(UsageError, tmp_path, quantize=True, optimize=optimize)


def test_an_unknown_target_lists_those_there_are(tmp_path: Path) -> None:
    message = _refused(UsageError, tmp_path, quantize=True, target="sse")
    assert "auto, avx2, vnni, arm64" in message


@pytest.mark.parametrize("share", [-0.1, 99.0, float("nan")])
def test_agreement_is_a_share(share: float, tmp_path: Path) -> None:
    assert "from 0 to 1" in _refused(UsageError, tmp_path, quantize=True, min_agreement=share)


def test_calibration_without_int8_is_a_mistake(tmp_path: Path) -> None:
    assert "add quantize=True" in _refused(UsageError, tmp_path, calibration=tmp_path / "texts.txt")


def test_an_empty_calibration_file_is_refused(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n")
    assert "holds 0 different texts" in _refused(InputError, tmp_path, quantize=True, calibration=texts)


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantizationError, match=r"quantized already .*gptq"):
        bertonnx.export(source, tmp_path / "model.onnx", quantize=True)
