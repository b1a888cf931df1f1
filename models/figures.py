"""What was measured at export, as the card keeps it: against PyTorch, and of smaller numbers against fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "TIMES",
    "AgreementFigures",
    "HalfFigures",
    "IndependentParity",
    "Int8Figures",
    "OutputParity",
    "ParityFigures",
    "QuantizedFigures",
    "ScoreFigures",
    "TrainingFigures",
]


@dataclass(frozen=True)
class OutputParity:
    """How far ONNX Runtime is from PyTorch on one output: largest |difference|, largest |reference|."""

    max_abs_difference: float
    max_abs_reference: float


@dataclass(frozen=True, kw_only=True)
class IndependentParity:
    """How far the finished graph is from what a library gives that read the checkpoint by itself.

    Attributes:
        version: of the library.
        texts: how many were compared, those with prompts included.
        tolerance: allowed |difference|, times the larger of 1 and the largest |reference|.
        max_abs_difference: the largest of any output.
        max_abs_reference: the largest of any output.
    """

    version: str
    texts: int
    tolerance: float
    max_abs_difference: float
    max_abs_reference: float


@dataclass(frozen=True, kw_only=True)
class ParityFigures:
    """How far ONNX Runtime is from PyTorch on all of them.

    Attributes:
        tolerance: allowed |difference|, times the larger of 1 and the largest |reference|.
        max_abs_difference: the largest of any output.
        max_abs_reference: the largest of any output.
        outputs: the same of each output, by its name.
        independent: by library, how far it is from the library's own answers.
    """

    tolerance: float
    max_abs_difference: float
    max_abs_reference: float
    outputs: Mapping[str, OutputParity] = field(default_factory=dict)
    independent: Mapping[str, IndependentParity] = field(default_factory=dict)

    @property
    def allowed(self) -> float:
        """How far the export could be from PyTorch."""
        # No ratio below 1: near zero, float32's own rounding would break any.
        return self.tolerance * max(1.0, self.max_abs_reference)


@dataclass(frozen=True, kw_only=True)
class AgreementFigures:
    """How far INT8 or fp16 gives what fp32 gives.

    Attributes:
        metric: "labels", "scores", "order", "entity F1", "answers", "words", "cosine" or "rank correlation",
            or what the task's row compares by.
        agreement: 1 where all agree; of labels, answers and words the share of those that do, of entities
            the F1 of INT8's against fp32's (as CoNLL-2003 counts: the same type, start and end), of
            embeddings the mean cosine, of a regression's scores 1 - mean|difference| / mean|score|.
            Of sparse embeddings the mean rank correlation of all texts' products with each of them.
            Near ties of fp32 count as agreement.
        worst: a stricter figure: of embeddings the least cosine; of sparse ones the least overlap of a text's
            weights; of scores `agreement`; else `agreement` with
            near ties counted as what they are.
        min_agreement: least agreement that was asked for, from 0 to 1.
        texts: how many texts were compared.
        mean_abs_difference: of the task's first output (logits or embeddings).
    """

    metric: str
    agreement: float
    worst: float
    min_agreement: float
    texts: int
    mean_abs_difference: float


@dataclass(frozen=True, kw_only=True)
class HalfFigures(AgreementFigures):
    """The fp16 step: how far it agrees with fp32, every value rounded as fp16 holds it.

    Attributes:
        provider: what ran it when that was measured.
    """

    provider: str


@dataclass(frozen=True, kw_only=True)
class QuantizedFigures:
    """How an INT8 graph was made.

    Attributes:
        scheme: in words.
        target: the machine that it is for, one of `exporters.options.TARGETS`.
        pair_safe: whether sums of products are right on CPUs without VNNI too.
        layers: linear layers in INT8.
        tables: tables of embeddings in INT8.
        smoothing_alpha: of each layer's input: how much of its outliers went into the weights, 0 to 1;
            None where nothing did.
        calibration_texts: texts that it was tuned on.
        weights_bytes: size of all weights.
        weights_bytes_fp32: their size before.
    """

    scheme: str
    target: str
    pair_safe: bool
    layers: int
    tables: int
    smoothing_alpha: tuple[float | None, ...]
    calibration_texts: int
    weights_bytes: int
    weights_bytes_fp32: int


@dataclass(frozen=True, kw_only=True)
class Int8Figures(AgreementFigures, QuantizedFigures):
    """The INT8 step: how it was made, how far it agrees with fp32, and how fast it is.

    Attributes:
        cpu: the CPU on which all of that was measured.
        latency_ratio: how many times faster than fp32 it is there, on one thread; None, as all that follow,
            where that CPU cannot run it.
        latency_fp32_ms: milliseconds a batch.
        latency_int8_ms: milliseconds a batch.
        latency_batch: texts in the batch.
        latency_tokens: tokens in each of them.
    """

    cpu: str
    latency_ratio: float | None = None
    latency_fp32_ms: float | None = None
    latency_int8_ms: float | None = None
    latency_batch: int | None = None
    latency_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingFigures:
    """How a model was trained here, and how good it is on rows that it was not trained on.

    Attributes:
        kind: "head" on the vectors of another file, or "fine-tuning".
        base: what it was made of: {"id", "revision"} of a checkpoint, and of a head also "file_sha256".
        data: "train" and "validation" -> SHA-256, in hex, of the file.
        rows: how many were trained on.
        measured_rows: how many it was measured on.
        seed: of all that was drawn.
        settings: what else was chosen, by the user or by validation.
        scores: name -> figure on the measured rows (`runtime.evaluation.figures.Evaluation.scores`).
        intervals: name -> bounds of its 95% confidence interval.
        labels: label -> {"precision", "recall", "f1", "rows"}.
        confusion: of single labels, (actual, predicted) -> rows.
        ece: expected calibration error, of single labels.
        baselines: name -> figures of something simple on the same rows.
        better: name of a baseline -> whether the model is better than it beyond chance.
        int8: what the figures would be in INT8, where that was measured.
        difference: of a head: largest difference of the file's scores from scikit-learn's.
    """

    kind: str
    base: Mapping[str, str | None]
    data: Mapping[str, str]
    rows: int
    measured_rows: int
    seed: int
    settings: Mapping[str, str | int | float | None]
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    ece: float | None = None
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    better: Mapping[str, bool] = field(default_factory=dict)
    int8: Mapping[str, float] = field(default_factory=dict)
    difference: float | None = None


TIMES = ("latency_ratio", "latency_fp32_ms", "latency_int8_ms", "latency_batch", "latency_tokens")
"""The figures that come out otherwise each time: all else of an export is the same each time."""


@dataclass(frozen=True, kw_only=True)
class ScoreFigures:
    """How scores were calibrated, measured with the finished graph on the labelled texts that it was done by.

    Attributes:
        temperature: what logits are divided by before softmax or sigmoid; the output `logits` has them as
            they were.
        rows: how many labelled texts there were.
        ece_before: expected calibration error without the temperature, in tenths (Guo et al. 2017): of the
            best label, or of each of several labels that may be there.
        ece_after: the same with it.
        nll_before: mean negative log likelihood of the labels without it.
        nll_after: the same with it.
    """

    temperature: float
    rows: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float


Figures = ParityFigures | HalfFigures | Int8Figures | TrainingFigures | ScoreFigures


def as_json(figures: Figures | None) -> dict[str, Any]:
    """Return figures ready for JSON: what was not measured is left out."""
    if figures is None:
        return {}
    return {name: value for name, value in asdict(figures).items() if value is not None}
