"""INT8 or fp16 against fp32 on this machine: do the answers agree, and is INT8 faster?

Agreement is measured on what a user gets (labels, entities, answers, words, embeddings), through the
runtime's own engine and decoders; beside it stands the mean difference of the raw outputs.

Where fp32 itself can hardly choose between two answers, which of them INT8 gives is chance, and says
nothing of what INT8 lost. Such a near tie (`_NEARLY`) counts as agreement, and stands beside it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import QuantizationError, RowError
from bertonnx.models.card import Card
from bertonnx.models.tasks import task
from bertonnx.runtime.decoders.answers import AnswerDecoder
from bertonnx.runtime.decoders.classification import ClassificationDecoder
from bertonnx.runtime.decoders.embeddings import EmbeddingDecoder
from bertonnx.runtime.decoders.entities import EntityDecoder, subword_rule
from bertonnx.runtime.decoders.masks import MaskDecoder
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.rows import Array, Decoder, Encoded, Item, Outputs, Piece, Row
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Agreement", "Latency", "measure_agreement", "measure_latency", "require_agreement"]

_ROUNDS = 5
_BATCH, _LENGTH = 8, 32
_RAW_ROWS = 256
_CANDIDATES = 10

_NEARLY = 0.8
"""INT8's answer counts as fp32's where fp32 holds it at least this many times as probable as its own:
of two labels, 44.4% against 55.6%."""

_NO_TEXTS = (
    "none of the calibration texts could be predicted, so {precision} cannot be judged; give other texts "
    "with --calibration FILE"
)

_OPTIONS = {"INT8": "--quantize", "fp16": "--precision fp16"}
"""What is judged here -> the option that asks for it."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """How far INT8 or fp16 gives what fp32 gives.

    Attributes:
        metric: "labels", "scores", "entity F1", "answers", "words" or "cosine".
        value: 1 where all agree; of labels, answers and words the share of those that do, of entities
            the F1 of INT8's against fp32's (as CoNLL-2003 counts: the same type, start and end), of
            embeddings the mean cosine, of a regression's scores 1 - mean|difference| / mean|score|.
            Near ties of fp32 count as agreement.
        worst: a stricter figure: of embeddings the least cosine; of scores `value`; else `value` with
            near ties counted as what they are.
        texts: how many texts were compared.
        mean_abs_difference: of the task's first output (logits or embeddings).
    """

    metric: str
    value: float
    worst: float
    texts: int
    mean_abs_difference: float


@dataclass(frozen=True)
class Latency:
    """How long both take on one thread, each the best of several.

    Attributes:
        fp32_ms: milliseconds a batch.
        int8_ms: milliseconds a batch.
        batch: texts in the batch.
        tokens: in each of them.
    """

    fp32_ms: float
    int8_ms: float
    batch: int = _BATCH
    tokens: int = _LENGTH

    @property
    def ratio(self) -> float:
        """How many times faster INT8 is."""
        return self.fp32_ms / self.int8_ms


def measure_agreement(
    reference: Session,
    candidate: Session,
    rows: Sequence[Row],
    *,
    card: Card,
    tokenizer: TextTokenizer,
    tokenizer_text: str,
    precision: str = "INT8",
) -> Agreement:
    """Run all rows through both sessions and compare the answers.

    Args:
        reference: the fp32 model.
        candidate: the INT8 or fp16 model.
        rows: at least one; those that fp32 cannot predict are left out.
        card: of both.
        tokenizer: for both.
        tokenizer_text: its `tokenizer.json`.
        precision: what the candidate is, as errors call it: "INT8" or "fp16".

    Raises:
        QuantizationError: fp32 predicts no row, or the candidate fails on one that fp32 predicts.
    """
    decoder, compare = _judged_by(card, tokenizer, tokenizer_text)
    expected = list(
        zip(rows, _items(reference, tokenizer, rows, decoder, task(card.task).outputs), strict=True)
    )
    good = [(row, item) for row, item in expected if not isinstance(item, RowError)]
    if not good:
        raise QuantizationError(_NO_TEXTS.format(precision=precision))
    rows = [row for row, _ in good]
    actual = _predicted(_items(candidate, tokenizer, rows, decoder, task(card.task).outputs), precision)
    pairs = [(item, other) for (_, item), other in zip(good, actual, strict=True)]
    metric, value, worst = compare(pairs)
    raw = list(_raw_outputs(reference, candidate, rows, tokenizer, output=card.outputs[0]))
    if any(np.isfinite(a).all() and not np.isfinite(b).all() for a, b in raw):
        raise QuantizationError(
            _failure("it puts out numbers that are not finite where fp32's are", precision)
        )
    difference = sum(float(np.abs(a - b).mean()) for a, b in raw) / len(raw)
    return Agreement(metric, value, worst, len(pairs), difference)


def _predicted(items: Sequence[Item | RowError], precision: str) -> list[Item]:
    """Return the items; a model that fails on a text is refused, whatever agreement was asked for."""
    errors = [item for item in items if isinstance(item, RowError)]
    if errors:
        what = f"on {len(errors)} of {len(items)} texts that fp32 predicts"
        raise QuantizationError(_failure(f"{what}, first with: {errors[0]}", precision))
    return [item for item in items if not isinstance(item, RowError)]


def _failure(how: str, precision: str) -> str:
    return f"{precision} fails: {how}; no file was written. Export this model without {_OPTIONS[precision]}"


def require_agreement(
    agreement: Agreement, *, min_agreement: float, own_texts: bool, precision: str = "INT8"
) -> None:
    """Refuse INT8 or fp16 that agrees less than was asked.

    Args:
        agreement: what was measured.
        min_agreement: from 0 to 1.
        own_texts: whether the texts were bertonnx's, because the user gave none.
        precision: "INT8" or "fp16".

    Raises:
        QuantizationError: naming what may help.
    """
    if agreement.value >= min_agreement:
        return
    verb, held_out = (
        ("calibrate", " that were held out of calibration") if precision == "INT8" else ("judge", "")
    )
    texts = (
        f"{verb} on texts of the kind that the model reads with --calibration FILE"
        if own_texts
        else f"{verb} on more texts, or on some nearer to what the model reads, with --calibration FILE"
    )
    raise QuantizationError(
        f"{precision} agrees with fp32 to {_floored(agreement.value, 4):.2%} ({agreement.metric}) on "
        f"{agreement.texts} texts{held_out}, and {100 * min_agreement:g}% was asked; no file was written. To "
        f"mend it: {texts}; accept it with --min-agreement {_floored(agreement.value, 3):g}; or leave "
        f"{_OPTIONS[precision]} out"
    )


def _floored(share: float, digits: int) -> float:
    """Round down: a share that was refused must not read as the one that was asked for."""
    return float(np.floor(share * 10**digits) / 10**digits)


def measure_latency(
    reference: Session, candidate: Session, rows: Sequence[Row], tokenizer: TextTokenizer
) -> Latency:
    """Time both sessions on one batch, in turns, so that both meet the same disturbances.

    The batch holds the longest of some rows 8 times, cut at 32 tokens.

    Raises:
        QuantizationError: none of the rows has a token to time.
    """
    feeds = _batch(rows, tokenizer)
    best = {0: float("inf"), 1: float("inf")}
    turns = ((0, reference), (1, candidate))
    for number in range(_ROUNDS + 1):  # the best of them is never the first, which warms up
        for which, session in turns if number % 2 else reversed(turns):
            inputs = {name: feeds[name] for name in session.inputs}
            start = time.perf_counter()
            session.run(session.outputs, inputs)
            best[which] = min(best[which], time.perf_counter() - start)
    return Latency(best[0] * 1e3, best[1] * 1e3, *feeds["input_ids"].shape)


def _batch(rows: Sequence[Row], tokenizer: TextTokenizer) -> Mapping[str, Ids]:
    encoded = [item.pieces[0] for item in tokenizer.encode(rows[:64]) if isinstance(item, Encoded)]
    pieces = [piece for piece in encoded if len(piece.ids)]
    if not pieces:
        raise QuantizationError(_NO_TEXTS.format(precision="INT8"))
    longest = max(pieces, key=lambda piece: len(piece.ids))
    ids = np.repeat(longest.ids[None, :_LENGTH], _BATCH, axis=0)
    types = np.repeat(longest.type_ids[None, :_LENGTH], _BATCH, axis=0)
    return _feeds(ids, types)


def _items(
    session: Session,
    tokenizer: TextTokenizer,
    rows: Sequence[Row],
    decoder: Decoder,
    outputs: Mapping[str, Sequence[str]],
) -> list[Item | RowError]:
    with closing(Engine(session, tokenizer, threads=1, outputs=outputs)) as engine:
        return list(engine.map(rows, decoder))


Compared = Sequence[tuple[Item, Item]]
"""Items of fp32 and of INT8, text by text."""

Figures = tuple[str, float, float]
"""Metric, value and worst, as in `Agreement`."""


def _judged_by(
    card: Card, tokenizer: TextTokenizer, tokenizer_text: str
) -> tuple[Decoder, Callable[[Compared], Figures]]:
    """Return what decodes a model's outputs, and what compares the items that it makes."""
    if card.task == "feature-extraction":
        return EmbeddingDecoder(card.normalize), _cosines
    if card.task == "text-classification":
        compare = _scores if card.problem_type == "regression" else _labels
        return ClassificationDecoder(card.labels, card.problem_type, 1), compare
    if card.task == "token-classification":
        decoder = EntityDecoder(card.labels, "simple", subword_rule(tokenizer_text))
        return _Undecoded(decoder), partial(_entities, decoder)
    if card.task == "question-answering":
        return AnswerDecoder(_CANDIDATES), _answers
    mask, mask_id = card.mask_token or "", card.mask_token_id or 0
    return MaskDecoder(mask, mask_id, card.pad_token_id, tokenizer.decode_ids, _CANDIDATES), _words


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


