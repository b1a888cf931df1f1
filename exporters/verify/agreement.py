"""How close two models' answers are, task by task: what the row's `comparison` names.

Agreement is measured on what a user gets (labels, entities, answers, words, embeddings), through the
runtime's own decoders. Where fp32 itself can hardly choose between two answers, which of them INT8 gives is
chance, and says nothing of what INT8 lost. Such a near tie (`_NEARLY`) counts as agreement, and stands
beside it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertonnx.models.activations import ACTIVATIONS
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.decoders.ranking import RankingDecoder
from bertonnx.runtime.rows import Array, Decoder, Encoded, Item, Outputs, Piece

__all__ = [
    "Closeness",
    "Comparison",
    "compare_answers",
    "compare_classes",
    "compare_embeddings",
    "compare_entities",
    "compare_masks",
    "compare_ranks",
]

_CANDIDATES = 10

_NEARLY = 0.8
"""INT8's answer counts as fp32's where fp32 holds it at least this many times as probable as its own:
of two labels, 44.4% against 55.6%."""

_TIE = 0.1
"""Two texts are a near tie where their logits differ by no more of the standard deviation of all logits."""


class Closeness(NamedTuple):
    """How close INT8's or fp16's answers are to fp32's.

    Attributes:
        metric: what is counted, as `models.figures.AgreementFigures` lists them.
        value: 1 where all agree.
        worst: a stricter figure.
    """

    metric: str
    value: float
    worst: float


Pairs = Sequence[tuple[Item, Item]]
"""Items of fp32 and of INT8, text by text."""


@dataclass(frozen=True)
class Comparison:
    """How two models of a task are compared.

    Attributes:
        decoder: what makes items of both models' outputs.
        compare: what compares these items.
    """

    decoder: Decoder
    compare: Callable[[Pairs], Closeness]


def compare_embeddings(context: DecoderContext) -> Comparison:
    """Compare embeddings by their cosine."""
    return Comparison(decoder_for(context), _cosines)


def compare_classes(context: DecoderContext) -> Comparison:
    """Compare labels of whole texts, or a regression's numbers."""
    if context.card.problem_type == "regression":
        return Comparison(decoder_for(context), _numbers)
    row = ACTIVATIONS[context.card.activation]
    return Comparison(decoder_for(context), partial(_labels, tied=_TIED.get(row.scale, _never)))


def compare_entities(context: DecoderContext) -> Comparison:
    """Compare entities by type and span."""
    decoder = decoder_for(context)
    return Comparison(_Undecoded(decoder), partial(_entities, decoder))


def compare_answers(context: DecoderContext) -> Comparison:
    """Compare answers by their place in the context."""
    return Comparison(_several(context), _answers)


def compare_ranks(context: DecoderContext) -> Comparison:  # noqa: ARG001
    """Compare the order of texts by their logits: scores of a sigmoid are all 1 where logits are high."""
    return Comparison(RankingDecoder(fetch=("logits",)), _ranks)


def compare_masks(context: DecoderContext) -> Comparison:
    """Compare the words that masks are filled with."""
    return Comparison(_several(context), _words)


def _several(context: DecoderContext) -> Decoder:
    """Return the decoder that lists so many candidates that one of INT8's is among them if it is near."""
    return decoder_for(replace(context, options=replace(context.options, top_k=_CANDIDATES)))


@dataclass(frozen=True)
class _Undecoded:
    """Makes items `{"encoded", "kept"}`, which `decoder` decodes once near ties are settled."""

    decoder: Decoder

    @property
    def fetch(self) -> tuple[str, ...]:
        return self.decoder.fetch

    def keep(self, piece: Piece, outputs: Outputs) -> Any:
        return self.decoder.keep(piece, outputs)

    def decode(self, encoded: Encoded, kept: Sequence[Any]) -> Item:
        return {"encoded": encoded, "kept": list(kept)}


def _cosines(pairs: Pairs) -> Closeness:
    first, second = (
        np.array([item["embedding"] for item in side], dtype=np.float64) for side in zip(*pairs, strict=True)
    )
    # Divided by lengths here, as embeddings are not normalized unless the checkpoint asks for it.
    # Numbers that are not finite are refused by name elsewhere.
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = (first * second).sum(axis=1) / np.maximum(lengths, 1e-30)
    return Closeness("cosine", float(cosines.mean()), float(cosines.min()))


def _numbers(pairs: Pairs) -> Closeness:
    first, second = (
        np.array([_all_scores(item) for item in side], dtype=np.float64) for side in zip(*pairs, strict=True)
    )
    # Relative to the numbers' own size, since a regression may be over stars or over dollars.
    value = 1 - float(np.abs(first - second).mean() / max(np.abs(first).mean(), 1e-30))
    return Closeness("scores", value, value)


