"""Labelled rows as what transformers' Trainer takes: token ids with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bertonnx.errors import UnsupportedError
from bertonnx.runtime.evaluation.labelled import MULTI, REGRESSION, Labelled
from bertonnx.runtime.evaluation.tagged import Span, Tagged

__all__ = ["encoded_labels", "encoded_tags", "tag_names", "tag_of"]

_UNMEASURED = -100
"""What PyTorch's cross entropy leaves out: special tokens."""


def encoded_labels(
    data: Labelled, tokenizer: Any, *, names: Sequence[str], max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """Return token ids and labels of whole texts, cut to `max_length` tokens, and how many were cut.

    Labels are places in `names`; of several, 1.0 or 0.0 for each name; of numbers the number.
    """
    pairs = () if data.pairs is None else (data.pairs,)
    encoded = tokenizer(data.texts, *pairs, truncation=True, max_length=max_length)
    rows = [{name: encoded[name][place] for name in encoded} for place in range(len(data))]
    places = {name: place for place, name in enumerate(names)}
    for row, label in zip(rows, data.labels, strict=True):
        if data.kind == REGRESSION:
            row["labels"] = float(label)
        elif data.kind == MULTI:
            row["labels"] = [float(name in label) for name in names]
        else:
            row["labels"] = places[label]
    # Tokenizers that are Python's own do not say.
    return rows, sum(bool(one.overflowing) for one in encoded.encodings or ())


def encoded_tags(
    data: Tagged, tokenizer: Any, *, names: Sequence[str], max_length: int
) -> list[dict[str, Any]]:
    """Return token ids and BIO tags, as places in `names`; long texts in windows that overlap by half.

    Of a word of an entity the first token begins it and the others are inside it.

    Raises:
        UnsupportedError: the tokenizer does not say where its tokens are.
    """
    if not tokenizer.is_fast:
        raise UnsupportedError("this tokenizer does not say where its tokens are, and entities need that")
    encoded = tokenizer(
        data.texts,
        truncation=True,
        max_length=max_length,
        stride=max_length // 4,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    places = {name: place for place, name in enumerate(names)}
    # The offsets and masks are for us; the model takes none of them.
    kept = [name for name in tokenizer.model_input_names if name in encoded]
    rows = []
    for window, text in enumerate(encoded["overflow_to_sample_mapping"]):
        row = {name: encoded[name][window] for name in kept}
        row["labels"] = [
            _UNMEASURED if special or start == end else places[tag_of(start, end, data.spans[text])]
            for (start, end), special in zip(
                encoded["offset_mapping"][window], encoded["special_tokens_mask"][window], strict=True
            )
        ]
        rows.append(row)
    return rows


def tag_names(types: Sequence[str]) -> tuple[str, ...]:
    """Return the BIO tags of types of entities, O first."""
    return ("O", *(f"{prefix}-{name}" for name in types for prefix in ("B", "I")))


def tag_of(start: int, end: int, spans: Sequence[Span]) -> str:
    """Return the BIO tag of a token by the entity that it lies in; places in code points, half open."""
    for span in spans:
        if start < span.end and end > span.start:
            return f"{'B' if start <= span.start else 'I'}-{span.label}"
    return "O"
