"""A temperature by labelled texts: the one that makes labels most likely, in the graph and on the card."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertonnx
from bertonnx.errors import InputError, UsageError
from bertonnx.exporters.temperature import fitted_temperature
from bertonnx.models.card import Card
from tests.commands import Command
from tests.tiny import save_tiny

NAMES = ("negative", "neutral", "positive")
TEXTS = [f"{word} {other} {number}" for number in range(8) for word in "abcdef" for other in "ghijk"]


def best_by_torch(logits: Any, truth: Any, *, classes: bool) -> float:
    """Return the temperature that L-BFGS finds, as the code of Guo et al. does."""
    given, wanted = torch.tensor(logits), torch.tensor(truth)
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def loss() -> Any:
        optimizer.zero_grad()
        scaled = given / logarithm.exp()
        value = (
            torch.nn.functional.cross_entropy(scaled, wanted)
            if classes
            else torch.nn.functional.binary_cross_entropy_with_logits(scaled, wanted)
        )
        value.backward()
        return value

    optimizer.step(loss)
    return float(logarithm.detach().exp())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 7.0])
@pytest.mark.parametrize("classes", [True, False])
def test_the_temperature_is_that_of_the_least_loss(temperature: float, classes: bool) -> None:
    random = np.random.default_rng(7)
    logits = random.normal(size=(2000, 4)) * 3
    scaled = logits / temperature
    if classes:
        scores = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
        truth = np.array([np.eye(4)[random.choice(4, p=row)] for row in scores])
    else:
        truth = (random.random(logits.shape) < 1 / (1 + np.exp(-scaled))).astype(np.float64)
    found = fitted_temperature(logits, truth, classes=classes, path="x.csv")
    assert found == pytest.approx(best_by_torch(logits, truth, classes=classes), rel=1e-5)
    assert found == pytest.approx(temperature, rel=0.15)
    assert found == np.float32(found)


def test_labels_for_which_none_is_best() -> None:
    logits = np.array([[2.0, -1.0], [-1.0, 2.0]] * 20)
    truth = (logits > 0).astype(np.float64)
    with pytest.raises(
        InputError, match=r"is right about every row of x\.csv, so that no temperature is best"
    ):
        fitted_temperature(logits, truth, classes=True, path="x.csv")
    with pytest.raises(InputError, match=r"say no more of the labels of x\.csv than chance"):
        fitted_temperature(logits, 1 - truth, classes=True, path="x.csv")


def written(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def drawn(model: Path, path: Path, *, sharpness: float) -> Path:
    """Write labels as they would be if logits were worth so much more than the model's softmax says."""
    random = np.random.default_rng(1)
    with bertonnx.load(model, "cpu") as opened:
        logits = np.array([list(item["scores"].values()) for item in opened.classify(TEXTS, raw_scores=True)])
    logits = (logits - logits.mean(axis=0)) * sharpness
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [NAMES[random.choice(3, p=row)] for row in scores]
    return written(path, list(zip(TEXTS, labels, strict=True)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("it") / "it", "bert", "text-classification", labels=NAMES)


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bertonnx.export(source, tmp_path_factory.mktemp("plain") / "model.onnx").path


@pytest.mark.parametrize(
    "options", [{}, {"quantize": True, "min_agreement": 0.5}, {"precision": "fp16", "min_agreement": 0.5}]
)
def test_an_export(options: dict[str, Any], source: Path, plain: Path, tmp_path: Path) -> None:
    file = drawn(plain, tmp_path / "labelled.csv", sharpness=4.0)
    report = bertonnx.export(source, tmp_path / "model.onnx", calibrate_scores=file, **options)
    figures = report.card.calibration
    assert figures is not None
    assert figures.rows == len(TEXTS)
    assert abs(np.log(figures.temperature)) > 0.1
    assert figures.ece_after < figures.ece_before
    assert figures.nll_after < figures.nll_before
    # Parity had the temperature in PyTorch, and golden examples have it.
    assert report.card.parity is not None
    assert bertonnx.check(report.path, "cpu").examples > 0
    assert Card.from_json(report.card.to_json()) == report.card
    with bertonnx.load(report.path, "cpu") as model:
        items = model.classify(TEXTS[:9])
        raw = model.classify(TEXTS[:9], raw_scores=True)
    for item, logits in zip(items, raw, strict=True):
        scaled = np.array(list(logits["scores"].values())) / figures.temperature
        scores = np.exp(scaled) / np.exp(scaled).sum()
        allowed = 1e-6 if report.card.precision != "fp16" else 2e-3
        assert list(item["scores"].values()) == pytest.approx(scores.tolist(), abs=allowed)
        assert item["label"] == logits["label"]


def test_of_several_labels_and_how_it_is_shown(command: Command, tmp_path: Path) -> None:
    kind = "multi_label_classification"
    source = save_tiny(tmp_path / "it", "bert", "text-classification", labels=NAMES, problem_type=kind)
    random = np.random.default_rng(3)
    with bertonnx.load(bertonnx.export(source, tmp_path / "plain.onnx").path, "cpu") as model:
        scores = np.array([list(item["scores"].values()) for item in model.classify(TEXTS)])
    truth = random.random(scores.shape) < scores
    labels = ["[" + ", ".join(f'"{NAMES[i]}"' for i in np.flatnonzero(row)) + "]" for row in truth]
    lines = [f'{{"text": "{text}", "labels": {some}}}' for text, some in zip(TEXTS, labels, strict=True)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    model_file = tmp_path / "model.onnx"
    done = command("export", source, "-o", model_file, "--calibrate-scores", tmp_path / "in.jsonl")
    assert done.code == 0, done.err
    (temperature,) = re.findall(r"calibrated +temperature ([\d.]+), by 240 labelled rows", done.out)
    assert 0.7 < float(temperature) < 1.4
    assert "expected calibration error" in done.out
    assert temperature in command("info", model_file).out


ROWS = [(text, NAMES[place % 3]) for place, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:9], "has 9 labelled rows, and a temperature needs at least 20"),
        ([(text, "neutral") for text in TEXTS], "have the same label, which says nothing of scores"),
        ([*ROWS, ("a", "angry")], "has labels that the model does not know: angry; it knows negative"),
        ([("", "")], "no row of .* has a text and a label"),
    ],
)
def test_files_that_cannot_be(rows: Any, message: str, source: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "labelled.csv", rows)
    with pytest.raises(InputError, match=message):
        bertonnx.export(source, tmp_path / "model.onnx", calibrate_scores=file)
    assert not (tmp_path / "model.onnx").exists()


