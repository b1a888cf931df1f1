"""The gate: agreement by task, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.errors import QuantizationError
from bertonnx.exporters.gate import Agreement, measure_agreement, measure_latency, require_agreement
from bertonnx.models.card import Card
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.rows import Array, Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.corpus import SENTENCES
from tests.tokenizers_zoo import wordpiece

LABELS = ("O", "B-PER", "I-PER")
TOKENIZER = wordpiece().to_str()
WIDTH = {"feature-extraction": 8, "fill-mask": wordpiece().get_vocab_size()}


@dataclass
class Fake:
    """A session whose outputs follow from the ids, with noise on some texts."""

    outputs: tuple[str, ...]
    task: str
    wide: int
    noise: float = 0.0
    share: float = 1.0
    provider: str = "cpu"
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    def run(
        self,
        outputs: Sequence[str],
        feeds: Mapping[str, npt.NDArray[np.int64]],
        *,
        alone: bool = False,  # noqa: ARG002
    ) -> list[Array]:
        return [np.stack([self._one(name, row) for row in feeds["input_ids"]]) for name in outputs]

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:
        rng = np.random.default_rng(ids)
        per_token = self.task in ("token-classification", "fill-mask")
        shape = (len(ids),) if "_logits" in name else (len(ids), self.wide) if per_token else (self.wide,)
        values = rng.normal(size=shape)
        if rng.random() < self.share:
            values = values + self.noise * rng.normal(size=shape)
        if name == "scores" and self.wide > 1:
            values = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
        return values.astype(np.float32)


def _card(task: str, **changes: Any) -> Card:
    card = Card(
        task=task,
        family="bert",
        max_length=64,
        inputs=("input_ids", "attention_mask"),
        outputs=task_named(task).outputs,
        labels=LABELS if "classification" in task else (),
        problem_type="single_label_classification" if task == "text-classification" else None,
        width=8,
        mask_token="[MASK]",
        mask_token_id=wordpiece().token_to_id("[MASK]"),
    )
    return replace(card, **changes)


def _rows(task: str) -> list[Row]:
    if task == "question-answering":
        return [Row("Who was it?", text) for text in SENTENCES[:60]]
    mask = " [MASK]" if task == "fill-mask" else ""
    return [Row(text[:80] + mask) for text in SENTENCES[:60]]


def _measure(task: str, *, noise: float, share: float = 1.0, **changes: Any) -> Agreement:
    card = _card(task, **changes)
    wide = WIDTH.get(task, len(card.labels))
    return measure_agreement(
        Fake(card.outputs, task, wide),
        Fake(card.outputs, task, wide, noise, share),
        _rows(task),
        card=card,
        tokenizer=TextTokenizer(TOKENIZER, card),
        tokenizer_text=TOKENIZER,
    )


TASKS = {
    "feature-extraction": "cosine",
    "text-classification": "labels",
    "token-classification": "token labels",
    "question-answering": "answers",
    "fill-mask": "words",
}


@pytest.mark.parametrize(("task", "metric"), TASKS.items())
def test_the_same_model_agrees_wholly(task: str, metric: str) -> None:
    found = _measure(task, noise=0.0)
    assert found.metric == metric
    assert found.value == pytest.approx(1.0)
    assert found.worst == pytest.approx(1.0)
    assert found.texts == 60
    assert found.mean_abs_difference == 0.0


@pytest.mark.parametrize("task", TASKS)
def test_more_noise_agrees_less(task: str) -> None:
    little, much = _measure(task, noise=0.05), _measure(task, noise=2.0)
    assert much.value < 0.8
    assert much.value < little.value <= 1.0
    assert much.worst < little.worst
    assert 0 < little.mean_abs_difference < 0.1 < much.mean_abs_difference


def test_one_bad_text_shows_as_the_worst_embedding() -> None:
    found = _measure("feature-extraction", noise=3.0, share=0.1)
    assert found.value > 0.85
    assert found.worst < 0.8


def test_labels_are_counted_by_text() -> None:
    found = _measure("text-classification", noise=50.0, share=0.3)
    assert 60 * found.value == pytest.approx(round(60 * found.value))
    assert 0.6 < found.value < 0.95


def test_regression_compares_scores() -> None:
    found = _measure("text-classification", noise=0.1, problem_type="regression", labels=("score",))
    assert found.metric == "scores"
    assert 0.7 < found.value < 1.0


def test_multi_label_compares_sets_of_labels() -> None:
    found = _measure("text-classification", noise=1.0, problem_type="multi_label_classification")
    assert found.metric == "labels"
    assert 0.0 < found.value < 1.0


def test_texts_that_cannot_be_predicted_are_refused() -> None:
    card = _card("fill-mask")
    fake = Fake(card.outputs, "fill-mask", WIDTH["fill-mask"])
    with pytest.raises(QuantizationError, match="none of the calibration texts"):
        measure_agreement(
            fake,
            fake,
            [Row("no mask here")],
            card=card,
            tokenizer=TextTokenizer(TOKENIZER, card),
            tokenizer_text=TOKENIZER,
        )


class Failing(Fake):
    """A session that cannot run texts of one length."""

    length = 0

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:
        if len(ids) == self.length:
            raise RuntimeError("no kernel")
        return super()._one(name, ids)


def _failing(card: Card, tokenizer: TextTokenizer, rows: list[Row]) -> tuple[Failing, int]:
    """Return a session that fails on the texts as long as the first, and how many those are."""
    lengths = [len(item.pieces[0].ids) for item in tokenizer.encode(rows) if isinstance(item, Encoded)]
    session = Failing(card.outputs, card.task, len(card.labels))
    session.length = lengths[0]
    return session, lengths.count(lengths[0])


def test_int8_that_fails_where_fp32_does_not_is_refused() -> None:
    card, rows = _card("text-classification"), _rows("text-classification")
    tokenizer = TextTokenizer(TOKENIZER, card)
    failing, count = _failing(card, tokenizer, rows)
    sound = Fake(card.outputs, card.task, len(card.labels))
    with pytest.raises(QuantizationError, match=rf"on {count} of 60 texts .*no kernel.*without --quantize"):
        measure_agreement(sound, failing, rows, card=card, tokenizer=tokenizer, tokenizer_text=TOKENIZER)


def test_only_texts_that_fp32_cannot_predict_are_left_out() -> None:
    card, rows = _card("text-classification"), _rows("text-classification")
    tokenizer = TextTokenizer(TOKENIZER, card)
    failing, count = _failing(card, tokenizer, rows)
    sound = Fake(card.outputs, card.task, len(card.labels))
    found = measure_agreement(failing, sound, rows, card=card, tokenizer=tokenizer, tokenizer_text=TOKENIZER)
    assert 0 < count < 60
    assert (found.texts, found.value) == (60 - count, 1.0)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_int8_that_gives_no_numbers_is_refused(task: str) -> None:
    with pytest.raises(QuantizationError, match="numbers that are not finite"):
        _measure(task, noise=float("nan"))


def test_latency_needs_a_text() -> None:
    card = _card("text-classification")
    fake = Fake(card.outputs, card.task, len(LABELS))
    with pytest.raises(QuantizationError, match="none of the calibration texts"):
        measure_latency(fake, fake, [], TextTokenizer(TOKENIZER, card))


AGREEMENT = Agreement("labels", 0.9765, 0.9765, 128, 0.1)


@pytest.mark.parametrize(("own", "hint"), [(True, "texts of the kind"), (False, "more texts")])
def test_too_little_agreement_is_refused_with_what_may_help(own: bool, hint: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        require_agreement(AGREEMENT, min_agreement=0.99, own_texts=own)
    message = str(caught.value)
    for part in ("97.65%", "labels", "128 texts", "99.00%", "no file", hint, "--calibration FILE"):
        assert part in message
    assert "--min-agreement 0.976" in message
    assert "leave --quantize out" in message


def test_what_the_message_offers_is_accepted() -> None:
    require_agreement(AGREEMENT, min_agreement=0.976, own_texts=True)
    require_agreement(AGREEMENT, min_agreement=0.9765, own_texts=True)


def test_latency_is_a_ratio_of_two_times() -> None:
    card = _card("text-classification")
    fake = Fake(card.outputs, "text-classification", len(LABELS))
    latency = measure_latency(fake, fake, _rows("text-classification"), TextTokenizer(TOKENIZER, card))
    assert latency.fp32_ms > 0
    assert latency.ratio == pytest.approx(latency.fp32_ms / latency.int8_ms)
