"""Figures of predictions, against scikit-learn and against values that others published."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from bertonnx.runtime.evaluation.metrics import calibration, interval
from bertonnx.runtime.evaluation.outcome import Amounts, Entities, Several, Single, evaluated
from bertonnx.runtime.evaluation.report import lines
from bertonnx.runtime.evaluation.tagged import Span

RNG = np.random.default_rng(1)


def test_single_labels() -> None:
    actual = RNG.choice(["a", "b", "c"], 200).tolist()
    predicted = [label if RNG.random() < 0.7 else "a" for label in actual]
    found = evaluated(Single(actual, predicted, RNG.random(200), ["a", "b", "c"]), ["t"] * 200)
    assert found.scores == {
        "accuracy": pytest.approx(metrics.accuracy_score(actual, predicted)),
        "macro_f1": pytest.approx(metrics.f1_score(actual, predicted, average="macro")),
    }
    assert [list(row) for row in found.confusion] == metrics.confusion_matrix(actual, predicted).tolist()
    assert sum(item.rows for item in found.labels.values()) == 200
    low, high = found.intervals["accuracy"]
    # The normal approximation of a share of 200.
    share = found.scores["accuracy"]
    half = 1.96 * np.sqrt(share * (1 - share) / 200)
    assert low == pytest.approx(share - half, abs=0.02)
    assert high == pytest.approx(share + half, abs=0.02)


def test_the_worst_mistakes_come_first_and_whole_rows_are_named() -> None:
    actual, predicted = ["a", "a", "b", "b"], ["a", "b", "a", "b"]
    found = evaluated(Single(actual, predicted, np.array([0.9, 0.6, 0.8, 0.9]), ["a", "b"]), list("wxyz"))
    assert [(item.row, item.text, item.label, item.predicted) for item in found.mistakes] == [
        (2, "y", "b", "a"),
        (1, "x", "a", "b"),
    ]


def test_the_quick_figure_is_the_same_as_the_slow_one() -> None:
    everything = np.arange(60)
    actual = RNG.random((60, 3)) < 0.4
    several = Several(actual, actual ^ (RNG.random((60, 3)) < 0.2), ["a", "b", "c"], RNG.random((60, 3)))
    assert several.main(everything) == pytest.approx(several.scores()["macro_f1"])
    labels = RNG.choice(["a", "b"], 60).tolist()
    single = Single(labels, RNG.choice(["a", "b"], 60).tolist())
    assert single.main(everything) == pytest.approx(single.scores()["accuracy"])
    spans = [(Span(0, 1, "X"), Span(2, 3, "Y")), (), (Span(0, 2, "X"),)]
    entities = Entities(spans, [(Span(0, 1, "X"),), (Span(0, 1, "X"),), (Span(0, 2, "Y"),)])
    assert entities.main(np.arange(3)) == pytest.approx(entities.scores()["f1"])


def test_numbers() -> None:
    actual = RNG.normal(size=50).round(1)
    predicted = actual + RNG.normal(size=50)
    scores = Amounts(actual, predicted).scores()
    assert scores["pearson"] == pytest.approx(stats.pearsonr(actual, predicted).statistic)
    # With ties among the labels.
    assert scores["spearman"] == pytest.approx(stats.spearmanr(actual, predicted).statistic)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(actual, predicted))
    assert Amounts(actual, np.zeros(50)).scores()["pearson"] == 0.0


def test_entities_count_as_in_conll() -> None:
    """Right are those whose place and type are: 1 of 3 said, 1 of 2 there."""
    actual = [(Span(0, 3, "PER"), Span(10, 14, "LOC"))]
    predicted = [(Span(0, 3, "PER"), Span(10, 13, "LOC"), Span(20, 22, "LOC"))]
    found = evaluated(Entities(actual, predicted), ["Ada lives in Bonn with Jo"])
    assert found.scores["precision"] == pytest.approx(1 / 3)
    assert found.scores["recall"] == pytest.approx(1 / 2)
    assert found.scores["f1"] == pytest.approx(0.4)
    assert found.labels["LOC"].f1 == 0.0
    assert found.labels["PER"].f1 == 1.0


def test_calibration() -> None:
    """Two tenths: 0.95 promised and 3 of 4 kept, 0.55 promised and 1 of 2 kept."""
    confidence = np.array([0.95] * 4 + [0.55] * 2)
    bins, error = calibration(confidence, np.array([True, True, True, False, True, False]))
    assert [item.rows for item in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 4]
    assert error == pytest.approx((4 * 0.20 + 2 * 0.05) / 6)


def test_a_model_is_better_only_beyond_chance() -> None:
    actual = RNG.choice(["a", "b"], 400).tolist()
    good = Single(actual, [label if RNG.random() < 0.9 else "a" for label in actual])
    poor = Single(actual, ["a"] * 400)
    # As good in sum, and wrong on other rows.
    shifted = Single(actual, [*good.predicted[:-4], *poor.predicted[-4:]])
    found = evaluated(good, ["t"] * 400, {"majority": poor, "like": shifted})
    assert found.better == {"majority": True, "like": False}
    assert interval(good.main, 400) == interval(good.main, 400)


def test_errors_of_small_amounts_are_no_zeros() -> None:
    actual = np.array([1e-9, 3e-9, 2e-9, 5e-9])
    shown = "\n".join(lines(evaluated(Amounts(actual, actual + 1e-10), list("abcd"))))
    assert "mean error              1e-10" in shown
