"""What Sentence-Transformers' SparseEncoder itself gives (as `exporters.verify.independent`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.verify.independent import Answers, opened
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Row

__all__ = ["sparse_answers"]


def sparse_answers(checkpoint: Checkpoint, card: Card, rows: Sequence[Row]) -> list[Answers]:
    """Return the weights of all words, as the graph gives them: the heaviest are picked behind it."""
    model = opened("SparseEncoder", checkpoint)
    model.max_seq_length = card.max_length
    model.max_active_dims = None
    found: list[Answers] = []
    for row in rows:
        vector = model.encode(
            [row.text],
            prompt_name=row.prompt or None,
            convert_to_sparse_tensor=False,
            show_progress_bar=False,
        )
        found.append({"sparse_embedding": np.asarray(vector[0], dtype=np.float32)})
    return found
