"""The kinds of model that Sentence-Transformers saves: which modules each has, and what they must make.

Names are those of `model_type` in config_sentence_transformers.json. The task that each is exported for is in
the row of that task (`models.tasks.Task.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bertonnx.exporters.checkpoint.sentence_layers import SCORES, SENTENCE

__all__ = ["CROSSES", "EMBEDS", "KINDS", "SPARSE", "Kind"]

EMBEDS, CROSSES, SPARSE = "SentenceTransformer", "CrossEncoder", "SparseEncoder"

_COMMON = ("Transformer", "Dense", "LayerNorm", "Normalize", "Dropout")


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        modules: the modules that are exported.
        result: the name of the value that they must make.
        hint: the module that may be missing where they do not.
        words: whether its transformer gives logits of words; else it gives token vectors.
    """

    modules: tuple[str, ...]
    result: str
    hint: str
    words: bool = False


KINDS: Mapping[str, Kind] = {
    EMBEDS: Kind((*_COMMON[:1], "Pooling", *_COMMON[1:]), SENTENCE, "a Pooling"),
    CROSSES: Kind((*_COMMON[:1], "Pooling", *_COMMON[1:]), SCORES, "a Dense with module_output_name scores"),
    SPARSE: Kind(("Transformer", "MLMTransformer", "SpladePooling"), SENTENCE, "a SpladePooling", words=True),
}