def _cosines(pairs: Compared) -> Figures:
    first, second = (
        np.array([item["embedding"] for item in side], dtype=np.float64) for side in zip(*pairs, strict=True)
    )
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(axis=1) / np.maximum(lengths, 1e-30)
    return "cosine", float(cosines.mean()), float(cosines.min())


def _scores(pairs: Compared) -> Figures:
    first, second = (
        np.array([_numbers(item) for item in side], dtype=np.float64) for side in zip(*pairs, strict=True)
    )
    value = 1 - float(np.abs(first - second).mean() / max(np.abs(first).mean(), 1e-30))
    return "scores", value, value


def _numbers(item: Item) -> list[float]:
    return list(item["scores"].values()) if "scores" in item else [item["score"]]


def _labels(pairs: Compared) -> Figures:
    if "labels" in pairs[0][0]:
        same = [a["labels"] == b["labels"] for a, b in pairs]
        near = [all(_near(a["scores"][label]) for label in {*a["labels"]} ^ {*b["labels"]}) for a, b in pairs]
    else:
        same = [a["label"] == b["label"] for a, b in pairs]
        near = [a["scores"][b["label"]] >= _NEARLY * a["score"] for a, b in pairs]
    return _shares("labels", same, near)


def _near(probability: float) -> bool:
    """Say whether yes and no are a near tie."""
    low, high = sorted((probability, 1 - probability))
    return low >= _NEARLY * high


