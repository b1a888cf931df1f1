"""Labels and scores of whole texts; softmax and sigmoid are in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertonnx.errors import UsageError
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.overlap import weighted_mean
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece
from bertonnx.wording import Option

__all__ = ["ClassificationDecoder", "classification_decoder"]

_THRESHOLD = 0.5

_EACH = "multi_label_classification"


def classification_decoder(context: DecoderContext) -> ClassificationDecoder:
    """Return the decoder of a model that labels whole texts.

    Raises:
        UsageError: a threshold is asked for, and the model gives one label or number.
    """
    card, options = context.card, context.options
    if options.threshold is not None and card.problem_type != _EACH:
        raise UsageError(
            "{asked} is for models that give a text several labels, and this one gives {given}; leave it out",
            asked=Option("threshold", options.threshold),
            given="a number" if card.problem_type == "regression" else "one",
        )
    return ClassificationDecoder(
        card.labels,
        card.problem_type,
        context.top_k,
        output="logits" if options.raw_scores else "scores",
        threshold=_THRESHOLD if options.threshold is None else options.threshold,
    )


@dataclass(frozen=True)
class ClassificationDecoder:
    """Items by problem type.

    - single label: `{"label", "score", "scores": {label: score}}`, all labels in model order;
    - multi-label: `{"labels": [those above the threshold, in model order], "scores"}`;
    - regression: `{"score"}`, or `{"scores"}` where the model has several outputs.

    With `top_k` over 1 the first two also hold `"top": [{"label", "score"}]`, best first. The score
    of several windows is their mean, weighted by their numbers of text tokens.

    Attributes:
        labels: names in the order of the scores (`Card.labels`).
        problem_type: one of `models.tasks.PROBLEM_TYPES`; None counts as single label.
        top_k: how many labels `"top"` lists, at most.
        output: the output of the graph that scores are taken from.
        threshold: of several labels, those are chosen whose score is above it, whatever output is shown.
    """

    labels: tuple[str, ...]
    problem_type: str | None = None
    top_k: int = 1
    output: str = "scores"
    threshold: float = _THRESHOLD

    @property
    def fetch(self) -> tuple[str, ...]:
        """The output that scores are taken from; where logits are shown, also that which chooses labels."""
        return (self.output, "scores") if self._decides_apart else (self.output,)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's scores, float32, `number_of_labels` of each output that is fetched."""
        return np.concatenate([outputs[name] for name in self.fetch], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the row's label or labels, with their scores."""
        values: list[float] = weighted_mean(encoded.pieces, kept).tolist()
        scores = values[: len(self.labels)] if self._decides_apart else values
        if self.problem_type == "regression" and len(scores) == 1:
            return {"score": scores[0]}
        by_label = dict(zip(self.labels, scores, strict=True))
        if self.problem_type == "regression":
            return {"scores": by_label}
        item = self._chosen(scores, by_label, values[-len(scores) :])
        if self.top_k > 1:
            item["top"] = self._top(scores)
        return item

    @property
    def _decides_apart(self) -> bool:
        return self.output != "scores" and self.problem_type == _EACH

    def _chosen(self, scores: list[float], by_label: dict[str, float], decisive: list[float]) -> Item:
        if self.problem_type == _EACH:
            pairs = zip(self.labels, decisive, strict=True)
            above = [label for label, score in pairs if score > self.threshold]
            return {"labels": above, "scores": by_label}
        # The first of equal ones, as argmax takes it.
        best = max(scores)
        return {"label": self.labels[scores.index(best)], "score": best, "scores": by_label}

    def _top(self, scores: list[float]) -> list[Item]:
        # Of equal scores, the label that comes first in the model comes first here: the sort is stable.
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return [{"label": self.labels[i], "score": scores[i]} for i in order[: self.top_k]]
