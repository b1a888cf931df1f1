"""From JSON to typed values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from bertonnx.errors import ModelFileError
from bertonnx.models.card import Card, lasting
from bertonnx.models.figures import HalfFigures, OutputParity, ParityFigures, as_json
from bertonnx.models.reading import WrongKindError, read
from tests.fake_predictor import card
from tests.figures import INT8_FIGURES


@dataclass(frozen=True)
class Point:
    x: float
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 3, 3),
        (float, 3, 3),
        (float, 0.5, 0.5),
        (bool, True, True),
        (str | None, None, None),
        (str | None, "a", "a"),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[float | None, ...], [0.5, None], (0.5, None)),
        (Mapping[str, Mapping[str, int]], {"a": {"b": 1}}, {"a": {"b": 1}}),
        (Point, {"x": 1.5, "names": ["a"], "later": 3}, Point(1.5, ("a",))),
        (Point | None, {"x": 1.5}, Point(1.5)),
        (Point | None, {}, None),
        (Mapping[str, Point], {"a": {"x": 1.5}}, {"a": Point(1.5)}),
    ],
)
def test_what_is_of_the_kind_is_taken(kind: Any, value: Any, expected: Any) -> None:
    assert read(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True),
        (int, 1.0),
        (int, "1"),
        (float, False),
        (float, "1"),
        (bool, 1),
        (str, None),
        (int | None, {}),
        (int | None, "a"),
        (tuple[str, ...], "ab"),
        (tuple[str, ...], ["a", 1]),
        (Mapping[str, int], ["a"]),
        (Mapping[str, int], {"a": "b"}),
        (Point, {}),
        (Point, {"names": []}),
        (Point, {"x": "a"}),
        (Point, [1.5]),
        (Point | None, []),
    ],
)
def test_what_is_of_another_kind_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(WrongKindError):
        read(kind, value)


HALF = HalfFigures(
    metric="cosine",
    agreement=0.9999,
    worst=0.999,
    min_agreement=0.99,
    texts=256,
    mean_abs_difference=0.001,
    provider="cpu",
)
PARITY = ParityFigures(
    tolerance=1e-4,
    max_abs_difference=2e-6,
    max_abs_reference=3.0,
    outputs={"logits": OutputParity(2e-6, 3.0), "scores": OutputParity(1e-6, 1.0)},
)


def test_a_card_with_figures_is_read_as_it_was_written() -> None:
    full = replace(card("text-classification"), parity=PARITY, half=HALF, quantization=INT8_FIGURES)
    assert Card.from_json(full.to_json()) == full
    assert Card.from_json(full.to_json()).to_json() == full.to_json()
    assert Card.from_json(card("text-classification").to_json()).half is None


def test_the_keys_of_figures_and_their_order() -> None:
    written = json.loads(replace(card("text-classification"), parity=PARITY).to_json())
    assert (written["half"], written["quantization"]) == ({}, {})
    assert written["parity"] == {
        "tolerance": 1e-4,
        "max_abs_difference": 2e-6,
        "max_abs_reference": 3.0,
        "outputs": {
            "logits": {"max_abs_difference": 2e-6, "max_abs_reference": 3.0},
            "scores": {"max_abs_difference": 1e-6, "max_abs_reference": 1.0},
        },
        "independent": {},
    }
    judged = ["metric", "agreement", "worst", "min_agreement", "texts", "mean_abs_difference"]
    assert list(as_json(HALF)) == [*judged, "provider"]
    made = ["scheme", "target", "pair_safe", "layers", "tables", "smoothing_alpha", "calibration_texts"]
    sizes = ["weights_bytes", "weights_bytes_fp32"]
    assert list(as_json(INT8_FIGURES)) == [*made, *sizes, *judged, "cpu"]
    timed = replace(INT8_FIGURES, latency_ratio=2.0, latency_fp32_ms=4.0, latency_int8_ms=2.0)
    times = ["latency_ratio", "latency_fp32_ms", "latency_int8_ms"]
    assert list(as_json(timed)) == [*made, *sizes, *judged, "cpu", *times]


def test_times_stand_apart_and_where_older_cards_have_them() -> None:
    timed = replace(INT8_FIGURES, latency_ratio=2.0, latency_fp32_ms=4.0, latency_int8_ms=2.0)
    full = replace(card("text-classification"), quantization=timed)
    written = full.as_dict()
    assert written["measured"] == {"latency_ratio": 2.0, "latency_fp32_ms": 4.0, "latency_int8_ms": 2.0}
    assert written["quantization"] == as_json(INT8_FIGURES)
    assert Card.from_json(full.to_json()) == full
    other = replace(full, quantization=replace(timed, latency_int8_ms=3.0))
    assert lasting(other.to_json()) == lasting(full.to_json()) != full.to_json()
    older = {key: value for key, value in written.items() if key != "measured"}
    older["quantization"] = as_json(timed)
    assert Card.from_json(json.dumps(older)) == full
    assert lasting(json.dumps(older)) == json.dumps(older)
    with pytest.raises(ModelFileError, match=r"damaged \(measured: not of the right kind\)"):
        Card.from_json(json.dumps(written | {"measured": [1]}))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("parity", {"tolerance": None}),
        ("parity", {"outputs": [1]}),
        ("half", {"agreement": "high"}),
        ("quantization", {"pair_safe": "yes"}),
        ("quantization", {"smoothing_alpha": ["much"]}),
    ],
)
def test_figures_of_the_wrong_kind_are_named(field: str, change: dict[str, Any]) -> None:
    full = replace(card("text-classification"), parity=PARITY, half=HALF, quantization=INT8_FIGURES)
    written = full.as_dict()
    damaged = json.dumps(written | {field: written[field] | change})
    with pytest.raises(ModelFileError, match=rf"damaged \({field}: not of the right kind\)"):
        Card.from_json(damaged)
    without = {name: value for name, value in written[field].items() if name not in change}
    if "outputs" not in change:
        with pytest.raises(ModelFileError, match=rf"damaged \({field}: not of the right kind\)"):
            Card.from_json(json.dumps(written | {field: without}))


def test_what_a_newer_version_measured_is_ignored() -> None:
    full = replace(card("text-classification"), half=HALF)
    written = full.as_dict()
    written["half"] |= {"joules": 3}
    assert Card.from_json(json.dumps(written)) == full


def test_how_far_an_export_could_be_from_pytorch() -> None:
    assert PARITY.allowed == pytest.approx(3e-4)
    assert replace(PARITY, max_abs_reference=0.5).allowed == 1e-4