def _entities(decoder: EntityDecoder, pairs: Compared) -> Figures:
    expected, exact, settled = [], [], []
    for first, second in pairs:
        expected.append(_spans(decoder, first["encoded"], first["kept"]))
        exact.append(_spans(decoder, first["encoded"], second["kept"]))
        kept = [_settled(a, b) for a, b in zip(first["kept"], second["kept"], strict=True)]
        settled.append(_spans(decoder, first["encoded"], kept))
    return "entity F1", _f1(expected, settled), _f1(expected, exact)


Spans = set[tuple[str, int, int]]


def _spans(decoder: EntityDecoder, encoded: Encoded, kept: Sequence[Array]) -> Spans:
    return {(e["entity"], e["start"], e["end"]) for e in decoder.decode(encoded, kept)["entities"]}


def _settled(expected: Array, actual: Array) -> Array:
    """Return INT8's scores, (tokens, labels), with fp32's where INT8's label is a near tie of fp32's."""
    chosen = np.take_along_axis(expected, actual.argmax(axis=-1)[:, None], axis=-1)
    return np.where(chosen >= _NEARLY * expected.max(axis=-1, keepdims=True), expected, actual)


def _f1(expected: Sequence[Spans], actual: Sequence[Spans]) -> float:
    both = sum(len(first & second) for first, second in zip(expected, actual, strict=True))
    total = sum(map(len, expected)) + sum(map(len, actual))
    return 2 * both / total if total else 1.0


def _answers(pairs: Compared) -> Figures:
    found = [_among(a["answers"], b["answers"], ("start", "end")) for a, b in pairs]
    return _shares("answers", *zip(*found, strict=True))


def _words(pairs: Compared) -> Figures:
    masks = [mask for a, b in pairs for mask in zip(a["masks"], b["masks"], strict=True)]
    return _shares("words", *zip(*(_among(a, b, ("token_id",)) for a, b in masks), strict=True))


def _among(expected: Sequence[Item], actual: Sequence[Item], keys: Sequence[str]) -> tuple[bool, bool]:
    """Say whether the best candidates are the same, and whether INT8's is at least a near tie of fp32's."""
    names = [tuple(item[key] for key in keys) for item in (*expected, actual[0])]
    wanted = [item for item, name in zip(expected, names, strict=False) if name == names[-1]]
    near = any(item["score"] >= _NEARLY * expected[0]["score"] for item in wanted)
    return names[0] == names[-1], near


def _shares(metric: str, same: Sequence[bool], near: Sequence[bool]) -> Figures:
    return metric, float(np.mean(np.logical_or(same, near))), float(np.mean(same))


def _raw_outputs(
    reference: Session, candidate: Session, rows: Sequence[Row], tokenizer: TextTokenizer, *, output: str
) -> Iterator[tuple[Array, Array]]:
    """Yield both sessions' output for some rows, one by one, without the batch dimension."""
    for item in tokenizer.encode(rows[:_RAW_ROWS]):
        if isinstance(item, Encoded):
            feeds = _feeds(item.pieces[0].ids[None], item.pieces[0].type_ids[None])
            first, second = (
                session.run([output], {key: feeds[key] for key in session.inputs})[0]
                for session in (reference, candidate)
            )
            yield first[0], second[0]


def _feeds(ids: Ids, types: Ids) -> Mapping[str, Ids]:
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
