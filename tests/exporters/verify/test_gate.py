"""The gate: agreement by task, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.errors import InferenceError, QuantizationError
from bertonnx.exporters.verify.gate import Agreement, measure_agreement, measure_latency, require_agreement
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
        outputs=tuple(task_named(task).outputs),
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
    "token-classification": "entity F1",
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


class Tagged(Fake):
    """A session that gives each text the tags that stand in its words."""

    tags: Mapping[int, int]

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:  # noqa: ARG002
        return np.eye(3, dtype=np.float32)[[self.tags.get(int(token), 0) for token in ids]]


def _tagged(card: Card, **words: int) -> Tagged:
    session = Tagged(card.outputs, card.task, 3)
    vocabulary = wordpiece().get_vocab()
    session.tags = {vocabulary[word]: tag for word, tag in words.items()}
    return session


def test_entities_count_by_type_and_span() -> None:
    """By hand: fp32 finds a, b and e; INT8 finds a and "b c" as one, and e: 2 of 3 on both sides."""
    card = _card("token-classification")
    found = measure_agreement(
        _tagged(card, a=1, b=1, e=1),
        _tagged(card, a=1, b=1, c=2, e=1),
        [Row("a d b c"), Row("e d d d d d d d d")],
        card=card,
        tokenizer=TextTokenizer(TOKENIZER, card),
        tokenizer_text=TOKENIZER,
    )
    assert found.metric == "entity F1"
    assert found.value == found.worst == pytest.approx(2 / 3)


def test_texts_without_an_entity_agree() -> None:
    card = _card("token-classification")
    tokenizer = TextTokenizer(TOKENIZER, card)
    sessions = _tagged(card), _tagged(card, a=1)
    rows = [Row("a"), Row("b")]
    none = measure_agreement(
        sessions[0], sessions[0], rows, card=card, tokenizer=tokenizer, tokenizer_text=TOKENIZER
    )
    assert (none.value, none.worst) == (1.0, 1.0)
    one = measure_agreement(*sessions, rows, card=card, tokenizer=tokenizer, tokenizer_text=TOKENIZER)
    assert (one.value, one.worst) == (0.0, 0.0)


def test_labels_are_counted_by_text() -> None:
    found = _measure("text-classification", noise=50.0, share=0.3)
    assert 60 * found.value == pytest.approx(round(60 * found.value))
    assert 0.6 < found.value < 0.95


def test_regression_compares_scores() -> None:
    found = _measure("text-classification", noise=0.1, problem_type="regression", labels=("score",))
    assert found.metric == "scores"
    assert 0.7 < found.value < 1.0


def test_regression_of_several_scores() -> None:
    card = _card("text-classification", problem_type="regression", labels=("joy", "anger"))
    assert _compared(card, [1.0, 3.0], [1.1, 2.9])[0] == pytest.approx(0.95)


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


class Fixed(Fake):
    """A session that puts out the same numbers for every text, and in every place of it."""

    numbers: tuple[float, ...]
    per_token = False

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:  # noqa: ARG002
        numbers = np.array(self.numbers, dtype=np.float32)
        return np.tile(numbers, (len(ids), 1)) if self.per_token else numbers


def _compared(card: Card, first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    sessions = tuple(Fixed(card.outputs, card.task, len(first)) for _ in range(2))
    for session, numbers in zip(sessions, (first, second), strict=True):
        session.numbers = tuple(numbers)
        session.per_token = card.task in ("token-classification", "fill-mask")
    found = measure_agreement(
        sessions[0],
        sessions[1],
        _rows(card.task)[:5],
        card=card,
        tokenizer=TextTokenizer(TOKENIZER, card),
        tokenizer_text=TOKENIZER,
    )
    return found.value, found.worst


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
@pytest.mark.parametrize(("second", "value"), [(0.41, 1.0), (0.40, 1.0), (0.39, 0.0), (0.05, 0.0)])
def test_a_near_tie_of_fp32_counts_as_agreement(task: str, second: float, value: float) -> None:
    """The other label must have at least 0.8 times the probability of fp32's own, which is 0.5."""
    found = _compared(_card(task), [0.49999, second, 0.1], [0.3, 0.6, 0.1])
    assert found == (value, 0.0)


