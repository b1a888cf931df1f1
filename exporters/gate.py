"""INT8 against fp32 on this machine: do the answers agree, and is it faster?

Agreement is measured on what a user gets (labels, entities, answers, words, embeddings), through the
runtime's own engine and decoders; beside it stands the mean difference of the raw outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertonnx.errors import QuantizationError, RowError
from bertonnx.models.card import Card
from bertonnx.runtime.answers import AnswerDecoder
from bertonnx.runtime.classification import ClassificationDecoder
from bertonnx.runtime.embeddings import EmbeddingDecoder
from bertonnx.runtime.engine import Engine
from bertonnx.runtime.entities import EntityDecoder, subword_rule
from bertonnx.runtime.masks import MaskDecoder
from bertonnx.runtime.rows import Array, Decoder, Encoded, Item, Row
from bertonnx.runtime.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Agreement", "Latency", "measure_agreement", "measure_latency", "require_agreement"]

_ROUNDS = 5
_BATCH, _LENGTH = 8, 32
_RAW_ROWS = 256
_NO_TEXTS = (
    "none of the calibration texts could be predicted, so INT8 cannot be judged; give other texts "
    "with --calibration FILE"
)

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """How far INT8 gives what fp32 gives.

    Attributes:
        metric: "labels", "scores", "token labels", "answers", "words" or "cosine".
        value: 1 where all agree; of labels, answers and words the share of those that do, of
            embeddings the mean cosine, of a regression's scores 1 - mean|difference| / mean|score|.
        worst: a stricter figure: of embeddings the least cosine, of token labels the F1 of INT8's
            entities against fp32's, where one token more or less makes another entity; else `value`.
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
    """Milliseconds for a batch of 8 texts of up to 32 tokens on one thread, best of several."""

    fp32_ms: float
    int8_ms: float

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
) -> Agreement:
    """Run all rows through both sessions and compare the answers.

    Args:
        reference: the fp32 model.
        candidate: the INT8 model.
        rows: at least one; those that fp32 cannot predict are left out.
        card: of both.
        tokenizer: for both.
        tokenizer_text: its `tokenizer.json`.

    Raises:
        QuantizationError: fp32 predicts no row, or INT8 fails on one that fp32 predicts.
    """
    decoder = _decoder(card, tokenizer, tokenizer_text)
    expected = list(zip(rows, _items(reference, tokenizer, rows, decoder), strict=True))
    good = [(row, item) for row, item in expected if not isinstance(item, RowError)]
    if not good:
        raise QuantizationError(_NO_TEXTS)
    rows = [row for row, _ in good]
    actual = _predicted(_items(candidate, tokenizer, rows, decoder))
    pairs = [(item, other) for (_, item), other in zip(good, actual, strict=True)]
    metric, value, worst = _METRICS[_metric(card)](pairs)
    raw = list(_raw_outputs(reference, candidate, rows, tokenizer, output=card.outputs[0]))
    if any(np.isfinite(a).all() and not np.isfinite(b).all() for a, b in raw):
        raise QuantizationError(_failure("it puts out numbers that are not finite where fp32's are"))
    if card.task == "token-classification":
        value = float(np.mean(np.concatenate([a.argmax(-1) == b.argmax(-1) for a, b in raw])))
    difference = sum(float(np.abs(a - b).mean()) for a, b in raw) / len(raw)
    return Agreement(metric, value, worst, len(pairs), difference)


def _predicted(items: Sequence[Item | RowError]) -> list[Item]:
    """Return the items; an INT8 that fails on a text is refused, whatever agreement was asked for."""
    errors = [item for item in items if isinstance(item, RowError)]
    if errors:
        what = f"on {len(errors)} of {len(items)} texts that fp32 predicts"
        raise QuantizationError(_failure(f"{what}, first with: {errors[0]}"))
    return [item for item in items if not isinstance(item, RowError)]


def _failure(how: str) -> str:
    return f"INT8 fails: {how}; no file was written. Export this model without --quantize"


def require_agreement(agreement: Agreement, *, min_agreement: float, own_texts: bool) -> None:
    """Refuse INT8 that agrees less than was asked.

    Args:
        agreement: what was measured.
        min_agreement: from 0 to 1.
        own_texts: whether the texts were bertonnx's, because the user gave none.

    Raises:
        QuantizationError: naming what may help.
    """
    if agreement.value >= min_agreement:
        return
    texts = (
        "calibrate on texts of the kind that the model reads with --calibration FILE"
        if own_texts
        else "calibrate on more texts, or on some nearer to what the model reads, with --calibration FILE"
    )
    raise QuantizationError(
        f"INT8 agrees with fp32 on {agreement.value:.2%} of {agreement.metric} over {agreement.texts} texts, "
        f"and {min_agreement:.2%} was asked for; no file was written. To mend it: {texts}; accept it with "
        f"--min-agreement {np.floor(agreement.value * 1000) / 1000:g}; or leave --quantize out"
    )