def test_columns_that_nothing_names(source: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b,c\n" + "x,y,z\n" * 40)
    with pytest.raises(
        InputError, match=r"nothing says which .*\(they are: a, b, c\); call them text and label"
    ):
        bertonnx.export(source, tmp_path / "model.onnx", calibrate_scores=tmp_path / "in.csv")
    with pytest.raises(InputError, match=r"missing\.csv"):
        bertonnx.export(source, tmp_path / "model.onnx", calibrate_scores=tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "fill-mask",
            {},
            "is for probabilities of labels, as of .*, and the task is fill-mask; leave it out",
        ),
        ("text-ranking", {}, "and the task is text-ranking"),
        ("text-classification", {"problem_type": "regression"}, r"gives a number \(regression\)"),
        (
            "text-classification",
            {"activation": "tanh"},
            "scores are made by tanh; leave it out, or add activ",
        ),
    ],
)
def test_models_that_have_no_probabilities(
    task: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    activation = options.pop("activation", None)
    source = save_tiny(tmp_path / "it", "bert", task, labels=NAMES, **options)
    file = written(tmp_path / "labelled.csv", ROWS)
    with pytest.raises(UsageError, match=message):
        bertonnx.export(source, tmp_path / "m.onnx", calibrate_scores=file, activation=activation)
