"""Zero-shot classification: as transformers' pipeline does it, from a file to what a user sees."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

import bertonnx
from bertonnx.errors import RowError, TaskError, TruncationWarning, UsageError
from bertonnx.exporters.quiet import quiet
from bertonnx.runtime.engine.repeats import Repeats
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Row
from tests.commands import Command
from tests.tiny import save_tiny

TEXTS = [
    "Mars is red.",
    "I like tea, and Ada Lovelace wrote the first program.",
    "Le café est à côté — 火星は赤い 🔴",
    "a",
    "word " * 300,
]
LABELS = ["astronomy", "food, drink", "mathematics", "un très long sujet à propos de rien du tout"]
ORDERS: dict[str, tuple[str, ...]] = {
    "xlm-roberta": ("contradiction", "neutral", "entailment"),
    "deberta-v2": ("entailment", "neutral", "contradiction"),
    "bert": ("ENTAILMENT", "not_entailment"),
    "modernbert": ("contradiction", "entailment", "neutral"),
    "camembert": ("contradiction", "neutre", "implication"),
}


@pytest.fixture(scope="module", params=ORDERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return transformers' pipeline, and the file."""
    folder = tmp_path_factory.mktemp("nli")
    names = ORDERS[request.param]
    source = save_tiny(folder / "it", request.param, "text-classification", labels=names)
    report = bertonnx.export(source, folder / "model.onnx")
    with quiet():
        theirs = transformers.pipeline("zero-shot-classification", model=str(source), device="cpu")
    return theirs, report.path


@pytest.mark.filterwarnings("ignore::bertonnx.errors.TruncationWarning")
@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (LABELS, {}),
        (LABELS, {"multi_label": True}),
        (LABELS[1:2], {}),
        (LABELS, {"template": "Dieser Text handelt von {}."}),
        (LABELS[:2], {"template": "{}", "multi_label": True}),
    ],
)
def test_as_the_pipeline(labels: list[str], options: dict[str, Any], pair: tuple[Any, Path]) -> None:
    theirs, path = pair
    template = options.get("template", "This example is {}.")
    many = bool(options.get("multi_label"))
    with quiet():
        wanted = theirs(TEXTS, labels, hypothesis_template=template, multi_label=many)
    with bertonnx.load(path, "cpu") as model:
        found = model.zero_shot(TEXTS, labels, **options)
        alone = [model.zero_shot([text], labels, **options)[0] for text in TEXTS]
    assert found == alone
    for mine, other in zip(found, wanted, strict=True):
        scores = dict(zip(other["labels"], other["scores"], strict=True))
        assert list(mine["scores"]) == labels
        assert max(abs(mine["scores"][label] - scores[label]) for label in labels) <= 1e-5
        assert mine["score"] == mine["scores"][mine["label"]] == max(mine["scores"].values())
        assert ("truncated" in mine) == (mine is found[-1])


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nli")
    names = ("contradiction", "neutral", "entailment")
    source = save_tiny(folder / "it", "bert", "text-classification", labels=names)
    return bertonnx.export(source, folder / "model.onnx").path


@pytest.fixture
def model(nli: Path) -> Iterator[bertonnx.Model]:
    with bertonnx.load(nli, "cpu") as opened:
        yield opened


def test_long_texts_are_cut_for_each_label_and_said_once(model: bertonnx.Model) -> None:
    with pytest.warns(TruncationWarning, match="1 of 2 texts were cut"):
        model.zero_shot([TEXTS[0], TEXTS[4]], LABELS)


def test_a_text_tokenized_once_and_each_label_once(
    model: bertonnx.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Row] = []
    whole = type(model.tokenizer).whole

    def noted(self: Any, rows: Any) -> Any:
        seen.extend(rows)
        return whole(self, rows)

    monkeypatch.setattr(type(model.tokenizer), "whole", noted)
    monkeypatch.setattr(type(model.tokenizer), "encode_first_cut", None)
    monkeypatch.setattr(type(model.tokenizer), "encode", lambda self, rows: [None for _ in rows if self.fail])
    labels = [f"label {number}" for number in range(40)]
    texts = [f"text {number}" for number in range(7)]
    assert len(model.zero_shot(texts, labels)) == 7
    assert [row.text for row in seen[40:]] == texts
    assert len({row.pair for row in seen[:40]}) == 40


