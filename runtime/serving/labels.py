"""Labels with their scores, best first, whatever kind of classifier they are of."""

from __future__ import annotations

from typing import Any

from bertonnx.models.card import Card
from bertonnx.runtime.rows import Item

__all__ = ["ranked_labels"]


def ranked_labels(card: Card, item: Item) -> list[dict[str, Any]]:
    """Return `{"score", "label"}` for each label of a result; of equal scores the model's first."""
    scores = item.get("scores")
    if scores is None:
        # Regression has one number, and its label is what the checkpoint called it.
        scores = {card.labels[0] if card.labels else "score": item["score"]}
    # The sort is stable.
    return [
        {"score": scores[label], "label": label}
        for label in sorted(scores, key=scores.__getitem__, reverse=True)
    ]
