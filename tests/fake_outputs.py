"""Sessions whose outputs follow from the ids, for what compares two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.options import ExportOptions
from bertonnx.exporters.verify.gate import INT8, Reduction, judge
from bertonnx.models.card import Card
from bertonnx.models.figures import AgreementFigures
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.rows import Array, Row
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer
from tests.corpus import SENTENCES
from tests.tokenizers_zoo import wordpiece

__all__ = ["ANY", "LABELS", "TOKENIZER", "WIDTH", "Fake", "card_of", "judged", "rows_of"]

LABELS = ("O", "B-PER", "I-PER")
TOKENIZER = wordpiece().to_str()
WIDTH = {"feature-extraction": 8, "text-ranking": 1, "fill-mask": wordpiece().get_vocab_size()}

ANY = ExportOptions(quantize=True, min_agreement=0.0)
"""Whatever INT8 costs is accepted."""


@dataclass
class Fake:
    """A session whose outputs follow from the ids, with noise on some texts."""

    outputs: tuple[str, ...]
    task: str
    wide: int
    noise: float = 0.0
    share: float = 1.0
    provider: str = "cpu"
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    def run(
        self,
        outputs: Sequence[str],
        feeds: Mapping[str, npt.NDArray[np.int64]],
        *,
        alone: bool = False,  # noqa: ARG002
    ) -> list[Array]:
        return [np.stack([self._one(name, row) for row in feeds["input_ids"]]) for name in outputs]

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:
        rng = np.random.default_rng(ids)
        per_token = self.task in ("token-classification", "fill-mask")
        shape = (len(ids),) if "_logits" in name else (len(ids), self.wide) if per_token else (self.wide,)
        values = rng.normal(size=shape)
        if rng.random() < self.share:
            values = values + self.noise * rng.normal(size=shape)
        if name == "scores" and self.wide > 1:
            values = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
        return values.astype(np.float32)


def card_of(task: str, **changes: Any) -> Card:
    card = Card(
        task=task,
        family="bert",
        max_length=64,
        inputs=("input_ids", "attention_mask"),
        outputs=tuple(task_named(task).outputs),
        labels=LABELS if "classification" in task else (),
        problem_type="single_label_classification" if task == "text-classification" else None,
        activation="softmax" if "classification" in task else "none",
        width=8,
        mask_token="[MASK]",
        mask_token_id=wordpiece().token_to_id("[MASK]"),
    )
    return replace(card, **changes)


def rows_of(task: str) -> list[Row]:
    if task_named(task).pairs == "always":
        return [Row("Who was it?", text) for text in SENTENCES[:60]]
    mask = " [MASK]" if task == "fill-mask" else ""
    return [Row(text[:80] + mask) for text in SENTENCES[:60]]


def judged(
    reference: Session,
    candidate: Session,
    rows: Sequence[Row],
    card: Card,
    *,
    options: ExportOptions = ANY,
    reduction: Reduction = INT8,
) -> AgreementFigures:
    """Judge one session by another; by default, whatever is found is accepted."""
    context = DecoderContext(card, TextTokenizer(TOKENIZER, card))
    return judge(reduction, reference, candidate, rows, options=options, context=context)
