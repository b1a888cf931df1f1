"""Labels and scores of whole texts; softmax and sigmoid are in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.overlap import weighted_mean
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece

__all__ = ["ClassificationDecoder", "classification_decoder"]

_THRESHOLD = 0.5


def classification_decoder(context: DecoderContext) -> ClassificationDecoder:
    """Return the decoder of a model that labels whole texts."""
    card, raw = context.card, context.options.raw_scores
    return ClassificationDecoder(
        card.labels,
        card.problem_type,
        context.top_k,
        output="logits" if raw else "scores",
        # Where a sigmoid gives a half.
        threshold=0.0 if raw and card.activation == "sigmoid" else _THRESHOLD,
    )


@dataclass(frozen=True)
class ClassificationDecoder:
    """Items by problem type.

    - single label: `{"label", "score", "scores": {label: score}}`, all labels in model order;
    - multi-label: `{"labels": [those above 0.5, in model order], "scores"}`;
    - regression: `{"score"}`, or `{"scores"}` where the model has several outputs.

    With `top_k` over 1 the first two also hold `"top": [{"label", "score"}]`, best first. The score
    of several windows is their mean, weighted by their numbers of text tokens.

    Attributes:
        labels: names in the order of the scores (`Card.labels`).
        problem_type: one of `models.tasks.PROBLEM_TYPES`; None counts as single label.
        top_k: how many labels `"top"` lists, at most.
        output: the output of the graph that scores are taken from.
        threshold: of several labels, those above it are chosen.
    """

    labels: tuple[str, ...]
    problem_type: str | None = None
    top_k: int = 1
    output: str = "scores"
    threshold: float = _THRESHOLD

    @property
    def fetch(self) -> tuple[str, ...]:
        """The output that scores are taken from."""
        return (self.output,)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's scores, float32 of shape (number_of_labels,)."""
        return np.array(outputs[self.output], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's label or labels, with their scores."""
        scores: list[float] = weighted_mean(encoded.pieces, kept).tolist()
        if self.problem_type == "regression" and len(scores) == 1:
            return {"score": scores[0]}
        by_label = dict(zip(self.labels, scores, strict=True))
        if self.problem_type == "regression":
            return {"scores": by_label}
        item = self._chosen(scores, by_label)
        if self.top_k > 1:
            item["top"] = self._top(scores)
        return item

    def _chosen(self, scores: list[float], by_label: dict[str, float]) -> Item:
        if self.problem_type == "multi_label_classification":
            above = [label for label, score in by_label.items() if score > self.threshold]
            return {"labels": above, "scores": by_label}
        # The first of equal ones, as argmax takes it.
        best = max(scores)
        return {"label": self.labels[scores.index(best)], "score": best, "scores": by_label}

    def _top(self, scores: list[float]) -> list[Item]:
        # Of equal scores, the label that comes first in the model comes first here: the sort is stable.
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return [{"label": self.labels[i], "score": scores[i]} for i in order[: self.top_k]]
