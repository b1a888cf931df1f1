"""What KerasHub says beside sizes: what makes scores, how texts are split, and where they are cut.

Names and defaults are those of keras-hub 0.32 (models/bert/, tokenizers/word_piece_tokenizer.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.tensorflow.nested import json_of, objects

__all__ = ["head_settings", "longest", "require_followed"]

_PLACES = ("config.json", "task.json", "preprocessor.json", "tokenizer.json")
"""Of an archive all is in the first; a preset has a file for each."""

_CLASSIFIERS = ("BertTextClassifier", "BertClassifier")
_PROBLEMS: Mapping[str, str | None] = {
    "linear": None,
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
}
"""Activation of a classifier of several classes -> problem_type."""

_USUAL: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "BertTokenizer": {
        "split": (True,),
        "suffix_indicator": ("##",),
        "oov_token": ("[UNK]",),
        "special_tokens": (None, []),
    },
    "Preprocessor": {"truncate": ("round_robin",)},
}
"""End of a class's name -> keys that change ids -> the values that bertonnx follows."""


def head_settings(folder: Path) -> dict[str, str]:
    """Return what a classifier's activation is in config.json of transformers.

    Raises:
        UnsupportedError: there is no such activation.
    """
    for name, config in _said(folder):
        if name not in _CLASSIFIERS or config.get("activation") is None:
            continue
        activation = config["activation"]
        if activation not in _PROBLEMS:
            raise UnsupportedError(
                "{folder}: its classifier has the activation {activation}, and bertonnx follows {known}",
                folder=folder,
                activation=activation,
                known=", ".join(_PROBLEMS),
            )
        problem = _PROBLEMS[activation]
        # Of one class, a sigmoid is what is made of its logit anyway.
        return {} if problem is None or config.get("num_classes") == 1 else {"problem_type": problem}
    return {}


def longest(folder: Path) -> int | None:
    """Return how many tokens of a text are read; None where nothing says it."""
    given = [config.get("sequence_length") for name, config in _said(folder) if name.endswith("Preprocessor")]
    known = [length for length in given if isinstance(length, int)]
    return min(known, default=None)


def require_followed(folder: Path) -> None:
    """Refuse a tokenizer that splits texts in another way than BERT's.

    Raises:
        CheckpointError: naming the key.
    """
    for name, config in _said(folder):
        for end, keys in _USUAL.items():
            for key, usual in keys.items() if name.endswith(end) else ():
                if key in config and config[key] not in usual:
                    raise CheckpointError(
                        "{folder}: its {kind} has {key} {value!r}, and bertonnx follows {usual}",
                        folder=folder,
                        kind=name,
                        key=key,
                        value=config[key],
                        usual=usual[0],
                    )


def _said(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the class and the settings of each part."""
    for place in _PLACES:
        for one in objects(json_of(folder / place)):
            if isinstance(one.get("class_name"), str) and isinstance(one.get("config"), Mapping):
                yield one["class_name"], one["config"]
