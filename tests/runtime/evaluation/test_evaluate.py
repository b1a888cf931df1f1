"""`bertonnx evaluate`: from a labelled file to figures, a report and an exit code."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

import bertonnx
from bertonnx.errors import InputError, OutputError, TaskError, UsageError
from bertonnx.runtime.evaluation.evaluate import aligned
from bertonnx.runtime.modelfile.modelfile import read_model_file
from tests.commands import Command
from tests.corpus import SENTENCES

TEXTS = list(SENTENCES)[:24]
LABELS = ["negative", "neutral", "positive"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"text": text, "label": LABELS[n % 3]} for n, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_figures_are_those_of_the_predictions(classifier: Path, labelled: Path) -> None:
    found = bertonnx.evaluate(classifier, labelled)
    with bertonnx.load(classifier) as model:
        predicted = [item["label"] for item in model.classify(TEXTS)]
        # A model that is open is used as it is, and stays open.
        assert bertonnx.evaluate(model, labelled).scores == found.scores
        assert [item["label"] for item in model.classify(TEXTS)] == predicted
    actual = [LABELS[n % 3] for n in range(len(TEXTS))]
    assert found.scores["accuracy"] == pytest.approx(
        np.mean([a == b for a, b in zip(actual, predicted, strict=True)])
    )
    assert found.scores["macro_f1"] == pytest.approx(
        metrics.f1_score(actual, predicted, average="macro", zero_division=0.0)
    )
    assert found.baselines["majority"]["accuracy"] == pytest.approx(1 / 3, abs=0.01)


def test_labels_that_differ_in_capitals_alone_are_told_apart(classifier: Path) -> None:
    card = replace(read_model_file(classifier).card, labels=("GOOD", "good", "Bad"))
    names, said = aligned(["good", "GOOD", "bad"], card, "rows.csv")
    assert names == {"good": "good", "GOOD": "GOOD", "bad": "Bad"}
    assert not said


def test_numbers_are_places_of_labels_and_other_names_are_refused(
    classifier: Path, labelled: Path, tmp_path: Path
) -> None:
    wanted = bertonnx.evaluate(classifier, labelled).scores
    for write in (str, "LABEL_{}".format, lambda place: LABELS[place].upper()):
        rows = [{"text": text, "label": write(n % 3)} for n, text in enumerate(TEXTS)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert bertonnx.evaluate(classifier, tmp_path / "rows.jsonl").scores == wanted
    (tmp_path / "rows.csv").write_text("text,label\na,positive\nb,angry\nc,3\n")
    with pytest.raises(InputError, match=r"does not know: 3, angry; it knows negative, neutral, positive"):
        bertonnx.evaluate(classifier, tmp_path / "rows.csv")


def test_a_whole_number_is_the_models_label_however_either_writes_it(classifier: Path) -> None:
    # As places, 1 would be another label.
    card = replace(read_model_file(classifier).card, labels=("1.0", "2.0", "3.0"))
    names, said = aligned(["1", "2"], card, "rows.csv")
    assert names == {"1": "1.0", "2": "2.0"}
    assert not said


def test_mistakes_are_named_by_their_rows_of_the_file(classifier: Path, tmp_path: Path) -> None:
    with bertonnx.load(classifier) as model:
        said = [item["label"] for item in model.classify(TEXTS)]
    wrong = [next(label for label in LABELS if label != found) for found in said]
    asked = [*zip(TEXTS, wrong, strict=True)]
    rows = [("nobody said", None), (" ", "neutral"), *asked[:3], ("nor this", None), *asked[3:]]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    found = bertonnx.evaluate(classifier, tmp_path / "rows.jsonl")
    assert found.mistakes
    assert [rows[item.row][0] for item in found.mistakes] == [item.text for item in found.mistakes]


@pytest.mark.filterwarnings("always::bertonnx.TruncationWarning")
def test_texts_that_are_cut_are_said_in_the_words_of_the_command_line(
    command: Command, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(f"text,label\n{'word ' * 2000},positive\n")
    done = command("evaluate", classifier, tmp_path / "rows.csv")
    assert done.code == 0
    assert done.err.startswith("warning: 1 of 1 texts were cut to ")
    assert done.err.endswith("tokens; --long-text stride reads them whole\n")
    assert done.err.count("\n") == 1


def test_entities(exported: dict[str, Path], tmp_path: Path) -> None:
    model = exported["token-classification"]
    with bertonnx.load(model) as opened:
        items = opened.entities(TEXTS, aggregation="first")
    rows = [
        {
            "text": text,
            "entities": [
                {"start": e["start"], "end": e["end"], "label": e["entity"]} for e in item["entities"]
            ],
        }
        for text, item in zip(TEXTS, items, strict=True)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = bertonnx.evaluate(model, path)
    assert found.scores["f1"] == 1.0
    assert not found.mistakes
    path.write_text(json.dumps({"text": "Ada", "entities": [[0, 3, "DATE"]]}))
    with pytest.raises(InputError, match="entities that the model does not know: DATE; it knows LOC, PER"):
        bertonnx.evaluate(model, path)


def test_the_command(command: Command, classifier: Path, labelled: Path, tmp_path: Path) -> None:
    done = command("evaluate", classifier, labelled, "--report", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert "accuracy" in done.out
    assert "majority baseline" in done.out
    assert "not better than the majority baseline" in done.out
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg role='img' aria-label='") == page.count("<svg") == page.count("<figcaption>") == 2
    # No cell of a table is without a heading that says what it is.
    assert "<th>" not in page
    assert "<script" not in page
    assert "The worst mistakes" in page
    command("evaluate", classifier, labelled, "--report", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page
    low = command("evaluate", classifier, labelled, "--min-f1", "0.99")
    assert low.code == 1
    assert re.search(r"macro F1 is 0\.\d{4}, less than --min-f1 0\.99", low.err)
    assert command("evaluate", classifier, labelled, "--min-f1", "0").code == 0
    assert command("evaluate", classifier, labelled, "--min-f1", "7").code == 2


def test_a_text_is_no_markup_in_a_report(classifier: Path, tmp_path: Path) -> None:
    rows = [{"text": f"<script>alert({n})</script> $x", "label": LABELS[n % 3]} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bertonnx.evaluate(classifier, tmp_path / "rows.jsonl", report=tmp_path / "r.html")
    assert "<script" not in (tmp_path / "r.html").read_text()
    bertonnx.evaluate(classifier, tmp_path / "rows.jsonl", report=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == 9


def test_a_report_goes_where_its_link_leads(classifier: Path, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "r.json").symlink_to(tmp_path / "real.json")
    bertonnx.evaluate(classifier, labelled, report=tmp_path / "r.json")
    assert (tmp_path / "r.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["rows"]
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OutputError, match="no file but a device, a pipe"):
        bertonnx.evaluate(classifier, labelled, report=tmp_path / "pipe.json")


def test_what_cannot_be_measured(
    exported: dict[str, Path], classifier: Path, labelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match="a model for fill-mask gives no labels"):
        bertonnx.evaluate(exported["fill-mask"], labelled)
    with pytest.raises(UsageError, match=r"names no format; use one of .html .json"):
        bertonnx.evaluate(classifier, labelled, report=tmp_path / "r.pdf")
    with pytest.raises(OutputError, match="cannot write"):
        bertonnx.evaluate(classifier, labelled, report=tmp_path / "no" / "r.html")
