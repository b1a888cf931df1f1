"""The gate: what is judged, and what is refused with which words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.errors import InferenceError, PrecisionError, QuantizationError
from bertonnx.exporters.options import ExportOptions
from bertonnx.exporters.verify.gate import FP16, INT8, Reduction, require_agreement
from bertonnx.models.card import Card
from bertonnx.models.figures import AgreementFigures
from bertonnx.runtime.rows import Array, Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import COMMAND_LINE
from tests.fake_outputs import ANY, TOKENIZER, WIDTH, Fake, card_of, judged, rows_of


def test_texts_that_cannot_be_predicted_are_refused() -> None:
    card = card_of("fill-mask")
    fake = Fake(card.outputs, "fill-mask", WIDTH["fill-mask"])
    with pytest.raises(QuantizationError, match="none of the calibration texts"):
        judged(fake, fake, [Row("no mask here")], card)


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
    card, rows = card_of("text-classification"), rows_of("text-classification")
    tokenizer = TextTokenizer(TOKENIZER, card)
    failing, count = _failing(card, tokenizer, rows)
    sound = Fake(card.outputs, card.task, len(card.labels))
    with pytest.raises(
        QuantizationError, match=rf"on {count} of 60 texts .*no kernel.*without quantize=True"
    ):
        judged(sound, failing, rows, card)


def test_only_texts_that_fp32_cannot_predict_are_left_out() -> None:
    card, rows = card_of("text-classification"), rows_of("text-classification")
    tokenizer = TextTokenizer(TOKENIZER, card)
    failing, count = _failing(card, tokenizer, rows)
    sound = Fake(card.outputs, card.task, len(card.labels))
    found = judged(failing, sound, rows, card)
    assert 0 < count < 60
    assert (found.texts, found.agreement) == (60 - count, 1.0)


@pytest.mark.parametrize(
    ("task", "number"),
    [("text-classification", np.nan), ("feature-extraction", np.nan), ("feature-extraction", np.inf)],
)
def test_numbers_that_are_not_finite_are_refused(task: str, number: float) -> None:
    card = card_of(task)
    wide = WIDTH.get(task, len(card.labels))
    sound, broken = (Fake(card.outputs, task, wide, noise) for noise in (0.0, number))
    with pytest.raises(QuantizationError, match="numbers that are not finite"):
        judged(sound, broken, rows_of(task), card)


def test_one_judge_for_both_and_an_error_of_each() -> None:
    assert issubclass(QuantizationError, PrecisionError)
    card = card_of("text-classification")
    sound, noisy = (Fake(card.outputs, card.task, len(card.labels), noise) for noise in (0.0, 50.0))
    rows = rows_of("text-classification")
    for reduction, error, said in (
        (
            INT8,
            QuantizationError,
            r"INT8 agrees.*held out of calibration.*: calibrate on.*leave quantize=True",
        ),
        (FP16, PrecisionError, r"fp16 agrees.* 60 texts, and.*: judge on.*leave precision='fp16' out"),
    ):
        with pytest.raises(error, match=said) as caught:
            judged(sound, noisy, rows, card, reduction=reduction, options=replace(ANY, min_agreement=None))
        assert type(caught.value) is error


def test_what_was_asked_stands_in_the_figures() -> None:
    card = card_of("text-classification")
    sound = Fake(card.outputs, card.task, len(card.labels))
    options = ExportOptions(quantize=True, min_agreement=0.25)
    found = judged(sound, sound, rows_of("text-classification"), card, options=options)
    assert (found.agreement, found.min_agreement, found.texts) == (1.0, 0.25, 60)


@pytest.mark.parametrize(("file", "hint"), [(None, "of the kind"), (Path("texts.txt"), "on more texts, or")])
def test_whose_texts_they_were_decides_what_may_help(file: Path | None, hint: str) -> None:
    card = card_of("text-classification")
    sound, noisy = (Fake(card.outputs, card.task, len(card.labels), noise) for noise in (0.0, 50.0))
    options = ExportOptions(quantize=True, calibration=file)
    with pytest.raises(QuantizationError, match=hint):
        judged(sound, noisy, rows_of("text-classification"), card, options=options)


FIGURES = AgreementFigures(
    metric="labels",
    agreement=0.9765,
    worst=0.9765,
    min_agreement=0.99,
    texts=128,
    mean_abs_difference=0.1,
)


@pytest.mark.parametrize(
    ("reduction", "options"),
    [(INT8, ("--min-agreement 0.976", "--quantize")), (FP16, ("--min-agreement 0.976", "--precision fp16"))],
)
@pytest.mark.parametrize(("own", "hint"), [(True, "texts of the kind"), (False, "more texts")])
def test_too_little_agreement_is_refused_with_what_may_help(
    own: bool, hint: str, reduction: Reduction, options: tuple[str, str]
) -> None:
    with pytest.raises(PrecisionError) as caught:
        require_agreement(reduction, FIGURES, own_texts=own)
    message = caught.value.worded(COMMAND_LINE)
    for part in ("97.65%", "labels", "128 texts", "and 99% was", "no file", hint, "--calibration FILE"):
        assert part in message
    assert f"accept it with {options[0]}; or leave {options[1]} out" in message
    assert ("held out" in message) is reduction.tuned


def test_a_share_just_below_does_not_read_as_the_one_asked_for() -> None:
    near = replace(FIGURES, agreement=0.98999999)
    with pytest.raises(QuantizationError, match=r"98\.99%.*99% was asked.*min_agreement=0\.989"):
        require_agreement(INT8, near, own_texts=True)


def test_what_the_message_offers_is_accepted() -> None:
    require_agreement(INT8, replace(FIGURES, min_agreement=0.976), own_texts=True)
    require_agreement(INT8, replace(FIGURES, min_agreement=0.9765), own_texts=True)