def _all_scores(item: Item) -> list[float]:
    return list(item["scores"].values()) if "scores" in item else [item["score"]]


def _never(score: float, best: float) -> bool:  # noqa: ARG001
    """Say of numbers of no known scale that none is as good as the best."""
    return False


_TIED: Mapping[str, Callable[[float, float], bool]] = {
    "probability": lambda score, best: score >= _NEARLY * best,
    "logit": lambda score, best: math.exp(score - best) >= _NEARLY,
}
"""Scale of scores (`models.activations`) -> whether a label's score makes it a near tie of the best."""


def _labels(pairs: Pairs, *, tied: Callable[[float, float], bool]) -> Closeness:
    if "labels" in pairs[0][0]:
        same = [a["labels"] == b["labels"] for a, b in pairs]
        near = [all(_near(a["scores"][label]) for label in {*a["labels"]} ^ {*b["labels"]}) for a, b in pairs]
    else:
        same = [a["label"] == b["label"] for a, b in pairs]
        near = [tied(a["scores"][b["label"]], a["score"]) for a, b in pairs]
    return _shares("labels", same, near)


def _ranks(pairs: Pairs) -> Closeness:
    first, second = (
        np.array([item["score"] for item in side], dtype=np.float64) for side in zip(*pairs, strict=True)
    )
    upper = np.triu_indices(len(first), k=1)
    lead, other = ((side[:, None] - side)[upper] for side in (first, second))
    # As numbers have no scale of their own, two texts are a near tie by the spread of all.
    near = np.abs(lead) <= _TIE * first.std()
    same = np.sign(lead) == np.sign(other)
    # One text is in order whatever it gets.
    return _shares("order", same, near) if len(lead) else Closeness("order", 1.0, 1.0)


def _near(probability: float) -> bool:
    """Say whether yes and no are a near tie."""
    low, high = sorted((probability, 1 - probability))
    return low >= _NEARLY * high


def _entities(decoder: Decoder, pairs: Pairs) -> Closeness:
    # Near ties are settled token by token: one token's label may join or split whole entities.
    expected, exact, settled = [], [], []
    for first, second in pairs:
        expected.append(_spans(decoder, first["encoded"], first["kept"]))
        exact.append(_spans(decoder, first["encoded"], second["kept"]))
        kept = [_settled(a, b) for a, b in zip(first["kept"], second["kept"], strict=True)]
        settled.append(_spans(decoder, first["encoded"], kept))
    return Closeness("entity F1", _f1(expected, settled), _f1(expected, exact))


Spans = set[tuple[str, int, int]]


def _spans(decoder: Decoder, encoded: Encoded, kept: Sequence[Array]) -> Spans:
    return {(e["entity"], e["start"], e["end"]) for e in decoder.decode(encoded, kept)["entities"]}


def _settled(expected: Array, actual: Array) -> Array:
    """Return INT8's scores, (tokens, labels), with fp32's where INT8's label is a near tie of fp32's."""
    chosen = np.take_along_axis(expected, actual.argmax(axis=-1)[:, None], axis=-1)
    return np.where(chosen >= _NEARLY * expected.max(axis=-1, keepdims=True), expected, actual)


def _f1(expected: Sequence[Spans], actual: Sequence[Spans]) -> float:
    both = sum(len(first & second) for first, second in zip(expected, actual, strict=True))
    total = sum(map(len, expected)) + sum(map(len, actual))
    # No entity on either side is full agreement, not a division by zero.
    return 2 * both / total if total else 1.0


def _answers(pairs: Pairs) -> Closeness:
    found = [_among(a["answers"], b["answers"], ("start", "end")) for a, b in pairs]
    return _shares("answers", *zip(*found, strict=True))


def _words(pairs: Pairs) -> Closeness:
    masks = [mask for a, b in pairs for mask in zip(a["masks"], b["masks"], strict=True)]
    return _shares("words", *zip(*(_among(a, b, ("token_id",)) for a, b in masks), strict=True))


def _among(expected: Sequence[Item], actual: Sequence[Item], keys: Sequence[str]) -> tuple[bool, bool]:
    """Say whether the best candidates are the same, and whether INT8's is at least a near tie of fp32's."""
    names = [tuple(item[key] for key in keys) for item in (*expected, actual[0])]
    wanted = [item for item, name in zip(expected, names, strict=False) if name == names[-1]]
    # Measured in fp32's scores: an answer that INT8 holds for likely proves nothing of itself.
    near = any(item["score"] >= _NEARLY * expected[0]["score"] for item in wanted)
    return names[0] == names[-1], near


Flags = Sequence[bool] | npt.NDArray[np.bool_]


def _shares(metric: str, same: Flags, near: Flags) -> Closeness:
    return Closeness(metric, float(np.mean(np.logical_or(same, near))), float(np.mean(same)))