def measure_latency(
    reference: Session, candidate: Session, rows: Sequence[Row], tokenizer: TextTokenizer
) -> Latency:
    """Time both sessions on one batch, in turns, so that both meet the same disturbances.

    Raises:
        QuantizationError: none of the rows has a token to time.
    """
    feeds = _batch(rows, tokenizer)
    best = {0: float("inf"), 1: float("inf")}
    for _ in range(_ROUNDS + 1):  # the best of them is never the first, which warms up
        for which, session in enumerate((reference, candidate)):
            inputs = {name: feeds[name] for name in session.inputs}
            start = time.perf_counter()
            session.run(session.outputs, inputs)
            best[which] = min(best[which], time.perf_counter() - start)
    return Latency(best[0] * 1e3, best[1] * 1e3)


def _batch(rows: Sequence[Row], tokenizer: TextTokenizer) -> Mapping[str, Ids]:
    encoded = [item.pieces[0] for item in tokenizer.encode(rows[:64]) if isinstance(item, Encoded)]
    pieces = [piece for piece in encoded if len(piece.ids)]
    if not pieces:
        raise QuantizationError(_NO_TEXTS)
    longest = max(pieces, key=lambda piece: len(piece.ids))
    ids = np.repeat(longest.ids[None, :_LENGTH], _BATCH, axis=0)
    types = np.repeat(longest.type_ids[None, :_LENGTH], _BATCH, axis=0)
    return _feeds(ids, types)


def _items(
    session: Session, tokenizer: TextTokenizer, rows: Sequence[Row], decoder: Decoder
) -> list[Item | RowError]:
    with closing(Engine(session, tokenizer, threads=1)) as engine:
        return list(engine.map(rows, decoder))


def _decoder(card: Card, tokenizer: TextTokenizer, tokenizer_text: str) -> Decoder:
    if card.task == "feature-extraction":
        return EmbeddingDecoder(card.normalize)
    if card.task == "text-classification":
        return ClassificationDecoder(card.labels, card.problem_type, 1)
    if card.task == "token-classification":
        return EntityDecoder(card.labels, "simple", subword_rule(tokenizer_text))
    if card.task == "question-answering":
        return AnswerDecoder(1)
    return MaskDecoder(
        card.mask_token or "", card.mask_token_id or 0, card.pad_token_id, tokenizer.decode_ids, 1
    )


Compared = Sequence[tuple[Item, Item]]


def _metric(card: Card) -> str:
    return "regression" if card.problem_type == "regression" else card.task


def _cosines(pairs: Compared) -> tuple[str, float, float]:
    first, second = (
        np.array([item["embedding"] for item in side], dtype=np.float64) for side in zip(*pairs, strict=True)
    )
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(axis=1) / np.maximum(lengths, 1e-30)
    return "cosine", float(cosines.mean()), float(cosines.min())


def _labels(pairs: Compared) -> tuple[str, float, float]:
    return _share("labels", [_label(first) == _label(second) for first, second in pairs])


def _label(item: Item) -> object:
    return item["labels"] if "labels" in item else item["label"]


def _scores(pairs: Compared) -> tuple[str, float, float]:
    first, second = (
        np.array([item["score"] for item in side], dtype=np.float64) for side in zip(*pairs, strict=True)
    )
    value = 1 - float(np.abs(first - second).mean() / max(np.abs(first).mean(), 1e-30))
    return "scores", value, value


def _entities(pairs: Compared) -> tuple[str, float, float]:
    found = [
        [{(e["entity"], e["start"], e["end"]) for e in item["entities"]} for item in pair] for pair in pairs
    ]
    both = sum(len(first & second) for first, second in found)
    total = sum(len(first) + len(second) for first, second in found)
    value = 2 * both / total if total else 1.0
    return "token labels", value, value


def _answers(pairs: Compared) -> tuple[str, float, float]:
    return _share("answers", [(a["start"], a["end"]) == (b["start"], b["end"]) for a, b in pairs])


def _words(pairs: Compared) -> tuple[str, float, float]:
    words = [
        (first[0]["token_id"], second[0]["token_id"])
        for a, b in pairs
        for first, second in zip(a["masks"], b["masks"], strict=True)
    ]
    return _share("words", [first == second for first, second in words])


def _share(metric: str, equal: Sequence[bool]) -> tuple[str, float, float]:
    value = float(np.mean(equal)) if equal else 1.0
    return metric, value, value


_METRICS: Mapping[str, Callable[[Compared], tuple[str, float, float]]] = {
    "feature-extraction": _cosines,
    "text-classification": _labels,
    "regression": _scores,
    "token-classification": _entities,
    "question-answering": _answers,
    "fill-mask": _words,
}


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
