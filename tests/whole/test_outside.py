"""A sixth task and a third provider, brought by tests alone, work everywhere: a row and its code is all.

What differs between tasks and providers is in their rows; whoever compares their names breaks this.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import DriftError, ProviderError, TaskError, UsageError
from bertonnx.models.providers import Provider
from bertonnx.models.tasks import TASKS
from bertonnx.runtime.doctor import Finding, examine
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.r_bridge import open_model, verify
from bertonnx.runtime.rows import as_rows
from bertonnx.wording import COMMAND_LINE
from tests.commands import Command, read_lines, written
from tests.outside import PROVIDER, TASK, provider_from_outside, task_from_outside
from tests.tiny import save_tiny

TEXTS = ["Ada wrote the first program.", "Paris", "", "Ada wrote the first program."]


@pytest.fixture(scope="module")
def surprise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Export a tiny checkpoint for the task from outside, which stays registered meanwhile."""
    folder = tmp_path_factory.mktemp("outside")
    source = save_tiny(folder / "checkpoint", task="fill-mask")
    with task_from_outside():
        yield bertonnx.export(source, folder / "model.onnx", task=TASK.name).path


@pytest.fixture
def provider() -> Iterator[Provider]:
    with provider_from_outside() as row:
        yield row


# A task ---------------------------------------------------------------------------------------------


def test_the_card_says_what_it_is(surprise: Path) -> None:
    card = read_model_file(surprise).card
    assert card.task == TASK.name
    assert card.outputs == tuple(TASK.outputs)
    assert card.labels == ()


def test_python_predicts(surprise: Path) -> None:
    with bertonnx.load(surprise, "cpu") as model:
        items = model.predict(TEXTS)
        assert [item["text"] for item in items] == TEXTS
        assert items == list(model.stream(as_rows(TEXTS)))
        tokens = [len(encoded.pieces[0].ids) for encoded in model.tokenize(TEXTS)]
        assert [item["tokens"] for item in items] == tokens
        assert 0 < sum(item["surprises"] for item in items) <= sum(tokens)


def test_methods_of_other_tasks_name_the_one_that_serves(surprise: Path) -> None:
    with bertonnx.load(surprise, "cpu") as model, pytest.raises(TaskError) as caught:
        model.classify(TEXTS)
    assert str(caught.value) == (
        "classify() needs a model exported for text-classification, and this one was exported for surprise; "
        "call predict(), or export with task='text-classification'"
    )


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_command_line_runs_it(surprise: Path, command: Command, tmp_path: Path, ending: str) -> None:
    file, output = written(tmp_path / "in.txt", "\n".join(TEXTS) + "\n"), tmp_path / f"out.{ending}"
    outcome = command("run", surprise, file, "-o", output, "--provider", "cpu")
    assert outcome.code == 0, outcome.err
    with bertonnx.load(surprise, "cpu") as model:
        expected = model.predict(TEXTS)
    if ending == "jsonl":
        assert read_lines(output) == [{"row": i, **item} for i, item in enumerate(expected)]
    else:
        with output.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [int(row["surprises"]) for row in rows] == [item["surprises"] for item in expected]
        assert [row["text"] for row in rows] == TEXTS


def test_npy_says_that_its_results_are_more_than_numbers(
    surprise: Path, command: Command, tmp_path: Path
) -> None:
    file = written(tmp_path / "in.txt", "one\n")
    outcome = command("run", surprise, file, "-o", tmp_path / "out.npy")
    assert outcome.code == 2
    assert f"results of {TASK.name} are more than that" in outcome.error


