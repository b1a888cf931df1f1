"""A model in worker processes, without an engine: what travels, and what is checked before the first row."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import bertonnx
from bertonnx.errors import ModelFileError, RowError, UsageError
from bertonnx.runtime import workers
from bertonnx.runtime.options import BatchOptions, DecodeOptions, LoadOptions, RunOptions
from bertonnx.runtime.workers import Assignment, assignment_for, engine_facts, open_once, run_batch

TEXTS = ["Ada wrote to Paris.", "a film", "slow"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has opened nothing, and a machine that has no copies."""
    monkeypatch.setattr(workers, "_open", type(workers._open)())
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    for model in workers._open.values():
        model.close()


@pytest.fixture
def model(exported: dict[str, Path], tmp_path: Path) -> Path:
    """A model of its own, in a folder that has a blank in its name."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    return Path(shutil.copy(exported["text-classification"], folder / "my model.onnx"))


def assigned(model: Any, **changes: Any) -> Assignment:
    given: dict[str, Any] = {
        "load": LoadOptions(),
        "decode": DecodeOptions(),
        "columns": RunOptions(),
        "batch": BatchOptions(keep=True, first_row=None),
    }
    made = assignment_for(model, **{**given, **changes})
    travelled: Assignment = pickle.loads(pickle.dumps(made))
    assert travelled == made
    return travelled


def answers(assignment: Assignment, opened: bertonnx.Model) -> list[dict[str, Any]]:
    result = run_batch(opened, assignment, pa.record_batch({"text": TEXTS}), where="partition 0")
    rows: list[dict[str, Any]] = result.to_pylist()
    return rows


def test_a_worker_opens_a_model_once_and_gives_its_results(model: Path) -> None:
    assignment = assigned(model)
    opened = open_once(assignment, threads=1)
    assert opened.options.threads == 1
    assert open_once(assigned(model), threads=1) is opened
    with bertonnx.load(model) as own:
        expected = own.predict(TEXTS)
    assert [row["score"] for row in answers(assignment, opened)] == [item["score"] for item in expected]


def test_a_worker_keeps_a_few_models(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MODELS_HELD", 2)
    first, second, third = (assigned(model, load=LoadOptions(max_length=length)) for length in (20, 30, 40))
    held = open_once(first, threads=1)
    open_once(second, threads=1)
    assert open_once(first, threads=1) is held
    open_once(third, threads=1)
    assert [key[2].max_length for key in workers._open] == [20, 40]


def test_a_model_that_is_not_there_is_named(model: Path) -> None:
    assignment = assigned(model)
    model.unlink()
    with pytest.raises(ModelFileError, match=r"my model\.onnx is on the driver and not on .*ship=True"):
        open_once(assignment, threads=1)


def test_another_model_under_the_same_path_is_an_error(model: Path, exported: dict[str, Path]) -> None:
    assignment = assigned(model)
    shutil.copy(exported["feature-extraction"], model)
    with pytest.raises(ModelFileError, match=r"is not the model of the driver: its SHA-256 begins with"):
        open_once(assignment, threads=1)


def test_files_travel_and_are_shared_on_a_machine(model: Path) -> None:
    assignment = assigned(model)
    original = model.read_bytes()
    model.unlink()
    fetched = []

    def fetch(name: str, target: Path) -> None:
        fetched.append(name)
        target.write_bytes(original)

    opened = open_once(assignment, fetch, threads=1)
    assert len(answers(assignment, opened)) == 3
    workers._open.clear()
    assert open_once(assignment, fetch, threads=1).path == opened.path, "another process of this machine"
    assert fetched == ["my model.onnx"]
    assert opened.path.parents[1].stat().st_mode & 0o077 == 0
    opened.close()


def test_what_travelled_is_compared_too(model: Path) -> None:
    assignment = assigned(model)
    with pytest.raises(ModelFileError, match="is not the model of the driver"):
        open_once(assignment, lambda _, target: target.write_bytes(b"cut short"), threads=1)


def test_what_a_killed_worker_left_is_taken_away(model: Path) -> None:
    own = workers._own_folder()
    left, busy = own / "partial-left", own / "partial-busy"
    for folder in (left, busy):
        folder.mkdir()
        (folder / "my model.onnx").write_bytes(b"half")
        os.utime(folder, (0, 0))
    os.utime(left / "my model.onnx", (0, 0))
    open_once(assigned(model), lambda name, target: shutil.copy(model.parent / name, target), threads=1)
    assert not left.exists()
    assert busy.exists(), "somebody writes to its file"


def test_a_folder_that_others_can_write_to_is_not_used() -> None:
    shared = workers._own_folder()
    shared.chmod(0o777)
    assert workers._own_folder() != shared


def test_weights_beside_the_file_travel_with_it(model: Path) -> None:
    import onnx

    onnx.save_model(onnx.load(model), model, save_as_external_data=True, location="my model.onnx.data")
    with bertonnx.load(model) as own:
        expected = own.predict(TEXTS)
    assignment = assigned(model)
    assert sorted(assignment.files) == ["my model.onnx", "my model.onnx.data"]
    kept = {name: (model.parent / name).read_bytes() for name in assignment.files}
    shutil.rmtree(model.parent)
    opened = open_once(assignment, lambda name, target: target.write_bytes(kept[name]), threads=1)
    assert [row["score"] for row in answers(assignment, opened)] == [item["score"] for item in expected]


def test_an_open_model_is_taken_by_its_path_and_options(model: Path) -> None:
    with bertonnx.load(model, max_length=20, threads=2) as opened:
        assignment = assigned(opened, load=LoadOptions(threads=1))
        assert assignment.path == str(model)
        assert assignment.load == LoadOptions(max_length=20, threads=1)
        with pytest.raises(UsageError, match="the model is open already"):
            assigned(opened, load=LoadOptions(max_length=30))


def test_a_relative_path_is_made_absolute(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assignment = assigned(model.name)
    monkeypatch.chdir("/")
    assert open_once(assignment, threads=1).card == assignment.card


def test_options_are_checked_before_anything_travels(model: Path) -> None:
    with pytest.raises(UsageError, match="aggregation='max' is for token-classification"):
        assigned(model, decode=DecodeOptions(aggregation="max"))
    with pytest.raises(UsageError, match="prompt='none of its'"):
        assigned(model, decode=DecodeOptions(prompt="none of its"))


def test_another_engine_is_said_and_the_same_is_not(model: Path) -> None:
    assignment = assigned(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_once(assignment, threads=1)
    here = engine_facts()
    assert here["ONNX Runtime"].count(".") == 2
    workers._open.clear()
    other = replace(assignment, engine={**here, "ONNX Runtime": "1.0.0", "processor": "z80"})
    with pytest.warns(UserWarning, match="can differ") as said:
        open_once(other, threads=1)
    assert [str(one.message).partition(" has ")[2] for one in said] == [
        f"{what}: results of the two can differ in their last bits"
        for what in (
            f"processor {here['processor']}, and the driver has z80",
            f"ONNX Runtime {here['ONNX Runtime']}, and the driver has 1.0.0",
        )
    ]
    workers._open.clear()
    # A driver that cannot run the model does not know.
    open_once(replace(assignment, engine={"processor": here["processor"]}), threads=1)


def test_a_failed_row_is_found_by_its_cells(model: Path) -> None:
    assignment = assigned(model, columns=RunOptions(column="text", on_error="fail"))
    opened = open_once(assignment, threads=1)
    batch = pa.record_batch(
        {"id": [7, 8], "text": ["fine", None], "note": ["x" * 99, "short"], "list": [[1], [2]]}
    )
    with pytest.raises(RowError, match=r"partition 3, row 1 of 2 \(id=8, note='short'\): .*null"):
        run_batch(opened, assignment, batch, where="partition 3")


def test_any_other_error_says_where_it_was(model: Path) -> None:
    assignment = assigned(model)
    opened = open_once(assignment, threads=1)
    with pytest.raises(bertonnx.BertonnxError) as caught:
        run_batch(opened, assignment, pa.record_batch({"n": [1]}), where="partition 3")
    assert caught.value.__notes__ == ["in partition 3, 1 rows"]


DRIVER = """
import sys
from bertonnx.runtime.modelfile import held
from bertonnx.runtime.options import BatchOptions, DecodeOptions, LoadOptions, RunOptions
from bertonnx.runtime.workers import assignment_for
read, times = held.structure_of, []
held.structure_of = lambda data: times.append(1) or read(data)
assignment_for(
    sys.argv[1], load=LoadOptions(), decode=DecodeOptions(), columns=RunOptions(), batch=BatchOptions()
)
print(len(times), *sorted({name.partition(".")[0] for name in sys.modules} & {"onnxruntime", "tokenizers"}))
print(*sorted({"bertonnx.runtime.model", "bertonnx.runtime.engine.engine"} & set(sys.modules)))
"""


def test_a_driver_reads_a_model_once_and_loads_nothing_to_run_it(model: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", DRIVER, str(model)], capture_output=True, text=True, check=True, timeout=300
    )
    assert said.stdout == "1\n\n"
