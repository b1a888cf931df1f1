"""Which rows are trained on, and which are measured on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bertonnx.errors import InputError
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.exporters.training.split import split_labelled, split_tagged
from bertonnx.runtime.evaluation.labelled import Labelled
from bertonnx.runtime.evaluation.tagged import Span, Tagged

SINGLE = "single_label_classification"


def data(labels: list[Any], texts: list[str] | None = None, kind: str = SINGLE, **more: Any) -> Labelled:
    return Labelled(
        "rows.csv", texts or [f"text {n}" for n in range(len(labels))], None, labels, kind, **more
    )


def test_each_label_has_its_share_and_a_seed_decides() -> None:
    rows = data(["a"] * 80 + ["b"] * 20)
    found = split_labelled(rows, None, TrainOptions())
    assert Counter(found.validation.labels) == {"a": 16, "b": 4}
    assert not {*found.train.texts} & {*found.validation.texts}
    assert len(found.train) == 80
    assert split_labelled(rows, None, TrainOptions()).validation.texts == found.validation.texts
    assert split_labelled(rows, None, TrainOptions(seed=1)).validation.texts != found.validation.texts


def test_groups_stay_together() -> None:
    rows = data(["a", "b"] * 30, groups=[str(n // 6) for n in range(60)])
    found = split_labelled(rows, None, TrainOptions())
    assert found.train.groups is not None
    assert found.validation.groups is not None
    assert not {*found.train.groups} & {*found.validation.groups}
    assert len(found.validation) in (12, 18)
    with pytest.raises(InputError, match="too many of one group"):
        split_labelled(data(["a", "b"] * 30, groups=["x"] * 60), None, TrainOptions())


def test_rows_of_no_group_are_no_group_and_a_text_joins_groups() -> None:
    rows = data(["a", "b"] * 30, groups=["", "x"] + [""] * 58)
    assert len(split_labelled(rows, None, TrainOptions()).validation) == 12
    # Each text twice, with another label and of another group: none is on both sides.
    texts = [f"text {n}" for n in range(40)] * 2
    rows = data(
        ["a"] * 40 + ["b"] * 40,
        texts,
        groups=[str(n % 40) for n in range(40)] + [f"other {n}" for n in range(40)],
    )
    found = split_labelled(rows, None, TrainOptions())
    assert not {*found.train.texts} & {*found.validation.texts}
    assert len(found.validation) == 16


def test_rows_that_repeat_another_are_on_one_side() -> None:
    texts = [f"text {n}" for n in range(40)] * 2
    texts[40:60] = [f"  TEXT   {n}" for n in range(20)]
    found = split_labelled(data(["a", "b"] * 40, texts), None, TrainOptions())
    assert len(found.train) + len(found.validation) == 40
    assert "40 rows that repeat another were left out" in map(str, found.messages)


def test_texts_with_two_labels_are_said_and_stay_together() -> None:
    texts = [f"text {n}" for n in range(40)] * 2
    found = split_labelled(data(["a"] * 40 + ["b"] * 40, texts), None, TrainOptions())
    assert not {*found.train.texts} & {*found.validation.texts}
    assert "40 texts are there with more than one label; look at them" in map(str, found.messages)


def test_a_label_with_one_row_is_learned_and_not_measured() -> None:
    found = split_labelled(data(["a"] * 20 + ["b"] * 20 + ["c"]), None, TrainOptions())
    assert "c" in found.train.labels
    assert "c" not in found.validation.labels
    assert "too few rows to be measured: c" in map(str, found.messages)


def test_a_file_to_measure_on() -> None:
    rows = data(["a", "b"] * 10)
    other = data(["a", "b"], ["text 3", "new"])
    found = split_labelled(rows, other, TrainOptions())
    assert found.validation.texts == ["new"]
    assert len(found.train) == 20
    assert "1 rows to measure on are among those to train on too" in str(found.messages[-1])
    with pytest.raises(
        InputError, match=r"labels that rows.csv has not, so that they could not be learned: c"
    ):
        split_labelled(rows, data(["c"], ["new"]), TrainOptions())
    with pytest.raises(InputError, match="nothing is left to measure on"):
        split_labelled(rows, data(["a"], ["text 3"]), TrainOptions())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (data(["a", "b"]), "has 2 rows with a text and a label, and 10 at least are needed"),
        (data(["a"] * 20), "has one label, 'a', in all its rows"),
        (data(["a", "b"] * 10, ["same"] * 20), "all texts of rows.csv are equal"),
        (data(["a", "b"] * 10, ["same", " SAME"] * 10), "all texts of rows.csv are equal"),
        (data([()] * 20, kind="multi_label_classification"), "no row of rows.csv has a label"),
        (data([str(n) for n in range(20)]), "has 20 different values in 20 rows; is it the label"),
        (data([2.0] * 20, kind="regression"), "all labels of rows.csv are 2"),
    ],
)
def test_what_cannot_be_learned(rows: Labelled, said: str) -> None:
    with pytest.raises(InputError, match=said):
        split_labelled(rows, None, TrainOptions())


def test_numbers_and_several_labels() -> None:
    found = split_labelled(data([float(n) for n in range(100)], kind="regression"), None, TrainOptions())
    # From all tenths.
    assert {int(label) // 10 for label in found.validation.labels} == set(range(10))
    rows = [("a",)] * 40 + [("a", "b")] * 10 + [()] * 10
    several = split_labelled(data(rows, kind="multi_label_classification"), None, TrainOptions())
    assert Counter(map(len, several.validation.labels)) == {1: 8, 2: 2, 0: 2}


def test_entities() -> None:
    spans: list[tuple[Span, ...]] = [(Span(0, 1, "X"),)] * 40
    spans += [()] * 10
    spans += [(Span(0, 1, "Y"),)] * 10
    rows = Tagged("a.conll", [f"t{n}" for n in range(60)], spans)
    found = split_tagged(rows, None, TrainOptions())
    assert found.validation.names == ("X", "Y")
    assert len(found.validation) == 12
    with pytest.raises(InputError, match="has 1 different texts with entities, too few to part"):
        split_tagged(Tagged("a.conll", ["same"] * 60, spans[:1] * 60), None, TrainOptions())
    with pytest.raises(InputError, match="has 60 texts with 0 types of entities"):
        split_tagged(Tagged("a.conll", rows.texts, [()] * 60), None, TrainOptions())
    with pytest.raises(InputError, match="could not be learned: Z"):
        split_tagged(rows, Tagged("b.conll", ["new"], [(Span(0, 1, "Z"),)]), TrainOptions())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.5, 0.9])
def test_the_share_is_what_was_asked_for(share: float) -> None:
    rows = data(["a", "b"] * 50)
    assert len(split_labelled(rows, None, TrainOptions(validation_share=share)).validation) == 100 * share


def test_few_rows_of_each_label_and_few_amounts() -> None:
    found = split_labelled(data([f"label {n // 2}" for n in range(40)]), None, TrainOptions())
    # One of the two at most.
    assert len(found.validation) == len(found.validation.names) == 8
    assert len(found.train.names) == 20
    for rows in (10, 12, 33):
        amounts = data([n + 0.5 for n in range(rows)], kind="regression")
        assert len(split_labelled(amounts, None, TrainOptions()).validation) == round(rows / 5)
