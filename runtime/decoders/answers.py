"""Answers out of start and end logits, as transformers' QuestionAnsweringPipeline finds them.

Source of the rules: transformers 4.57.6, `pipelines/question_answering.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.options import require_at_least
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece

__all__ = ["AnswerDecoder", "answer_decoder"]

_CONTEXT = 1
"""The context is the second sequence of the pair."""


def answer_decoder(context: DecoderContext) -> AnswerDecoder:
    """Return the decoder of a model that finds answers."""
    options = context.options
    return AnswerDecoder(
        context.top_k,
        handle_impossible_answer=options.no_answer,
        raw_scores=options.raw_scores,
        cls_token_id=context.card.cls_token_id,
    )


@dataclass(frozen=True)
class AnswerDecoder:
    """Items `{"answer", "score", "start", "end"}`, and with `top_k` over 1 `"answers"`, best first.

    `start` and `end` are code points, half open, into the row's pair (the context). An answer is
    widened to whole words. Scores are probabilities within one window; answers that read the same
    but for upper and lower case count as one, with the sum of their scores. Spans of probability
    zero are never answers, where the pipeline fills its list up with arbitrary ones.

    Attributes:
        top_k: how many answers `"answers"` lists, at most.
        max_answer_len: longest answer, in tokens.
        handle_impossible_answer: whether "there is no answer", the empty text, is one of the
            answers; its score is the least that any window gives it.
        raw_scores: whether a score is the sum of the logits of an answer's start and end, which is the
            same whatever else the window holds; of answers that read the same, the best one's.
        cls_token_id: as `Card.cls_token_id`.

    Raises:
        UsageError: `max_answer_len` is less than 1.
    """

    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    raw_scores: bool = False
    cls_token_id: int | None = None

    fetch = ("start_logits", "end_logits")

    def __post_init__(self) -> None:
        require_at_least("max_answer_len", self.max_answer_len)

    def keep(self, piece: Piece, outputs: Outputs) -> Array:  # noqa: ARG002
        """Return a copy of the piece's logits, float32 of shape (2, sequence_length)."""
        return np.stack([outputs["start_logits"], outputs["end_logits"]])

    def decode(self, encoded: Encoded, kept: Sequence[Array]) -> Item:
        """Return the best answers over all windows; an empty one, of score 0, where there is none."""
        windows = [
            _probabilities(piece, logits, self.cls_token_id)
            for piece, logits in zip(encoded.pieces, kept, strict=True)
        ]
        answers = self._answers(encoded, windows, kept)
        if self.handle_impossible_answer:
            if self.raw_scores:
                least = min(float(logits[0, 0] + logits[1, 0]) for logits in kept)
            else:
                least = min(window.no_answer for window in windows)
            answers.append(_answer(least, "", 0, 0))
        answers.sort(key=lambda answer: float(answer["score"]), reverse=True)
        best = [_rounded(answer) for answer in answers[: self.top_k]] or [_answer(0.0, "", 0, 0)]
        return {**best[0], "answers": best} if self.top_k > 1 else best[0]

    def _answers(
        self, encoded: Encoded, windows: Sequence[_Probabilities], kept: Sequence[Array]
    ) -> list[Item]:
        context = encoded.row.pair or ""
        by_text: dict[str, Item] = {}
        for piece, window, logits in zip(encoded.pieces, windows, kept, strict=True):
            for score, first, last in self._spans(window):
                start, end = _aligned(piece.encoding, first, last)
                text = context[start:end]
                # Windows overlap, so one answer is found in several of them.
                new = text.lower() not in by_text
                seen = by_text.setdefault(text.lower(), _answer(0.0, text, start, end))
                if self.raw_scores:
                    # Logits are no shares of a whole, so that their sum would mean nothing.
                    raw = float(logits[0, first] + logits[1, last])
                    seen["score"] = raw if new else max(raw, seen["score"])
                else:
                    seen["score"] += score
        return list(by_text.values())

    def _spans(self, window: _Probabilities) -> Iterator[tuple[float, int, int]]:
        """Yield score, first and last token of a window's best spans, best first.

        There are more than `top_k`, as several may widen to the same words. Equal scores go in
        order of the text.
        """
        length = len(window.start)
        longest = min(self.max_answer_len, length)
        ends = np.concatenate([window.end, np.zeros(longest - 1, np.float32)])
        # scores[i, k] is of the span from token i to token i + k
        scores = window.start[:, None] * np.lib.stride_tricks.sliding_window_view(ends, longest)
        flat = scores.ravel()
        # Twice as many and some: several spans may widen to the same words.
        wanted = min(2 * self.top_k + 10, flat.size)
        least = np.partition(flat, flat.size - wanted)[flat.size - wanted]
        # All that reach the least, so that which of equal ones come first is decided by the text.
        candidates = np.flatnonzero((flat >= least) & (flat > 0))
        for place in candidates[np.argsort(-flat[candidates], kind="stable")][:wanted].tolist():
            first, more = divmod(place, longest)
            yield float(flat[place]), first, first + more


class _Probabilities(NamedTuple):
    """Of one window: float32 of shape (sequence_length,), zero outside the context."""

    start: Array
    end: Array
    no_answer: float


def _probabilities(piece: Piece, logits: Array, cls_token_id: int | None) -> _Probabilities:
    in_context = np.array([sequence == _CONTEXT for sequence in piece.encoding.sequence_ids])
    start, end = _softmax(logits, in_context | _unanswered(piece, cls_token_id))
    no_answer = float(start[0] * end[0])
    zero = np.float32(0)
    return _Probabilities(np.where(in_context, start, zero), np.where(in_context, end, zero), no_answer)


def _unanswered(piece: Piece, cls_token_id: int | None) -> npt.NDArray[np.bool_]:
    # Models trained on questions without an answer point to [CLS] then, so it takes its share.
    if cls_token_id is not None:
        return np.asarray(piece.ids == cls_token_id)
    if not piece.encoding.special_tokens_mask[0]:
        return np.zeros(len(piece.ids), dtype=bool)
    return np.asarray(piece.ids == piece.ids[0])


def _softmax(logits: Array, among: npt.NDArray[np.bool_]) -> Array:
    masked = np.where(among, logits, np.float32(-10000.0))
    exponentials = np.exp(masked - masked.max(axis=-1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def _aligned(encoding: Encoding, first: int, last: int) -> tuple[int, int]:
    """Return the code points of the words that hold the tokens `first` and `last`."""
    first_word, last_word = encoding.token_to_word(first), encoding.token_to_word(last)
    if first_word is not None and last_word is not None:
        start = encoding.word_to_chars(first_word, sequence_index=_CONTEXT)
        end = encoding.word_to_chars(last_word, sequence_index=_CONTEXT)
        if start is not None and end is not None:
            return start[0], end[1]
    return encoding.offsets[first][0], encoding.offsets[last][1]


def _answer(score: float, text: str, start: int, end: int) -> Item:
    return {"answer": text, "score": score, "start": start, "end": end}


def _rounded(answer: Item) -> Item:
    return {**answer, "score": float(np.float32(answer["score"]))}
