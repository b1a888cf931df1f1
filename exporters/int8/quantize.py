"""The INT8 step of an export: calibrate, smooth, quantize, and say what that came to."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from bertonnx.errors import QuantizationError
from bertonnx.exporters.int8.biased_gelu import BiasGelus
from bertonnx.exporters.int8.biases import SpareBiases
from bertonnx.exporters.int8.calibration import observe
from bertonnx.exporters.int8.layers import RoundWeights, layers_of
from bertonnx.exporters.int8.pointwise import ConvolutionsToRows
from bertonnx.exporters.int8.rowwise import PutRowwise
from bertonnx.exporters.int8.smoothing import Smooth
from bertonnx.exporters.int8.tables import QuantizeTables
from bertonnx.exporters.onnxgraph.files import weight_bytes
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.linear import Shared, find_linears
from bertonnx.exporters.onnxgraph.step import run
from bertonnx.exporters.options import TARGETS
from bertonnx.exporters.verify.latency import Latency
from bertonnx.models.figures import AgreementFigures, Int8Figures, QuantizedFigures
from bertonnx.runtime.rows import Piece
from bertonnx.runtime.session.cpu import cpu_features
from bertonnx.wording import Option

__all__ = ["SCHEME", "Quantized", "int8_figures", "quantize_model", "require_unquantized", "runs_here"]

SCHEME = "row-wise dynamic INT8"


def runs_here(target: str) -> bool:
    """Say whether this CPU computes what a file for `target` holds, rather than saturating."""
    return TARGETS[target] or not cpu_features().saturates


@dataclass(frozen=True, eq=False)
class Quantized:
    """An INT8 model, and how it was made."""

    model: onnx.ModelProto
    figures: QuantizedFigures


def require_unquantized(config: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint whose weights are quantized already. `config` is config.json.

    Raises:
        QuantizationError: naming the method.
    """
    found = config.get("quantization_config")
    if found:
        raise QuantizationError(
            "{what} is quantized already (quantization_config in config.json: {method}), and what that lost "
            "cannot be measured; give {option} the original checkpoint in fp32, fp16 or bf16",
            what=what,
            method=found.get("quant_method", "unknown") if isinstance(found, Mapping) else "unknown",
            option=Option("quantize", True),
        )


def quantize_model(model: onnx.ModelProto, pieces: Sequence[Piece], *, target: str) -> Quantized:
    """Return the model in INT8.

    Args:
        model: the optimized fp32 graph; stays as it is.
        pieces: what calibration runs, at least one.
        target: one of `TARGETS`.

    Raises:
        QuantizationError: the graph holds no linear layer.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    run([ConvolutionsToRows()], graph)
    shared = find_linears(graph)
    _require_linears(shared)
    layers = layers_of(graph, shared, observe(copy, [group.source for group in shared], pieces))
    # Smoothing changes the weights that are rounded, and rounding the biases that are then moved. GELUs are
    # last: the quantizers behind them show whether their last digits matter.
    steps = [
        Smooth(layers),
        RoundWeights(layers, pair_safe=TARGETS[target]),
        SpareBiases(layers),
        PutRowwise(layers),
        QuantizeTables(),
        BiasGelus(),
    ]
    changed = run(steps, graph)
    figures = QuantizedFigures(
        scheme=SCHEME,
        target=target,
        pair_safe=TARGETS[target],
        layers=changed[PutRowwise.name],
        tables=changed[QuantizeTables.name],
        smoothing_alpha=tuple(layer.alpha for layer in layers),
        calibration_texts=len(pieces),
        weights_bytes=weight_bytes(copy),
        weights_bytes_fp32=weight_bytes(model),
    )
    return Quantized(copy, figures)


def _require_linears(shared: Sequence[Shared]) -> None:
    if not shared:
        raise QuantizationError(
            "INT8 was asked for, and this model cannot have it: it has no linear layer of 16 inputs and "
            "features or more; export it without {option}",
            option=Option("quantize", True),
        )


def int8_figures(made: QuantizedFigures, judged: AgreementFigures, latency: Latency | None) -> Int8Figures:
    """Return all that the card says of INT8; `latency` is None where this CPU cannot run the file."""
    figures = Int8Figures(**vars(made), **vars(judged), cpu=cpu_features().model or platform.machine())
    if latency is None:
        return figures
    return replace(
        figures,
        latency_ratio=latency.ratio,
        latency_fp32_ms=latency.fp32_ms,
        latency_int8_ms=latency.int8_ms,
        latency_batch=latency.batch,
        latency_tokens=latency.tokens,
    )