def test_a_near_tie_is_one_of_fp32_and_not_of_int8() -> None:
    assert _compared(_card("text-classification"), [0.7, 0.2, 0.1], [0.44, 0.46, 0.1]) == (0.0, 0.0)


@pytest.mark.parametrize(("first", "value"), [(0.54, 1.0), (0.57, 0.0)])
def test_near_ties_of_several_labels_are_each_around_a_half(first: float, value: float) -> None:
    card = _card("text-classification", problem_type="multi_label_classification")
    assert _compared(card, [0.9, first, 0.1], [0.9, 0.45, 0.1]) == (value, 0.0)
    assert _compared(card, [0.9, 1 - first, 0.1], [0.9, 0.55, 0.1]) == (value, 0.0)
    assert _compared(card, [0.9, first, 0.1], [0.9, 0.45, 0.6]) == (0.0, 0.0)


@pytest.mark.parametrize(("lead", "value"), [(0.2, 1.0), (0.25, 0.0)])
def test_a_near_tie_of_words(lead: float, value: float) -> None:
    """A lead of 0.2 in logits is a probability 0.82 times as large; one of 0.25, 0.78."""
    first, second = np.zeros(WIDTH["fill-mask"]), np.zeros(WIDTH["fill-mask"])
    first[[30, 40]] = 5.0 + lead, 5.0
    second[40] = 5.0
    assert _compared(_card("fill-mask"), list(first), list(second)) == (value, 0.0)


def test_a_word_that_fp32_does_not_think_of_disagrees() -> None:
    first, second = np.zeros(WIDTH["fill-mask"]), np.zeros(WIDTH["fill-mask"])
    first[:20], second[900] = 5.0, 5.0
    assert _compared(_card("fill-mask"), list(first), list(second)) == (0.0, 0.0)


class Pointing(Fake):
    """A session for question answering whose start and end are one token, or one of two."""

    logits: Mapping[int, float]

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:  # noqa: ARG002
        values = np.full(len(ids), -20.0, dtype=np.float32)
        for place, logit in self.logits.items():
            values[place] = logit
        return values


@pytest.mark.parametrize(("lead", "value"), [(0.1, 1.0), (0.12, 0.0)])
def test_a_near_tie_of_answers(lead: float, value: float) -> None:
    """An answer's probability is that of its start times that of its end: a lead counts twice."""
    card = _card("question-answering")
    sessions = [Pointing(card.outputs, card.task, 1) for _ in range(2)]
    sessions[0].logits, sessions[1].logits = {-2: 5.0 + lead, -4: 5.0}, {-4: 5.0}
    found = measure_agreement(
        sessions[0],
        sessions[1],
        [Row("a", "a b c d e g h i")],
        card=card,
        tokenizer=TextTokenizer(TOKENIZER, card),
        tokenizer_text=TOKENIZER,
    )
    assert (found.value, found.worst) == (value, 0.0)


class Failing(Fake):
    """A session that cannot run texts of one length."""

    length = 0

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:
        if len(ids) == self.length:
            raise InferenceError("no kernel")
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
    for part in ("97.65%", "labels", "128 texts", "held out", "99%", "no file", hint, "--calibration FILE"):
        assert part in message
    assert "--min-agreement 0.976" in message
    assert "leave --quantize out" in message


def test_a_share_just_below_does_not_read_as_the_one_asked_for() -> None:
    near = replace(AGREEMENT, value=0.98999999)
    with pytest.raises(QuantizationError, match=r"98\.99%.*99% was asked") as caught:
        require_agreement(near, min_agreement=0.99, own_texts=True)
    assert "--min-agreement 0.989" in str(caught.value)


def test_what_the_message_offers_is_accepted() -> None:
    require_agreement(AGREEMENT, min_agreement=0.976, own_texts=True)
    require_agreement(AGREEMENT, min_agreement=0.9765, own_texts=True)


def test_latency_is_a_ratio_of_two_times() -> None:
    card = _card("text-classification")
    fake = Fake(card.outputs, "text-classification", len(LABELS))
    latency = measure_latency(fake, fake, _rows("text-classification"), TextTokenizer(TOKENIZER, card))
    assert latency.fp32_ms > 0
    assert (latency.batch, latency.tokens) == (8, 32)
    assert latency.ratio == pytest.approx(latency.fp32_ms / latency.int8_ms)
