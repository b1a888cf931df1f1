"""fp16 against fp32: do the answers agree? The same gate as INT8's, on what a GPU would compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertonnx.errors import UsageError
from bertonnx.exporters.verify.gate import measure_agreement, require_agreement
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Row
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["HalfOptions", "judge_half", "require_halvable"]


@dataclass(frozen=True)
class HalfOptions:
    """What the user said about fp16.

    Attributes:
        calibration: file of texts to judge by; None for bertonnx's own.
        min_agreement: least agreement with fp32, from 0 to 1.
    """

    calibration: Path | None = None
    min_agreement: float = 0.99


def require_halvable(options: HalfOptions) -> None:
    """Refuse options that cannot be.

    Raises:
        UsageError: naming the option and what it can be.
    """
    if not 0.0 <= options.min_agreement <= 1.0:
        raise UsageError(
            f"--min-agreement {options.min_agreement:g} is not a share; give one from 0 to 1, such as 0.99"
        )


def judge_half(
    reference: Session,
    candidate: Session,
    rows: Sequence[Row],
    options: HalfOptions,
    *,
    card: Card,
    tokenizer: TextTokenizer,
    tokenizer_text: str,
) -> dict[str, Any]:
    """Measure fp16 against fp32 and return what the card says of it.

    Args:
        reference: the fp32 model.
        candidate: the model whose every value is rounded as fp16 holds it
            (`exporters.fp16.half.round_to_half`).
        rows: texts to compare on.
        options: what the user accepts.
        card: of both.
        tokenizer: of both.
        tokenizer_text: its `tokenizer.json`.

    Raises:
        QuantizationError: they agree less than the user accepts, or fp16 fails on a text, or overflows.
    """
    agreement = measure_agreement(
        reference,
        candidate,
        rows,
        card=card,
        tokenizer=tokenizer,
        tokenizer_text=tokenizer_text,
        precision="fp16",
    )
    require_agreement(
        agreement,
        min_agreement=options.min_agreement,
        own_texts=options.calibration is None,
        precision="fp16",
    )
    return {
        "metric": agreement.metric,
        "agreement": agreement.value,
        "worst": agreement.worst,
        "min_agreement": options.min_agreement,
        "texts": agreement.texts,
        "mean_abs_difference": agreement.mean_abs_difference,
        "provider": candidate.provider,
    }
