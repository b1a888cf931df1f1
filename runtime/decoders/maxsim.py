"""MaxSim: how well the vectors of a document's tokens answer those of a query's.

One function for all faces, so that bits agree. Computed as `maxsim` of Sentence-Transformers
(sentence_transformers/util/similarity.py) and `colbert_score` of FlagEmbedding.
"""

from __future__ import annotations

import numpy as np

from bertonnx.runtime.rows import Array

__all__ = ["NOTHING", "maxsim"]

NOTHING = -1e9
"""The score of a document without any vector, below that of every other; Sentence-Transformers' too."""


def maxsim(query: Array, document: Array, *, mean: bool = False) -> float:
    """Return the sum over a query's vectors of the largest product with one of the document's.

    Args:
        query: float32 of shape (tokens, width).
        document: float32 of shape (tokens, width).
        mean: divide by the number of the query's vectors.

    Returns:
        The score, exactly a float32.
    """
    if not len(document):
        return NOTHING
    if not len(query):
        return 0.0
    best = (query @ document.T).max(axis=1)
    total = best.sum(dtype=np.float64)
    return float(np.float32(total / len(best) if mean else total))