def test_thousands_of_labels_take_no_more_memory(
    model: bertonnx.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs are made as they are run: a chunk of them is held, and of the others their scores alone."""
    engine: Any = model._engine
    monkeypatch.setattr(engine, "_batching", replace(engine._batching, last_chunk=64))
    monkeypatch.setattr("bertonnx.runtime.engine.engine.Repeats", lambda: Repeats(10_000))
    sizes = []
    for count in (1000, 5000):
        labels = [f"label {number}" for number in range(count)]
        decode = DecodeOptions(labels=tuple(labels), multi_label=True)
        stream = model.stream([Row("Mars is red")], decode)  # labels are tokenized here
        tracemalloc.start()
        (item,) = stream
        assert isinstance(item, dict)
        assert len(item["scores"]) == count
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A pair that is held takes 1500 bytes. What grows is the result itself.
    assert sizes[1] - sizes[0] < 4000 * 400, sizes


def test_several_windows_of_a_text(nli: Path) -> None:
    """The logits of windows are averaged by how much of the text each has."""
    words = "tea is fine . " * 60
    with bertonnx.load(nli, "cpu", long_text="stride") as model:
        (item,) = model.zero_shot([words], ["food", "mathematics"], multi_label=True)
        assert "truncated" not in item
        whole = model.tokenizer.whole([Row(words, "This example is food.")])[0]
        assert not isinstance(whole, RowError)
        fixed = len(whole) - whole.sequence_ids.count(0)
        room = model.max_length - fixed
        ids = [i for i, owner in zip(whole.ids, whole.sequence_ids, strict=True) if owner == 0]
        tail = whole.ids[1 + len(ids) :]
        step = room - min(model.max_length // 2, room // 2)
        windows = []
        for start in range(0, len(ids) - room + step, step):
            windows.append([whole.ids[0], *ids[start : start + room], *tail])
    assert len(windows) > 2
    import onnxruntime

    session = onnxruntime.InferenceSession(nli, providers=["CPUExecutionProvider"])
    logits = []
    for window in windows:
        types = [0] * (len(window) - len(tail) + 1) + [1] * (len(tail) - 1)
        feeds = {"input_ids": [window], "attention_mask": [[1] * len(window)], "token_type_ids": [types]}
        logits.append(
            session.run(["logits"], {k: np.array(v, dtype=np.int64) for k, v in feeds.items()})[0][0]
        )
    against, _, for_it = np.average(logits, axis=0, weights=[len(window) - fixed for window in windows])
    assert item["scores"]["food"] == pytest.approx(1 / (1 + np.exp(against - for_it)), abs=1e-6)


def test_long_texts_can_be_errors(nli: Path) -> None:
    with bertonnx.load(nli, "cpu", long_text="error") as model:
        decode = DecodeOptions(labels=("food", "tea"))
        good, bad = model.stream([Row("Mars"), Row("word " * 300)], decode)
        assert isinstance(good, dict)
        assert getattr(bad, "kind", None) == "too-long"


def test_rows_that_fail_stay_in_their_place(model: bertonnx.Model, tmp_path: Path) -> None:
    lines = ['{"text": "Mars is red."}', "{", '{"text": null}', '"tea"', '{"text": ""}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    report = bertonnx.run(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", labels=["food", "tea"])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row.get("error", {}).get("type") for row in rows] == [
        *(None, "invalid-json", "missing-text", None, None)
    ]
    assert (report.rows, report.errors) == (5, 2)
    # An empty text is a text: the pipeline judges it by the template alone.
    assert sum(rows[4]["scores"].values()) == pytest.approx(1)


def test_every_format_has_a_column_for_each_label(
    command: Command, nli: Path, model: bertonnx.Model, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("Mars is red.\nI like tea.\n")
    asked = ("--label", "food, drink", "--label", "planets", "--template", "It is about {}.")
    wanted = model.zero_shot(
        ["Mars is red.", "I like tea."], ["food, drink", "planets"], template="It is about {}."
    )
    for name in ("o.jsonl", "o.csv", "o.tsv", "o.parquet", "o.arrow", "o.npy"):
        done = command("run", nli, tmp_path / "in.txt", "-o", tmp_path / name, *asked)
        assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["row", "label", "score", "scores"]] * 2
    assert [np.float32(line["score"]) for line in lines] == [item["score"] for item in wanted]
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["row", "label", "score", "score_food, drink", "score_planets"]
    assert [row["label"] for row in rows] == [item["label"] for item in wanted]
    table = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["score_planets"] for row in table] == [item["scores"]["planets"] for item in wanted]
    assert np.load(tmp_path / "o.npy").tolist() == [list(item["scores"].values()) for item in wanted]
    batch = pa.RecordBatch.from_pydict({"text": ["Mars is red.", "I like tea."]})
    given: dict[str, Any] = {"labels": ["food, drink", "planets"], "template": "It is about {}."}
    found = model.predict_batch(batch, **given)
    assert found.schema == model.batch_schema(**given)
    assert found["score_planets"].to_pylist() == [item["scores"]["planets"] for item in wanted]


def test_several_that_may_be_true(model: bertonnx.Model) -> None:
    (item,) = model.zero_shot(["Mars is red."], LABELS, multi_label=True, threshold=0.0, top_k=2)
    assert item["labels"] == LABELS
    assert [one["label"] for one in item["top"]] == sorted(LABELS, key=lambda x: -item["scores"][x])[:2]
    middle = sorted(item["scores"].values())[1]
    (item,) = model.zero_shot(["Mars is red."], LABELS, multi_label=True, threshold=middle)
    assert len(item["labels"]) == 2


def test_a_run_goes_on_with_the_same_labels_only(
    command: Command, nli: Path, model: bertonnx.Model, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("Mars is red.\nI like tea.\nVenus\n")
    output = tmp_path / "out.jsonl"

    def stop(progress: Any) -> None:
        if progress.rows == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bertonnx.run(model, tmp_path / "in.txt", output, labels=["tea", "red"], progress=stop)
    made = ("run", nli, tmp_path / "in.txt", "-o", output, "--resume", "--label", "tea")
    done = command(*made, "--label", "blue")
    assert (done.code, "was begun with --label tea --label red" in done.err) == (2, True), done.err
    assert command(*made, "--label", "red").code == 0
    rows = [json.loads(line)["label"] for line in output.read_text().splitlines()]
    assert rows == [
        item["label"] for item in model.zero_shot(["Mars is red.", "I like tea.", "Venus"], ["tea", "red"])
    ]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, "labels=[]: name at least one label"),
        ("tea", {}, "labels='tea': a list of texts is expected"),
        (5, {}, "labels=5: a list of texts is expected"),
        (["tea", " "], {}, "labels=[' ']: a label is empty"),
        (["tea", None], {}, "labels=[None]: a text is expected, and this is NoneType"),
        (["tea", "red", "tea"], {}, "labels=['tea'] is there more than once"),
        (["tea"], {"template": "no place"}, "template='no place' must have {} where the label goes"),
        (["tea"], {"template": "{} and {}"}, "must have {} where the label goes"),
        (["tea"], {"template": "{:>99999999999}"}, "must have {} where the label goes"),
        (["tea"], {"template": "{0.__class__}"}, "must have {} where the label goes"),
        (["tea"], {"template": "{"}, "template='{' is no template"),
        (["tea"], {"threshold": 0.3}, "threshold=0.3: the scores of labels add up to 1"),
        (["tea"], {"threshold": 1.5, "multi_label": True}, "threshold=1.5 is no threshold of scores"),
        (["tea"], {"threshold": float("nan"), "multi_label": True}, "threshold=nan is no threshold"),
        (["tea"], {"entailment": "yes"}, "entailment='yes': this model has no such label; it has contradi"),
        (["word " * 200], {}, "leaves no room for a text (the model takes 96)"),
        (["\ud800"], {}, "the text holds a lone surrogate"),
    ],
)
def test_labels_that_cannot_be(
    labels: Any, options: dict[str, Any], message: str, model: bertonnx.Model
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        model.zero_shot(["Mars is red."], labels, **options)


def test_literal_braces_in_a_template(model: bertonnx.Model) -> None:
    (item,) = model.zero_shot(["Mars"], ["tea"], template="{{{}}}")
    assert item == model.zero_shot(["Mars"], ["{tea}"], template="{}")[0] | {
        "label": "tea",
        "scores": {"tea": item["score"]},
    }


def test_no_texts(model: bertonnx.Model) -> None:
    assert model.zero_shot([], ["tea"]) == []


def test_models_that_are_none_of_inference(
    command: Command, exported: dict[str, Path], tmp_path: Path
) -> None:
    with bertonnx.load(exported["text-classification"], "cpu") as model:
        with pytest.raises(
            UsageError, match="entailment cannot be told: negative, neutral, positive; if one"
        ):
            model.zero_shot(["Mars"], ["tea"])
        # Whoever says so is believed.
        (item,) = model.zero_shot(["Mars"], ["tea", "red"], entailment="Positive")
        assert sum(item["scores"].values()) == pytest.approx(1)
    needed = r"zero_shot\(\) needs a model exported for text-classification"
    with bertonnx.load(exported["text-ranking"], "cpu") as ranker, pytest.raises(TaskError, match=needed):
        ranker.zero_shot(["Mars"], ["tea"])
    (tmp_path / "in.txt").write_text("Mars\n")
    done = command("run", exported["text-classification"], tmp_path / "in.txt", "--label", "tea")
    assert (done.code, "name it with --entailment LABEL" in done.err) == (2, True), done.err
    done = command("run", exported["feature-extraction"], tmp_path / "in.txt", "--label", "tea")
    assert (done.code, "--label tea is for text-classification" in done.err) == (2, True), done.err
    done = command("run", exported["text-classification"], tmp_path / "in.txt", "--multi-label")
    assert (done.code, "--multi-label is for zero-shot classification" in done.err) == (2, True), done.err


def test_labels_that_say_nothing(tmp_path: Path) -> None:
    names = ("LABEL_0", "LABEL_1", "LABEL_2")
    source = save_tiny(tmp_path / "it", "bert", "text-classification", labels=names)
    report = bertonnx.export(source, tmp_path / "model.onnx", optimize="none")
    with quiet():
        theirs = transformers.pipeline("zero-shot-classification", model=str(source), device="cpu")
        wanted = theirs("Mars is red.", ["tea", "planets"], multi_label=True)
    with bertonnx.load(report.path, "cpu") as model:
        with pytest.raises(
            UsageError, match="cannot be told: LABEL_0, LABEL_1, LABEL_2; if one of them does"
        ):
            model.zero_shot(["Mars is red."], ["tea", "planets"])
        given: dict[str, Any] = {"multi_label": True, "entailment": "LABEL_2"}
        (item,) = model.zero_shot(["Mars is red."], ["tea", "planets"], **given)
        for label, score in zip(wanted["labels"], wanted["scores"], strict=True):
            assert item["scores"][label] == pytest.approx(score, abs=1e-5)
        with pytest.raises(
            UsageError, match="which of this model's labels means contradiction cannot be told"
        ):
            model.zero_shot(["Mars is red."], ["tea"], multi_label=True, entailment="LABEL_1")


def test_int8(tmp_path: Path) -> None:
    source = save_tiny(
        tmp_path / "it", "bert", "text-classification", labels=("entailment", "neutral", "contradiction")
    )
    report = bertonnx.export(source, tmp_path / "model.onnx", quantize=True, min_agreement=0.5)
    plain = bertonnx.export(source, tmp_path / "plain.onnx")
    with bertonnx.load(report.path, "cpu") as small, bertonnx.load(plain.path, "cpu") as exact:
        found, wanted = (model.zero_shot(TEXTS[:4], LABELS) for model in (small, exact))
        alone = [small.zero_shot([text], LABELS)[0] for text in TEXTS[:4]]
    assert found == alone
    assert found != wanted
    for mine, other in zip(found, wanted, strict=True):
        assert list(mine["scores"].values()) == pytest.approx(list(other["scores"].values()), abs=0.1)
