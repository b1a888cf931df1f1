"""How close two models' answers are, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.models.card import Card
from bertonnx.models.figures import AgreementFigures
from bertonnx.runtime.rows import Array, Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.fake_outputs import TOKENIZER, WIDTH, Fake, card_of, judged, rows_of
from tests.tokenizers_zoo import wordpiece


def _measure(task: str, *, noise: float, share: float = 1.0, **changes: Any) -> AgreementFigures:
    card = card_of(task, **changes)
    wide = WIDTH.get(task, len(card.labels))
    return judged(
        Fake(card.outputs, task, wide), Fake(card.outputs, task, wide, noise, share), rows_of(task), card
    )


TASKS = {
    "feature-extraction": "cosine",
    "text-classification": "labels",
    "text-ranking": "order",
    "token-classification": "entity F1",
    "question-answering": "answers",
    "fill-mask": "words",
}


@pytest.mark.parametrize(("task", "metric"), TASKS.items())
def test_the_same_model_agrees_wholly(task: str, metric: str) -> None:
    found = _measure(task, noise=0.0)
    assert found.metric == metric
    assert found.agreement == pytest.approx(1.0)
    assert found.worst == pytest.approx(1.0)
    assert found.texts == 60
    assert found.mean_abs_difference == 0.0


@pytest.mark.parametrize("task", TASKS)
def test_more_noise_agrees_less(task: str) -> None:
    little, much = _measure(task, noise=0.05), _measure(task, noise=2.0)
    assert much.agreement < 0.8
    assert much.agreement < little.agreement <= 1.0
    assert much.worst < little.worst
    assert 0 < little.mean_abs_difference < 0.1 < much.mean_abs_difference


def test_one_bad_text_shows_as_the_worst_embedding() -> None:
    found = _measure("feature-extraction", noise=3.0, share=0.1)
    assert found.agreement > 0.85
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
    card = card_of("token-classification")
    found = judged(
        _tagged(card, a=1, b=1, e=1),
        _tagged(card, a=1, b=1, c=2, e=1),
        [Row("a d b c"), Row("e d d d d d d d d")],
        card,
    )
    assert found.metric == "entity F1"
    assert found.agreement == found.worst == pytest.approx(2 / 3)


def test_texts_without_an_entity_agree() -> None:
    card = card_of("token-classification")
    sessions = _tagged(card), _tagged(card, a=1)
    rows = [Row("a"), Row("b")]
    none = judged(sessions[0], sessions[0], rows, card)
    assert (none.agreement, none.worst) == (1.0, 1.0)
    one = judged(*sessions, rows, card)
    assert (one.agreement, one.worst) == (0.0, 0.0)


def test_labels_are_counted_by_text() -> None:
    found = _measure("text-classification", noise=50.0, share=0.3)
    assert 60 * found.agreement == pytest.approx(round(60 * found.agreement))
    assert 0.6 < found.agreement < 0.95


def test_regression_compares_scores() -> None:
    found = _measure("text-classification", noise=0.1, problem_type="regression", labels=("score",))
    assert found.metric == "scores"
    assert 0.7 < found.agreement < 1.0


def test_regression_of_several_scores() -> None:
    card = card_of("text-classification", problem_type="regression", labels=("joy", "anger"))
    assert _compared(card, [1.0, 3.0], [1.1, 2.9])[0] == pytest.approx(0.95)


def test_multi_label_compares_sets_of_labels() -> None:
    found = _measure("text-classification", noise=1.0, problem_type="multi_label_classification")
    assert found.metric == "labels"
    assert 0.0 < found.agreement < 1.0


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
    found = judged(sessions[0], sessions[1], rows_of(card.task)[:5], card)
    return found.agreement, found.worst


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
@pytest.mark.parametrize(("second", "value"), [(0.41, 1.0), (0.40, 1.0), (0.39, 0.0), (0.05, 0.0)])
def test_a_near_tie_of_fp32_counts_as_agreement(task: str, second: float, value: float) -> None:
    """The other label must have at least 0.8 times the probability of fp32's own, which is 0.5."""
    found = _compared(card_of(task), [0.49999, second, 0.1], [0.3, 0.6, 0.1])
    assert found == (value, 0.0)


def test_a_near_tie_is_one_of_fp32_and_not_of_int8() -> None:
    assert _compared(card_of("text-classification"), [0.7, 0.2, 0.1], [0.44, 0.46, 0.1]) == (0.0, 0.0)


