"""The INT8 step of an export: calibrate, smooth, quantise, and judge the outcome."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from bertonnx.errors import QuantizationError, UsageError
from bertonnx.exporters.int8.biased_gelu import BiasGelus
from bertonnx.exporters.int8.biases import SpareBiases
from bertonnx.exporters.int8.calibration import observe
from bertonnx.exporters.int8.layers import RoundWeights, layers_of
from bertonnx.exporters.int8.linear import Shared, find_linears
from bertonnx.exporters.int8.pointwise import ConvolutionsToRows
from bertonnx.exporters.int8.rowwise import PutRowwise
from bertonnx.exporters.int8.smoothing import Smooth
from bertonnx.exporters.int8.tables import QuantizeTables
from bertonnx.exporters.onnxgraph.files import weight_bytes
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import run
from bertonnx.exporters.verify.gate import measure_agreement, measure_latency, require_agreement
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Piece, Row
from bertonnx.runtime.session.cpu import cpu_features
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = [
    "SCHEME",
    "TARGETS",
    "Int8Options",
    "Quantized",
    "judge",
    "quantize_model",
    "require_quantizable",
    "require_unquantized",
    "runs_here",
]

SCHEME = "row-wise dynamic INT8"

TARGETS: Mapping[str, bool] = {"auto": True, "avx2": True, "vnni": False, "arm64": False}
"""Machine -> whether weights must be pair-safe there. "auto" is right on all of them."""


@dataclass(frozen=True)
class Int8Options:
    """What the user said about INT8.

    Attributes:
        calibration: file of texts; None for bertonnx's own.
        min_agreement: least agreement with fp32, from 0 to 1.
        target: one of `TARGETS`.
    """

    calibration: Path | None = None
    min_agreement: float = 0.99
    target: str = "auto"


def runs_here(target: str) -> bool:
    """Say whether this CPU computes what a file for `target` holds, rather than saturating."""
    return TARGETS[target] or not cpu_features().saturates


@dataclass(frozen=True, eq=False)
class Quantized:
    """An INT8 model, and what the card says of how it was made."""

    model: onnx.ModelProto
    facts: Mapping[str, Any]


def require_quantizable(options: Int8Options, *, precision: str, optimize: str) -> None:
    """Refuse options that contradict INT8.

    Raises:
        UsageError: naming the option and what it can be.
    """
    if options.target not in TARGETS:
        raise UsageError(f"--target {options.target} is unknown; it can be {', '.join(TARGETS)}")
    if precision != "fp32":
        raise UsageError(
            f"--quantize makes INT8 of fp32, and --precision {precision} was asked for too; leave one out"
        )
    if optimize != "full":
        raise UsageError(
            f"--quantize needs the fused graph, and --optimize {optimize} was asked for; leave --optimize out"
        )
    if not 0.0 <= options.min_agreement <= 1.0:
        raise UsageError(
            f"--min-agreement {options.min_agreement:g} is not a share; give one from 0 to 1, such as 0.99"
        )


def require_unquantized(config: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint whose weights are quantised already. `config` is config.json.

    Raises:
        QuantizationError: naming the method.
    """
    found = config.get("quantization_config")
    if found:
        method = found.get("quant_method", "unknown") if isinstance(found, Mapping) else "unknown"
        raise QuantizationError(
            f"{what} is quantised already (quantization_config in config.json: {method}), and what that lost "
            "cannot be measured; give --quantize the original checkpoint in fp32, fp16 or bf16"
        )


def quantize_model(model: onnx.ModelProto, pieces: Sequence[Piece], *, target: str) -> Quantized:
    """Return the model in INT8.

    Args:
        model: the optimised fp32 graph; stays as it is.
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
    steps = [
        Smooth(layers),
        RoundWeights(layers, pair_safe=TARGETS[target]),
        SpareBiases(layers),
        PutRowwise(layers),
        QuantizeTables(),
        BiasGelus(),
    ]
    changed = run(steps, graph)
    facts = {
        "scheme": SCHEME,
        "target": target,
        "pair_safe": TARGETS[target],
        "layers": changed[PutRowwise.name],
        "tables": changed[QuantizeTables.name],
        "smoothing_alpha": [layer.alpha for layer in layers],
        "calibration_texts": len(pieces),
        "weights_bytes": weight_bytes(copy),
        "weights_bytes_fp32": weight_bytes(model),
    }
    return Quantized(copy, facts)


def _require_linears(shared: Sequence[Shared]) -> None:
    if not shared:
        raise QuantizationError(
            "INT8 was asked for, and this model cannot have it: it has no linear layer of 16 inputs and "
            "features or more; export it without --quantize"
        )


def judge(
    reference: Session,
    candidate: Session,
    rows: Sequence[Row],
    options: Int8Options,
    *,
    card: Card,
    tokenizer: TextTokenizer,
    tokenizer_text: str,
) -> dict[str, Any]:
    """Measure INT8 against fp32 and return what the card says of it.

    Args:
        reference: the fp32 model.
        candidate: the INT8 model, or its twin in float32 (`exporters.int8.float_twin`) where this CPU cannot
            run it.
        rows: texts to compare on; none of those that calibrated.
        options: what the user accepts.
        card: of both.
        tokenizer: of both.
        tokenizer_text: its `tokenizer.json`.

    Raises:
        QuantizationError: they agree less than the user accepts, or INT8 fails on a text.
    """
    agreement = measure_agreement(
        reference, candidate, rows, card=card, tokenizer=tokenizer, tokenizer_text=tokenizer_text
    )
    require_agreement(agreement, min_agreement=options.min_agreement, own_texts=options.calibration is None)
    figures = {
        "metric": agreement.metric,
        "agreement": agreement.value,
        "worst": agreement.worst,
        "min_agreement": options.min_agreement,
        "texts": agreement.texts,
        "mean_abs_difference": agreement.mean_abs_difference,
        "cpu": cpu_features().model or platform.machine(),
    }
    if not runs_here(options.target):
        return figures
    latency = measure_latency(reference, candidate, rows, tokenizer)
    return {
        **figures,
        "latency_ratio": latency.ratio,
        "latency_fp32_ms": latency.fp32_ms,
        "latency_int8_ms": latency.int8_ms,
        "latency_batch": latency.batch,
        "latency_tokens": latency.tokens,
    }
