"""Zero-shot classification: any labels, by a classifier that was trained on inference (NLI).

As transformers' pipeline does it (`transformers/pipelines/zero_shot_classification.py`): the text is the
premise, each label in a template is a hypothesis, and how far the text entails it is the label's score. Of
long texts the pipeline cuts the premise alone, and so does this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from bertonnx.errors import RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.models.entailment import Inference, inference_of
from bertonnx.runtime.decoders.uses import Answers, Running
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.pairing import Pairing
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece, Row, as_rows
from bertonnx.wording import Option

__all__ = ["EntailmentDecoder", "joined_scores", "require_inference", "zero_shot"]


def zero_shot(running: Running, rows: Iterable[Row | RowError]) -> Answers:
    """Yield for each text how far each label is true of it.

    Items are `{"label", "score", "scores": {label: score}}`, all labels as they were given; with `top_k` over
    1 also `"top": [{"label", "score"}]`, best first; with a threshold also `"labels": [those above it]`.

    Raises:
        UsageError: the model is none of inference, or a label leaves no room for texts.
    """
    options = running.options
    inference = require_inference(running.card, options)
    hypotheses = [_hypothesis(options.template, label) for label in options.labels]
    pairing = Pairing(running.tokenizer, running.card, hypotheses)
    contradiction = inference.entailment if inference.contradiction is None else inference.contradiction
    decoder = EntailmentDecoder(inference.entailment, contradiction, pairing.fixed)
    # Checked before the first row: what follows is a generator.
    return _joined(running, rows, pairing, decoder)


def require_inference(card: Card, options: DecodeOptions) -> Inference:
    """Return which labels of a model mean entailment and contradiction.

    Raises:
        UsageError: it has none such, or they cannot be told from the others.
    """
    if len(card.labels) < 2:
        raise UsageError(
            "zero-shot classification takes a classifier of inference (NLI), and this model has one output: "
            "nothing stands against entailment"
        )
    named = None if options.entailment is None else _label_meant(card, options.entailment)
    found = inference_of(card.labels, named)
    labels = ", ".join(card.labels)
    if found is None:
        raise UsageError(
            "zero-shot classification takes a classifier of inference (NLI), and which of this model's "
            "labels means entailment cannot be told: {labels}; if one of them does, name it with {option}",
            labels=labels,
            option=Option("entailment", "LABEL"),
        )
    if options.multi_label and found.contradiction is None:
        raise UsageError(
            "{asked} weighs entailment against contradiction, and which of this model's labels means "
            "contradiction cannot be told: {labels}; name them in config.json (id2label), and export again",
            asked=Option("multi_label", True),
            labels=labels,
        )
    return found


def _label_meant(card: Card, name: str) -> str:
    if name in card.labels:
        return name
    alike = [label for label in card.labels if label.casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    raise UsageError(
        "{asked}: this model has no such label; it has {labels}",
        asked=Option("entailment", name),
        labels=", ".join(card.labels),
    )


def _hypothesis(template: str, label: str) -> str:
    (row,) = as_rows([template.format(label)])
    if isinstance(row, RowError):
        raise UsageError("{asked}: {why}", asked=Option("labels", [label]), why=row.message)
    return row.text


@dataclass(frozen=True)
class EntailmentDecoder:
    """Items `{"logits": float64 of shape (2,)}` of a text and one hypothesis: entailment, contradiction.

    Those of several windows are their mean, weighted by their numbers of tokens of the text.

    Attributes:
        entailment: place of the label.
        contradiction: place of the label.
        fixed: hypothesis -> how many tokens of a window are not the text's.
    """

    entailment: int
    contradiction: int
    fixed: Mapping[str, int]

    @property
    def fetch(self) -> tuple[str, ...]:
        """Logits, whatever makes scores of them."""
        return ("logits",)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return the two logits, float32 of shape (2,)."""
        return np.array(outputs["logits"][[self.entailment, self.contradiction]], dtype=np.float32)

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the logits of a text and a hypothesis."""
        if len(kept) == 1:
            return {"logits": kept[0].astype(np.float64)}
        beside = self.fixed[encoded.row.pair or ""]
        weights = [len(piece.ids) - beside for piece in encoded.pieces]
        return {"logits": np.average(np.array(kept, dtype=np.float64), axis=0, weights=weights)}


def joined_scores(logits: np.ndarray[tuple[int, int], np.dtype[np.float64]], options: DecodeOptions) -> Array:
    """Return the score of each label, float32 of shape (labels,).

    Scores add up to 1 over the labels; with `multi_label`, or of one label alone, each says by itself how
    likely its hypothesis is, as entailment against contradiction. Raw ones are what softmax is made of.

    Args:
        logits: entailment and contradiction, of shape (labels, 2).
        options: what the user chose.
    """
    # A label alone would always be 1, which says nothing: the pipeline judges it by itself.
    alone = options.multi_label or len(logits) == 1
    if options.raw_scores:
        raw: Array = (logits[:, 0] - logits[:, 1] if alone else logits[:, 0]).astype(np.float32)
        return raw
    against = logits if alone else logits[:, :1].T
    weights = np.exp(against - against.max(axis=1, keepdims=True))
    shares = weights / weights.sum(axis=1, keepdims=True)
    scores: Array = (shares[:, 0] if alone else shares[0]).astype(np.float32)
    return scores


def _joined(
    running: Running, rows: Iterable[Row | RowError], pairing: Pairing, decoder: EntailmentDecoder
) -> Answers:
    many = len(running.options.labels)
    # Texts that were read and whose results are to come: True for one that failed before, and has one result.
    failed: deque[bool] = deque()

    def pairs() -> Iterator[Row | Encoded | RowError]:
        for row in rows:
            texts = row if isinstance(row, RowError) else pairing.of(row)
            failed.append(isinstance(texts, RowError))
            if isinstance(texts, RowError):
                yield texts
            else:
                # One by one: thousands of labels of a text are never held together.
                yield from texts

    with closing(running.run(pairs(), decoder)) as results:
        for first in results:
            if failed.popleft():
                yield first
            else:
                yield _item(chain([first], islice(results, many - 1)), running.options)


def _item(results: Iterable[Item | RowError], options: DecodeOptions) -> Item | RowError:
    logits = np.empty((len(options.labels), 2))
    cut, failed = False, None
    for place, result in enumerate(results):  # to the end, whatever fails: what follows is the next text's
        if isinstance(result, RowError):
            failed = failed or result
        else:
            logits[place] = result["logits"]
            cut |= "truncated" in result
    if failed is not None:
        return failed
    scores = joined_scores(logits, options)
    values: list[float] = scores.tolist()
    # Of equal ones, the label that was given first: the sort is stable.
    order = np.argsort(-scores, kind="stable").tolist()
    best = order[0]
    item: Item = {
        "label": options.labels[best],
        "score": values[best],
        "scores": dict(zip(options.labels, values, strict=True)),
    }
    if options.threshold is not None:
        item["labels"] = [name for name, score in item["scores"].items() if score > options.threshold]
    if (options.top_k or 1) > 1:
        item["top"] = [{"label": options.labels[i], "score": values[i]} for i in order[: options.top_k]]
    if cut:
        item["truncated"] = True
    return item