@pytest.mark.parametrize(("first", "value"), [(0.54, 1.0), (0.57, 0.0)])
def test_near_ties_of_several_labels_are_each_around_a_half(first: float, value: float) -> None:
    card = card_of("text-classification", problem_type="multi_label_classification")
    assert _compared(card, [0.9, first, 0.1], [0.9, 0.45, 0.1]) == (value, 0.0)
    assert _compared(card, [0.9, 1 - first, 0.1], [0.9, 0.55, 0.1]) == (value, 0.0)
    assert _compared(card, [0.9, first, 0.1], [0.9, 0.45, 0.6]) == (0.0, 0.0)


@pytest.mark.parametrize(("lead", "value"), [(0.2, 1.0), (0.25, 0.0)])
def test_a_near_tie_of_words(lead: float, value: float) -> None:
    """A lead of 0.2 in logits is a probability 0.82 times as large; one of 0.25, 0.78."""
    first, second = np.zeros(WIDTH["fill-mask"]), np.zeros(WIDTH["fill-mask"])
    first[[30, 40]] = 5.0 + lead, 5.0
    second[40] = 5.0
    assert _compared(card_of("fill-mask"), list(first), list(second)) == (value, 0.0)


def test_a_word_that_fp32_does_not_think_of_disagrees() -> None:
    first, second = np.zeros(WIDTH["fill-mask"]), np.zeros(WIDTH["fill-mask"])
    first[:20], second[900] = 5.0, 5.0
    assert _compared(card_of("fill-mask"), list(first), list(second)) == (0.0, 0.0)


class Ranked(Fake):
    """A session that gives each text the next of some logits."""

    numbers: Sequence[float]
    rows: Sequence[npt.NDArray[np.int64]]

    def _one(self, name: str, ids: npt.NDArray[np.int64]) -> Array:
        place = next(i for i, row in enumerate(self.rows) if np.array_equal(row, ids))
        # All sigmoids of such logits are 1 in float32: the logits alone tell the order.
        return np.array([1.0 if name == "scores" else 100.0 + self.numbers[place]], dtype=np.float32)


@pytest.mark.parametrize(
    ("second", "value", "worst"),
    [
        ([0.0, 1.0, 2.0, 2.05], 1.0, 1.0),
        ([0.0, 10.0, 20.0, 30.0], 1.0, 1.0),
        # The last two are 0.05 apart, and the deviation of all is 0.84: a near tie.
        ([0.0, 1.0, 2.05, 2.0], 1.0, 5 / 6),
        ([1.0, 0.0, 2.0, 2.05], 5 / 6, 5 / 6),
        ([3.0, 2.0, 1.0, 0.0], 1 / 6, 0.0),
    ],
)
def test_rankers_are_compared_by_the_order_of_logits(second: list[float], value: float, worst: float) -> None:
    card = card_of("text-ranking")
    rows = [Row("a", text) for text in ("b", "c d", "e d d", "a b c d")]
    tokenizer = TextTokenizer(TOKENIZER, card)
    ids = [encoded.pieces[0].ids for encoded in tokenizer.encode(rows) if isinstance(encoded, Encoded)]
    sessions = [Ranked(card.outputs, card.task, 1) for _ in range(2)]
    for session, numbers in zip(sessions, ([0.0, 1.0, 2.0, 2.05], second), strict=True):
        session.numbers, session.rows = numbers, ids
    found = judged(sessions[0], sessions[1], rows, card)
    assert found.agreement == pytest.approx(value)
    assert found.worst == pytest.approx(worst)


@pytest.mark.parametrize(("activation", "value"), [("none", 1.0), ("softmax", 0.0), ("tanh", 0.0)])
def test_a_near_tie_depends_on_what_scores_are(activation: str, value: float) -> None:
    """A logit that is 0.2 lower is a near tie; of numbers of any other kind, 3.9 beside 5 is none."""
    card = card_of("text-classification", activation=activation)
    first = [-1.0, -1.2, -9.0] if activation == "none" else [5.0, 3.9, 1.0]
    assert _compared(card, first, [-3.0, -1.0, -9.0]) == (value, 0.0)


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
    card = card_of("question-answering")
    sessions = [Pointing(card.outputs, card.task, 1) for _ in range(2)]
    sessions[0].logits, sessions[1].logits = {-2: 5.0 + lead, -4: 5.0}, {-4: 5.0}
    found = judged(sessions[0], sessions[1], [Row("a", "a b c d e g h i")], card)
    assert (found.agreement, found.worst) == (value, 0.0)
