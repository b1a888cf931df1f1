"""From file to file, and the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bertonnx
from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime import run as runs
from bertonnx.runtime.io.files import BESIDE
from bertonnx.runtime.io.resume import progress_path
from bertonnx.runtime.options import LoadOptions
from tests.fake_predictor import FakePredictor
from tests.jobs import ENDINGS, Stop, names, write_input


class _Model(FakePredictor):
    """What a run needs of a model, without ONNX Runtime."""

    provider = "cpu"
    max_length = 16
    tokenizer = SimpleNamespace(long_text="truncate")

    def __init__(self, path: str | Path, options: LoadOptions | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.options = options

    def __enter__(self) -> _Model:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runs, "Model", _Model)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_manifest_says_what_was_read_and_written(tmp_path: Path, model: Path, ending: str) -> None:
    input, output, manifest = write_input(tmp_path), tmp_path / f"out{ending}", tmp_path / "run.json"
    report = bertonnx.run(model, input, output, top_k=2, manifest=manifest)
    facts = json.loads(manifest.read_text())
    assert (report.rows, report.errors, report.truncated) == (50, 3, 1)
    assert {name: facts[name] for name in ("rows", "errors", "truncated", "resumed_rows", "notes")} == {
        "rows": 50,
        "errors": 3,
        "truncated": 1,
        "resumed_rows": 0,
        "notes": [],
    }
    assert facts["input"] == {"path": str(input), "size": input.stat().st_size, "sha256": _sha256(input)}
    assert facts["output"] == {"path": str(output), "size": output.stat().st_size, "sha256": _sha256(output)}
    beside = tmp_path / "model.onnx.data"
    assert facts["model"]["files_sha256"] == {model.name: _sha256(model), beside.name: _sha256(beside)}
    assert facts["model"]["identity"] == "ab" * 32
    assert facts["provider"] == "cpu"
    assert facts["options"]["top_k"] == 2
    assert facts["options"]["max_length"] == 16
    assert facts["options"]["on_error"] == "record"
    assert facts["machine"]["bertonnx"] == bertonnx.__version__
    assert {"onnxruntime", "tokenizers", "numpy", "python", "instruction_sets", "cpu"} <= set(
        facts["machine"]
    )
    assert facts["began"] <= facts["ended"]
    assert facts["began"].endswith("Z")


def test_a_manifest_of_a_run_that_was_resumed(tmp_path: Path, model: Path) -> None:
    input, output, manifest = write_input(tmp_path), tmp_path / "out.jsonl", tmp_path / "run.json"

    def stop(now: Any) -> None:
        if now.rows == 20:
            raise Stop

    with pytest.raises(Stop):
        bertonnx.run(model, input, output, manifest=manifest, progress=stop)
    assert progress_path(output).exists()
    assert not manifest.exists(), "of what is unfinished nothing is said"
    bertonnx.run(model, input, output, manifest=manifest, resume=True)
    facts = json.loads(manifest.read_text())
    assert (facts["rows"], facts["resumed_rows"], facts["complete_before"]) == (50, 20, False)
    assert facts["output"]["sha256"] == _sha256(output)
    bertonnx.run(model, input, output, manifest=manifest, resume=True)
    facts = json.loads(manifest.read_text())
    assert (facts["resumed_rows"], facts["complete_before"]) == (50, True)
    assert facts["input"]["sha256"] == _sha256(input)


def test_the_input_is_the_one_that_was_read(tmp_path: Path, model: Path) -> None:
    input, manifest = write_input(tmp_path), tmp_path / "run.json"
    before = _sha256(input)

    def change(now: Any) -> None:
        if now.rows == 20:
            input.rename(tmp_path / "older.txt")
            write_input(tmp_path, 10)
        if now.rows == 30:
            with (tmp_path / "older.txt").open("a") as file:
                file.write("more")

    bertonnx.run(model, input, tmp_path / "out.jsonl", manifest=manifest, progress=change)
    facts = json.loads(manifest.read_text())
    assert facts["input"]["sha256"] == before
    assert "grew while it was read" in facts["notes"][0]


@pytest.mark.parametrize("what", ["model", "input", "output"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_manifest_replaces_no_other_file_of_the_run(
    tmp_path: Path, model: Path, what: str, linked: bool
) -> None:
    paths = {"model": model, "input": write_input(tmp_path), "output": tmp_path / "out.jsonl"}
    manifest = paths[what]
    if linked:
        manifest = tmp_path / "link"
        paths[what].touch()
        os.link(paths[what], manifest)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=rf"manifest=.* is the {what} of the run; name another file"):
        bertonnx.run(paths["model"], paths["input"], paths["output"], manifest=manifest)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_manifest_that_cannot_be_written_is_said_before_anything_is_done(
    tmp_path: Path, model: Path
) -> None:
    input = write_input(tmp_path)
    for wrong in (tmp_path, tmp_path / "none" / "run.json"):
        with pytest.raises(OutputError, match="cannot write"):
            bertonnx.run(model, input, tmp_path / "out.jsonl", manifest=wrong)
    assert names(tmp_path) == ["in.txt", "model.onnx", "model.onnx.data"]


def test_an_open_model_is_used_as_it_is(tmp_path: Path, model: Path) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    opened: Any = _Model(model)
    assert bertonnx.run(opened, input, output).rows == 50
    assert len(opened.texts) == 50
    with pytest.raises(UsageError, match="the model is open already"):
        bertonnx.run(opened, input, output, provider="cpu")


def test_options_reach_where_they_are_used(tmp_path: Path, model: Path) -> None:
    input = tmp_path / "in.csv"
    input.write_text("id,words\n1,=a\n2,FAIL\n")
    with pytest.raises(bertonnx.BertonnxError, match="row 1: "):
        bertonnx.run(model, input, tmp_path / "out.csv", column="words", on_error="fail")
    report = bertonnx.run(model, input, tmp_path / "out.csv", column="words", csv_safe=True)
    assert (report.rows, report.errors) == (2, 1)
    with pytest.raises(UsageError, match="csv_safe=True is for files"):
        bertonnx.run(model, input, tmp_path / "out.npy", column="words", csv_safe=True)
    with pytest.raises(UsageError, match="threads=0"):
        bertonnx.run(model, input, tmp_path / "out.csv", threads=0)


def test_a_manifest_goes_where_a_link_of_its_name_leads(tmp_path: Path, model: Path) -> None:
    input, real, link = write_input(tmp_path), tmp_path / "real.json", tmp_path / "run.json"
    link.symlink_to(real)
    bertonnx.run(model, input, tmp_path / "out.jsonl", manifest=link)
    assert link.is_symlink()
    assert json.loads(real.read_text())["rows"] == 50
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(OutputError, match="cannot write"):
        bertonnx.run(model, input, tmp_path / "out.jsonl", manifest=link)


@pytest.mark.parametrize("ending", BESIDE)
@pytest.mark.parametrize("what", ["model", "input"])
def test_what_a_run_makes_beside_its_output_is_none_of_its_files(
    tmp_path: Path, model: Path, ending: str, what: str
) -> None:
    paths = {"model": model, "input": write_input(tmp_path)}
    planted = paths[what].rename(tmp_path / f"out.npy{ending}")
    (tmp_path / "in.txt").symlink_to(planted) if what == "input" else None
    paths[what] = tmp_path / "in.txt" if what == "input" else planted
    before = planted.read_bytes()
    with pytest.raises(UsageError, match=f"and that is its {what}"):
        bertonnx.run(paths["model"], paths["input"], tmp_path / "out.npy")
    assert planted.read_bytes() == before


def test_a_manifest_is_none_of_what_a_run_makes_and_takes_away(tmp_path: Path, model: Path) -> None:
    input, output = write_input(tmp_path), tmp_path / "out.jsonl"
    for ending in BESIDE:
        with pytest.raises(UsageError, match="is a file that the run makes beside its output"):
            bertonnx.run(model, input, output, manifest=f"{output}{ending}")
    planted = model.rename(tmp_path / "run.json.new")
    with pytest.raises(UsageError, match="and that is its model"):
        bertonnx.run(planted, input, output, manifest=tmp_path / "run.json")
    assert planted.read_bytes() == b"graph"
    weights = tmp_path / "model.onnx.data"
    with pytest.raises(UsageError, match="is the model of the run"):
        bertonnx.run(tmp_path / "model.onnx", input, output, manifest=weights)


def test_the_output_is_not_the_model_whatever_it_is_called(tmp_path: Path, model: Path) -> None:
    named = model.rename(tmp_path / "model.jsonl")
    with pytest.raises(UsageError, match="is the model of the run; name another file"):
        bertonnx.run(named, write_input(tmp_path), named)
    assert named.read_bytes() == b"graph"


def test_a_folder_of_a_model_can_hold_results_but_a_manifest_replaces_none_of_its_files(
    tmp_path: Path, model: Path
) -> None:
    input, folder = write_input(tmp_path), tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model.rename(folder / "model.onnx")
    for _ in range(2):
        assert bertonnx.run(folder, input, folder / "out.jsonl", manifest=folder / "run.json").rows == 50
    with pytest.raises(UsageError, match="is the model of the run"):
        bertonnx.run(folder, input, folder / "out.jsonl", manifest=folder / "config.json")
    assert (folder / "config.json").read_text() == "{}"


def test_a_manifest_is_written_to_a_pipe_and_puts_no_file_in_its_place(tmp_path: Path, model: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    bertonnx.run(model, write_input(tmp_path), tmp_path / "out.jsonl", manifest=pipe)
    reader.join(300)
    assert json.loads(read[0])["rows"] == 50
    assert pipe.is_fifo()
