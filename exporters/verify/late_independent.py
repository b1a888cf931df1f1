"""What SparseEncoder and MultiVectorEncoder of Sentence-Transformers themselves give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.verify.independent import Answers, opened
from bertonnx.models.card import Card
from bertonnx.models.retrieval import QUERY
from bertonnx.runtime.rows import Row

__all__ = ["sparse_answers", "vectors_answers"]


def vectors_answers(checkpoint: Checkpoint, card: Card, rows: Sequence[Row]) -> list[Answers]:
    """Return the vectors of all tokens, those too that are left out behind the graph.

    Raises:
        CannotCheckError: the installed version has no such model, or cannot open it.
    """
    model = opened("MultiVectorEncoder", checkpoint)
    model.max_seq_length = card.max_length
    found: list[Answers] = []
    for row in rows:
        encode = model.encode_query if row.prompt == QUERY else model.encode_document
        (raw,) = encode([row.text], output_value=None, show_progress_bar=False)
        found.append({"token_embeddings": raw["token_embeddings"].float().numpy()})
    return found


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
