"""`bertonnx train`: heads on a file, and fine-tuning, from a labelled table to a file that answers."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

import bertonnx
from bertonnx.errors import (
    CheckpointError,
    InputError,
    MissingDependencyError,
    ModelFileError,
    OutputError,
    SourceError,
    TaskError,
    UsageError,
)
from bertonnx.exporters.training.lesson import read_lesson
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.wording import COMMAND_LINE
from tests.commands import Command, process
from tests.tiny import save_tiny

GOOD, BAD = ("lovely", "wonderful", "strong"), ("slow", "dull", "rain")
NAMES, PLACES = ("Ada", "Marie", "Orhan"), ("Bonn", "Vienna", "Denver")


def sentences(count: int) -> list[tuple[str, str]]:
    """Texts whose words say their label."""
    rows = []
    for n in range(count):
        words, label = ((GOOD, "good"), (BAD, "bad"))[n % 2]
        rows.append((f"The film number {n} is {words[n % 3]} and {words[(n + 1) % 3]}.", label))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("training")
    rows = [{"text": text, "label": label} for text, label in sentences(60)]
    _write(place / "single.jsonl", rows)
    _write(
        place / "pairs.jsonl",
        [{"premise": "The film", "hypothesis": r["text"], "label": r["label"]} for r in rows],
    )
    _write(
        place / "several.jsonl",
        [{"text": r["text"], "label": [r["label"], *(["odd"] * (n % 3 == 0))]} for n, r in enumerate(rows)],
    )
    _write(
        place / "numbers.jsonl", [{"text": r["text"], "label": 0.5 + (r["label"] == "good")} for r in rows]
    )
    tagged = []
    for n in range(40):
        text = f"{NAMES[n % 3]} moved from the sea to {PLACES[n % 3]} in {n}."
        start = text.index(PLACES[n % 3])
        spans = [[0, len(NAMES[n % 3]), "PER"], [start, start + len(PLACES[n % 3]), "LOC"]]
        tagged.append({"text": text, "entities": spans})
    _write(place / "tagged.jsonl", tagged)
    return place


def _write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("int8")
    checkpoint = save_tiny(place / "checkpoint", task="feature-extraction")
    return bertonnx.export(checkpoint, place / "model.onnx", quantize=True, min_agreement=0.5).path


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_head_is_that_of_scikit_learn(
    exported: dict[str, Path], int8: Path, folder: Path, tmp_path: Path, precision: str
) -> None:
    base = int8 if precision == "int8" else exported["feature-extraction"]
    made = bertonnx.train(base, folder / "single.jsonl", tmp_path / "m.onnx")
    texts = [text for text, _ in sentences(60)]
    with bertonnx.load(made.path) as model, bertonnx.load(base) as encoder:
        items = model.classify(texts)
        # Bits do not depend on the batch.
        assert [model.classify([text])[0] for text in texts[:5]] == items[:5]
        vectors = encoder.embed(texts)
    assert model.card.task == "text-classification"
    assert model.card.labels == ("bad", "good")
    assert model.card.precision == precision
    scores = np.array([[item["scores"][label] for label in ("bad", "good")] for item in items])
    # The regularized head is linear in the vectors, whatever scikit-learn's own settings.
    logits = np.log(scores[:, 1]) - np.log(scores[:, 0])
    design = np.c_[vectors, np.ones(60)]
    fitted, *_ = np.linalg.lstsq(design, logits, rcond=None)
    assert np.abs(design @ fitted - logits).max() < 1e-2
    reference = LogisticRegression(C=1e4, max_iter=5000).fit(vectors, [label for _, label in sentences(60)])
    agree = np.mean(reference.predict(vectors) == [item["label"] for item in items])
    assert agree >= 0.8
    assert bertonnx.check(made.path).examples > 10


def test_the_report_is_of_rows_that_were_not_trained_on(
    exported: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    made = bertonnx.train(exported["feature-extraction"], folder / "single.jsonl", tmp_path / "m.onnx")
    figures = made.card.training
    assert figures is not None
    assert (figures.kind, figures.rows, figures.measured_rows) == ("head", 48, 12)
    assert figures.scores == made.evaluation.scores
    assert {*figures.baselines} == {"majority", "TF-IDF"}
    # What words say, words find.
    assert figures.baselines["TF-IDF"]["accuracy"] == 1.0
    assert figures.difference is not None
    assert figures.difference < 1e-4
    # As it was written, and without any text of the user's.
    text = read_model_file(made.path).metadata["bertonnx.card"]
    assert read_model_file(made.path).card.training == figures
    assert "The film number" not in text


def test_a_report_that_cannot_be_written_says_that_the_model_was(
    exported: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("cannot write r.html: No space left on device")

    monkeypatch.setattr("bertonnx.exporters.training.train.write_report", full)
    base, path = exported["feature-extraction"], tmp_path / "m.onnx"
    with pytest.raises(
        OutputError, match=r"left on device; the model is complete: bertonnx\.evaluate"
    ) as caught:
        bertonnx.train(base, folder / "single.jsonl", path, report=tmp_path / "r.json")
    said = caught.value.worded(COMMAND_LINE)
    assert f"bertonnx evaluate {path} LABELLED --report {tmp_path / 'r.json'} measures it again" in said
    assert bertonnx.check(path).examples


def test_the_same_training_gives_the_same_file(
    exported: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    for name in ("one.onnx", "two.onnx"):
        bertonnx.train(exported["feature-extraction"], folder / "single.jsonl", tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_pairs_several_labels_and_numbers(exported: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    base = exported["feature-extraction"]
    pairs = bertonnx.train(
        base, folder / "pairs.jsonl", tmp_path / "p.onnx", column="premise", pair_column="hypothesis"
    )
    assert pairs.card.pairs is True
    with bertonnx.load(pairs.path) as model:
        assert model.classify(["The film"], ["It is slow."])[0]["label"] in ("good", "bad")
    several = bertonnx.train(base, folder / "several.jsonl", tmp_path / "s.onnx")
    assert several.card.problem_type == "multi_label_classification"
    assert several.card.labels == ("bad", "good", "odd")
    with bertonnx.load(several.path) as model:
        assert {*model.classify(["slow"])[0]} == {"labels", "scores"}
    columns = tmp_path / "columns.csv"
    columns.write_text("text,bad,good,odd\nslow,1,0,0\nlovely,0,1,1\n")
    assert bertonnx.evaluate(several.path, columns, label_column="bad,good,odd").rows == 2
    with pytest.raises(UsageError, match=r"bad is one of the model's labels; .* label_column='bad,good,odd'"):
        bertonnx.evaluate(several.path, columns, label_column="bad")
    numbers = bertonnx.train(base, folder / "numbers.jsonl", tmp_path / "n.onnx")
    assert numbers.card.problem_type == "regression"
    assert [*numbers.evaluation.scores] == ["pearson", "spearman", "mae", "rmse"]
    with bertonnx.load(numbers.path) as model:
        found = [item["score"] for item in model.classify([text for text, _ in sentences(60)])]
    assert np.std(found) > 0.05


def test_entities(exported: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    made = bertonnx.train(exported["feature-extraction"], folder / "tagged.jsonl", tmp_path / "m.onnx")
    assert made.card.task == "token-classification"
    assert made.card.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    with bertonnx.load(made.path) as model:
        (item,) = model.entities(["Ada moved from the sea to Bonn in 7."])
    assert {("PER", "Ada"), ("LOC", "Bonn")} <= {(e["entity"], e["text"]) for e in item["entities"]}


@pytest.mark.parametrize("kind", ["head", "fine-tuning"])
def test_entities_past_the_limit_are_learned_and_measured_in_windows(
    exported: dict[str, Path], base: Path, tmp_path: Path, kind: str
) -> None:
    rows = []
    for n in range(40):
        text = f"{NAMES[n % 3]} moved {'from the sea ' * 40}to {PLACES[n % 3]} in {n}."
        start = text.index(PLACES[n % 3])
        spans = [[0, len(NAMES[n % 3]), "PER"], [start, start + len(PLACES[n % 3]), "LOC"]]
        rows.append({"text": text, "entities": spans})
    _write(tmp_path / "train.jsonl", rows[:30])
    _write(tmp_path / "measure.jsonl", rows[30:])
    source = exported["feature-extraction"] if kind == "head" else base
    given: dict[str, Any] = {} if kind == "head" else {"epochs": 2, "measure_int8": False}
    made = bertonnx.train(
        source, tmp_path / "train.jsonl", tmp_path / "m.onnx", validation=tmp_path / "measure.jsonl", **given
    )
    assert "B-LOC" in made.card.labels
    assert not any("were cut" in note for note in made.notes)
    again = bertonnx.evaluate(made.path, tmp_path / "measure.jsonl", provider="cpu")
    assert made.evaluation.scores == again.scores
    if kind == "head":
        assert made.evaluation.labels["LOC"].recall > 0.5


def test_entities_on_an_int8_file(int8: Path, folder: Path, tmp_path: Path) -> None:
    made = bertonnx.train(int8, folder / "tagged.jsonl", tmp_path / "m.onnx")
    assert (made.card.precision, made.card.task) == ("int8", "token-classification")
    with bertonnx.load(made.path) as model:
        texts = ["Ada moved from the sea to Bonn in 7.", "Bonn"]
        # Bits do not depend on the batch.
        assert model.entities(texts)[0] == model.entities(texts[:1])[0]


@pytest.mark.parametrize("phase", range(6))
def test_a_head_that_is_interrupted_leaves_nothing(
    exported: dict[str, Path], folder: Path, tmp_path: Path, phase: int
) -> None:
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if len(said) > phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bertonnx.train(
            exported["feature-extraction"], folder / "single.jsonl", tmp_path / "m.onnx", progress=stop
        )
    assert not [*tmp_path.iterdir()]


def test_a_head_needs_no_torch(exported: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, bertonnx\n"
        "bertonnx.train(*sys.argv[1:])\n"
        "print([name for name in ('torch', 'transformers', 'optimum') if name in sys.modules])"
    )
    arguments = [exported["feature-extraction"], folder / "single.jsonl", tmp_path / "m.onnx"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_is_refused(exported: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    single = folder / "single.jsonl"
    base = exported["feature-extraction"]
    with pytest.raises(TaskError, match="was exported for fill-mask, and a head is trained on the vectors"):
        bertonnx.train(exported["fill-mask"], single, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="epochs=5 is for fine-tuning a checkpoint"):
        bertonnx.train(base, single, tmp_path / "m.onnx", epochs=5)
    with pytest.raises(UsageError, match=r"validation_share=1.5 is no share"):
        bertonnx.train(base, single, tmp_path / "m.onnx", validation_share=1.5)
    with pytest.raises(
        UsageError, match=r"class_weights=.balanced. is for labels, and those of .* are amounts"
    ):
        bertonnx.train(base, folder / "numbers.jsonl", tmp_path / "m.onnx", class_weights="balanced")
    mine, page = Path(shutil.copy(single, tmp_path / "mine.jsonl")), tmp_path / "m.html"
    own = Path(shutil.copy(base, tmp_path / "base.onnx"))
    settings: tuple[dict[str, Any], ...] = (
        {"output": mine},
        {"output": own},
        {"output": page, "report": page},
    )
    for given in settings:
        with pytest.raises(UsageError, match="would be written over, and is named for something else too"):
            bertonnx.train(own, mine, force=True, **given)
    assert mine.read_bytes() == single.read_bytes()
    assert own.read_bytes() == base.read_bytes()
    mine.unlink()
    own.unlink()
    # Not looked for on the Hub, which would take it for a checkpoint's id.
    with pytest.raises(ModelFileError, match=r"there is no file .*none\.onnx"):
        bertonnx.train(tmp_path / "none.onnx", single, tmp_path / "m.onnx")
    with pytest.raises(SourceError, match="cannot be looked up: File name too long"):
        bertonnx.train("x" * 100_000, single, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="there is no file"):
        bertonnx.train(base, tmp_path / "none.csv", tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"exists; add force=True"):
        bertonnx.train(base, single, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.fixture(scope="module")
def tuned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bertonnx.TrainReport:
    place = tmp_path_factory.mktemp("tuned")
    save_tiny(place / "base", task="fill-mask")
    return bertonnx.train(
        place / "base",
        folder / "single.jsonl",
        place / "m.onnx",
        epochs=20,
        patience=20,
        learning_rate=5e-3,
        batch_size=8,
    )


def test_fine_tuning_learns_and_is_exported(tuned: bertonnx.TrainReport) -> None:
    figures = tuned.card.training
    assert figures is not None
    assert figures.kind == "fine-tuning"
    assert figures.base == {"id": "base", "revision": None}
    assert figures.scores["accuracy"] >= 0.9
    assert tuned.card.parity is not None
    assert tuned.card.labels == ("bad", "good")
    assert any("INT8" in note for note in tuned.notes)
    # Nothing stays beside the file.
    assert sorted(path.name for path in tuned.path.parent.iterdir()) == ["base", "m.onnx"]
    assert bertonnx.check(tuned.path).examples > 10


def test_fine_tuning_is_deterministic(folder: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", task="fill-mask")
    made = [
        bertonnx.train(
            tmp_path / "base", folder / "single.jsonl", tmp_path / name, epochs=1, measure_int8=False
        )
        for name in ("one.onnx", "two.onnx")
    ]
    assert made[0].card.weights_sha256 == made[1].card.weights_sha256
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def _cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _broken_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.LayerNorm.bias"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "tokenizer": (_without_tokenizer, {}, CheckpointError, "base has no tokenizer"),
    "weights": (_cut_weights, {}, CheckpointError, "base cannot be loaded for training: .*header"),
    "NaN": (_broken_weights, {}, CheckpointError, "LayerNorm.bias hold NaN or infinity"),
    "short": (None, {"max_length": 2}, UsageError, "max_length=2 leaves no room for text"),
    "long": (None, {"max_length": 99_999}, UsageError, "max_length=99999 is more than the checkpoint reads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_export_would_refuse_is_refused_before_the_training(
    folder: Path, tmp_path: Path, name: str
) -> None:
    damage, options, error, said = REFUSED[name]
    base = save_tiny(tmp_path / "base", task="fill-mask")
    if damage is not None:
        damage(base)
    steps: list[str] = []
    with pytest.raises(error, match=said):
        bertonnx.train(base, folder / "single.jsonl", tmp_path / "m.onnx", progress=steps.append, **options)
    assert not any("fine-tuning" in step for step in steps)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("kind", ["head", "fine-tuning"])
def test_texts_that_were_cut_are_counted(
    exported: dict[str, Path], base: Path, folder: Path, tmp_path: Path, kind: str
) -> None:
    given: dict[str, Any] = {} if kind == "head" else {"epochs": 1, "measure_int8": False}
    source = exported["feature-extraction"] if kind == "head" else base
    with warnings.catch_warnings():
        warnings.simplefilter("error", bertonnx.TruncationWarning)
        made = bertonnx.train(source, folder / "single.jsonl", tmp_path / "m.onnx", max_length=8, **given)
    assert "48 of 48 texts to train on were cut to 8 tokens" in made.notes
    assert "12 of 12 texts to measure on were cut to 8 tokens" in made.notes


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "base", task="fill-mask")


def test_a_fine_tuning_that_is_interrupted_is_kept_and_goes_on(
    base: Path, folder: Path, tmp_path: Path
) -> None:
    phases = ["fine-tuning: epoch 1", "comparing with PyTorch"]

    def stop(line: str) -> None:
        if phases and line.startswith(phases[0]):
            del phases[0]
            raise KeyboardInterrupt

    given: dict[str, Any] = {"epochs": 2, "measure_int8": False, "progress": stop}
    single = folder / "single.jsonl"
    with pytest.raises(KeyboardInterrupt):
        bertonnx.train(base, single, tmp_path / "m.onnx", **given)
    # Trained, and stopped while it is exported.
    with pytest.raises(KeyboardInterrupt):
        bertonnx.train(base, single, tmp_path / "m.onnx", resume=True, **given)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx.training"]
    whole = bertonnx.train(base, single, tmp_path / "m.onnx", resume=True, **given)
    assert whole.card.training is not None
    assert whole.card.training.settings["epochs"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_second_training_of_one_file_is_refused_and_takes_nothing_away(
    base: Path, folder: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"epochs": 2, "measure_int8": False}

    def second(line: str) -> None:
        if line.startswith("fine-tuning: epoch 1"):
            with pytest.raises(OutputError, match=r"another run writes .*m\.onnx"):
                bertonnx.train(base, folder / "single.jsonl", tmp_path / "m.onnx", **given)

    made = bertonnx.train(base, folder / "single.jsonl", tmp_path / "m.onnx", progress=second, **given)
    assert made.card.training is not None
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


FULL = {
    "system": OSError(errno.ENOSPC, "No space left on device"),
    "safetensors": SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
}
"""What each of those that write a checkpoint raises on a full disk."""


@pytest.mark.parametrize("writer", FULL)
def test_a_full_disk_is_said_and_what_was_saved_stays(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    import transformers

    def full(*_: Any, **__: Any) -> None:
        raise FULL[writer]

    monkeypatch.setattr(transformers.Trainer, "train", full)
    with pytest.raises(OutputError, match=r"m\.onnx\.training cannot be written: .*resume=True"):
        bertonnx.train(base, folder / "single.jsonl", tmp_path / "m.onnx", epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx.training"]


def test_adapters_without_peft_are_refused_before_anything_is_trained(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match="lora=4 needs peft"):
        bertonnx.train(base, folder / "single.jsonl", tmp_path / "m.onnx", lora=4)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["several", "tagged"])
def test_rare_labels_count_as_much(base: Path, folder: Path, tmp_path: Path, name: str) -> None:
    import torch

    from bertonnx.exporters.training import fine_tune

    options = TrainOptions(class_weights="balanced", epochs=1)
    lesson = read_lesson(folder / f"{name}.jsonl", options)
    tuned = fine_tune.fine_tune(base, lesson, tmp_path / "work", options, lambda _: None)
    assert (tuned.folder / "model.safetensors").is_file()
    rows = [{"labels": [1.0, 0.0, 1.0]}, {"labels": [1.0, 0.0, 0.0]}, {"labels": [1.0, 1.0, 0.0]}]
    if name == "several":
        weights = fine_tune._class_weights(lesson, rows, options)
        assert torch.equal(weights, torch.tensor([0.0, 2.0, 2.0]))
    else:
        # Of the tags that are there each weighs as much in sum; special tokens are none.
        weights = fine_tune._class_weights(lesson, [{"labels": [-100, 0, 0, 0, 1, -100]}], options)
        assert torch.equal(weights[:2], torch.tensor([4 / 6, 2.0]))


def test_fine_tuning_of_entities_with_adapters(folder: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", task="fill-mask")
    made = bertonnx.train(
        tmp_path / "base",
        folder / "tagged.jsonl",
        tmp_path / "m.onnx",
        lora=4,
        epochs=2,
        learning_rate=1e-2,
        batch_size=4,
        measure_int8=False,
    )
    assert made.card.task == "token-classification"
    assert made.card.training is not None
    assert made.card.training.settings["lora"] == 4
    assert made.evaluation.kind == "entities"


def test_a_tensorflow_checkpoint_is_fine_tuned(folder: Path, tmp_path: Path) -> None:
    base = Path(__file__).parents[1] / "checkpoint" / "tensorflow" / "data" / "google-pretraining" / "source"
    made = bertonnx.train(base, folder / "single.jsonl", tmp_path / "m.onnx", epochs=1, measure_int8=False)
    assert made.card.labels == ("bad", "good")
    assert made.card.training is not None
    assert made.card.training.base["id"] == "source"


def test_a_fine_tuning_that_was_killed_goes_on(folder: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", task="fill-mask")
    output = tmp_path / "m.onnx"
    arguments = ["train", tmp_path / "base", folder / "single.jsonl", "-o", output, "--epochs", 4]
    arguments += ["--no-measure-int8", "--patience", 4]
    whole = bertonnx.train(
        tmp_path / "base",
        folder / "single.jsonl",
        tmp_path / "whole.onnx",
        epochs=4,
        measure_int8=False,
        patience=4,
    )
    running = process(*arguments)
    assert running.stderr is not None
    # Killed at the end of an epoch, while it is saved.
    for line in running.stderr:
        if b"epoch 2" in line:
            break
    running.kill()
    running.communicate()
    assert not output.exists()
    resumed = bertonnx.train(
        tmp_path / "base",
        folder / "single.jsonl",
        output,
        epochs=4,
        measure_int8=False,
        patience=4,
        resume=True,
    )
    assert resumed.card.weights_sha256 == whole.card.weights_sha256
    with pytest.raises(UsageError, match="there is nothing to go on with"):
        bertonnx.train(tmp_path / "base", folder / "single.jsonl", tmp_path / "n.onnx", resume=True)


def test_the_command(command: Command, exported: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    done = command(
        "train",
        exported["feature-extraction"],
        folder / "single.jsonl",
        "-o",
        tmp_path / "m.onnx",
        "--report",
        tmp_path / "r.html",
    )
    assert done.code == 0, done.err
    assert "TF-IDF baseline" in done.out
    assert "next: bertonnx run" in done.out
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert command("info", tmp_path / "m.onnx").code == 0