def test_a_record_batch_is_answered(surprise: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    with bertonnx.load(surprise, "cpu") as model:
        answer = model.predict_batch(pa.RecordBatch.from_pydict({"text": TEXTS}))
        assert answer.column("surprises").to_pylist() == [i["surprises"] for i in model.predict(TEXTS)]


def test_r_gets_its_columns(surprise: Path) -> None:
    opened = open_model(str(surprise), "cpu", 1, None)
    assert opened["ok"], opened
    assert (opened["info"]["task"], opened["info"]["tables"]) == (TASK.name, ["results"])
    handle = opened["handle"]
    started = handle.start("results", TEXTS)
    assert (started["names"], started["kinds"]) == (["surprises", "tokens", "text"], ["int", "int", "text"])
    chunk = started["run"].chunk()
    assert (chunk["ok"], chunk["texts"]) == (True, len(TEXTS))
    with bertonnx.load(surprise, "cpu") as model:
        expected = model.predict(TEXTS)
    numbers = {name: np.frombuffer(chunk["columns"][name], "<i4").tolist() for name in ("row", "surprises")}
    assert numbers == {"row": [1, 2, 3, 4], "surprises": [item["surprises"] for item in expected]}
    assert list(chunk["columns"]["text"]) == TEXTS
    assert verify(str(surprise), "cpu")["max_abs_difference"] == 0.0
    handle.close()


def test_check_replays_it(surprise: Path, command: Command) -> None:
    assert bertonnx.check(surprise, "cpu").max_abs_difference == 0.0
    assert command("check", surprise, "--provider", "cpu").code == 0
    assert json.loads(command("info", surprise, "--json").out)["task"] == TASK.name


def test_int8_is_judged_by_the_comparison_of_its_row(surprise: Path, tmp_path: Path) -> None:
    source = surprise.parent / "checkpoint"
    report = bertonnx.export(source, tmp_path / "i.onnx", task=TASK.name, quantize=True, min_agreement=0.0)
    figures = report.card.quantization
    assert figures is not None
    assert figures.metric == "surprises"
    assert 0 <= figures.agreement <= 1
    assert bertonnx.check(report.path, "cpu").max_abs_difference == 0.0
    with bertonnx.load(report.path, "cpu") as model:
        assert [item["text"] for item in model.predict(TEXTS)] == TEXTS


def test_without_its_row_the_file_is_refused(exported: dict[str, Path], surprise: Path) -> None:
    TASKS.unregister(TASK.name)
    try:
        with pytest.raises(bertonnx.BertonnxError, match="unknown task, 'surprise'"):
            bertonnx.load(surprise)
        bertonnx.load(exported["fill-mask"]).close()
    finally:
        TASKS.register(TASK)


# A provider -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_models_run_on_it_and_say_so(provider: Provider, exported: dict[str, Path], task: str) -> None:
    pairs = TEXTS[::-1] if task == "question-answering" else None
    with bertonnx.load(exported[task], "cpu") as model:
        expected = model.predict(TEXTS, pairs)
    with bertonnx.load(exported[task], provider.name) as model:
        assert model.provider == provider.name
        assert model.notes == ()
        assert model.predict(TEXTS, pairs) == expected


def test_r_opens_models_on_it(provider: Provider, classifier: Path) -> None:
    opened = open_model(str(classifier), provider.name, 1, None)
    assert opened["info"]["provider"] == provider.name
    assert verify(str(classifier), provider.name)["provider"] == provider.name
    opened["handle"].close()


def test_it_is_a_choice_like_the_others(provider: Provider, classifier: Path) -> None:
    with pytest.raises(UsageError, match="provider='gpu' is unknown; it can be auto, cpu, cuda, borrowed"):
        bertonnx.load(classifier, "gpu")
    with pytest.raises(UsageError) as caught:
        bertonnx.load(classifier, provider.name, tf32=True)
    assert caught.value.worded(COMMAND_LINE) == (
        "--tf32 is of CUDA, and the provider is borrowed; leave it out, or ask for --provider cuda"
    )


def test_the_command_line_takes_it(
    provider: Provider, classifier: Path, command: Command, tmp_path: Path
) -> None:
    file = written(tmp_path / "in.txt", "\n".join(TEXTS) + "\n")
    expected = command("run", classifier, file, "--provider", "cpu")
    outcome = command("run", classifier, file, "--provider", provider.name)
    assert (outcome.code, outcome.out) == (0, expected.out)
    assert (
        f"golden examples on {provider.name}" in command("check", classifier, "--provider", provider.name).out
    )
    shown = command("info", classifier, "--provider", provider.name).out
    assert f"  provider    {provider.name}\n" in shown


def test_its_own_tolerance_holds(provider: Provider, classifier: Path) -> None:
    report = bertonnx.check(classifier, provider.name)
    cpu = bertonnx.check(classifier, "cpu")
    assert report.provider == provider.name
    assert report.tolerance == pytest.approx(cpu.tolerance / 10, rel=1e-6)


def test_a_tolerance_that_nothing_meets_is_drift(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertonnx.runtime import golden

    run = golden._run
    monkeypatch.setattr(
        golden, "_run", lambda *given: {name: array + 1e-6 for name, array in run(*given).items()}
    )
    with provider_from_outside(replace(PROVIDER, tolerances={"fp32": 1e-9})) as row:
        with pytest.raises(DriftError, match=f"allowed .* on {row.name}"):
            bertonnx.check(classifier, row.name)
        assert bertonnx.check(classifier, "cpu").max_abs_difference > 0


def test_bench_has_its_rows(provider: Provider, classifier: Path) -> None:
    from bertonnx.runtime.bench.measure import bench
    from bertonnx.runtime.bench.options import BenchOptions

    options = BenchOptions(
        providers=["cpu", provider.name], lengths=[8], batch_sizes=[2], threads=[1, 2], repeat=1, tf32=True
    )
    report = bench([classifier], options)
    # Its row does not say that cores make more batches at a time.
    assert [(row.provider, row.threads) for row in report.rows] == [
        ("cpu", 1),
        ("cpu", 2),
        (provider.name, 2),
    ]
    assert all(row.problem is None for row in report.rows)


def finding(name: str) -> Finding:
    return next(found for found in examine() if found.name == f"provider {name}")


def test_the_doctor_opens_it(provider: Provider) -> None:
    found = finding(provider.name)
    assert found.ok
    assert str(found.value).startswith("loads")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"execution_provider": "LentExecutionProvider"}, "nobody lends it"),
        ({"opens": "tests.whole.test_outside:fail_to_open"}, "does not load: the key is lost"),
    ],
)
def test_where_it_does_not_work_doctor_and_load_say_why(
    changes: dict[str, str], said: str, classifier: Path
) -> None:
    with provider_from_outside(replace(PROVIDER, **changes)) as row:  # type: ignore[arg-type]
        found = finding(row.name)
        assert not found.ok
        assert str(found.value) == said
        with pytest.raises(ProviderError, match=said.removeprefix("does not load: ")):
            bertonnx.load(classifier, row.name)


def fail_to_open(*_: object) -> None:
    raise ProviderError("the key is lost")


def test_auto_takes_the_first_automatic_one_that_works(classifier: Path) -> None:
    works = replace(PROVIDER, automatic=True)
    with provider_from_outside(works), bertonnx.load(classifier) as model:
        assert model.provider == works.name
        assert model.notes == ("running on BORROWED",)
    broken = replace(PROVIDER, automatic=True, opens="tests.whole.test_outside:fail_to_open")
    with provider_from_outside(broken), bertonnx.load(classifier) as model:
        assert model.provider == "cpu"
        assert model.notes == (
            "running on CPU, although this ONNX Runtime is a BORROWED build: the key is lost",
        )
