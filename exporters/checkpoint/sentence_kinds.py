"""The kinds of model that Sentence-Transformers saves: which modules each has, and what they must make.

Names are those of `model_type` in config_sentence_transformers.json. The task that each is exported for is in
the row of that task (`models.tasks.Task.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bertonnx.exporters.checkpoint.sentence_layers import SCORES, SENTENCE, TOKENS

__all__ = ["COLBERT", "CROSSES", "EMBEDS", "KINDS", "LATE", "SPARSE", "Kind"]

EMBEDS, CROSSES, SPARSE = "SentenceTransformer", "CrossEncoder", "SparseEncoder"
LATE, COLBERT = "MultiVectorEncoder", "ColBERT"
"""A vector for each token: Sentence-Transformers' name for it, and PyLate's."""

_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
"""`SimilarityFunction` of sentence-transformers 5.7 and 6.2."""

# What compares single vectors is passed over for many, and PyLate has capitals in its name.
_LATE_SIMILARITIES = ("maxsim", "meanmaxsim", "MaxSim", *_SIMILARITIES)

_TOKENS = ("Transformer", "Dense", "LayerNorm", "Normalize", "Dropout", "MultiVectorMask")
_COMMON = ("Transformer", "Dense", "LayerNorm", "Normalize", "Dropout")


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        modules: the modules that are exported.
        result: the name of the value that they must make.
        hint: the module that may be missing where they do not.
        reads: what a module reads that does not say it.
        similarities: how its embeddings may be compared.
        words: whether its transformer gives logits of words; else it gives token vectors.
    """

    modules: tuple[str, ...]
    result: str
    hint: str
    reads: str = SENTENCE
    similarities: tuple[str, ...] = _SIMILARITIES
    words: bool = False


KINDS: Mapping[str, Kind] = {
    EMBEDS: Kind((*_COMMON[:1], "Pooling", *_COMMON[1:]), SENTENCE, "a Pooling"),
    CROSSES: Kind((*_COMMON[:1], "Pooling", *_COMMON[1:]), SCORES, "a Dense with module_output_name scores"),
    SPARSE: Kind(("Transformer", "MLMTransformer", "SpladePooling"), SENTENCE, "a SpladePooling", words=True),
    LATE: Kind(_TOKENS, TOKENS, "a Dense", reads=TOKENS, similarities=_LATE_SIMILARITIES),
    COLBERT: Kind(_TOKENS, TOKENS, "a Dense", reads=TOKENS, similarities=_LATE_SIMILARITIES),
}
