"""What R lets run in the background: files, measuring, and training in another process."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import bertonnx
from bertonnx.runtime.r_bridge import Handle, open_model, train, write_rows
from bertonnx.runtime.r_work import Process, Work, trained


def opened(path: Path) -> Handle:
    handle: Handle = open_model(str(path), "cpu", None, None)["handle"]
    return handle


def finished(answer: dict[str, Any]) -> dict[str, Any]:
    """Wait for a work, as R does, and return its answer."""
    assert answer["ok"], answer
    answer["work"]._thread.join()
    progress = answer["work"].progress()
    assert progress["finished"]
    result: dict[str, Any] = answer["work"].result()
    return result


def test_a_file_is_run(exported: dict[str, Path], tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("text\none\ntwo\n")
    handle = opened(exported["text-classification"])
    found = finished(handle.run_file(str(source), str(out), {"top_k": 2}))
    assert (found["ok"], found["rows"], found["errors"]) == (True, 2.0, 0.0)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    with bertonnx.load(exported["text-classification"], "cpu") as model:
        assert [row["label"] for row in rows] == [item["label"] for item in model.classify(["one", "two"])]
    assert len(rows[0]["top"]) == 2
    error = finished(handle.run_file(str(source), str(out), {"column": "no"}))["error"]
    assert error["type"] == "InputError"


def test_rows_of_a_data_frame_become_a_file_that_is_measured(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "data.jsonl"
    rows: list[list[Any]] = [["one", "two", None], ["negative", "positive", "neutral"]]
    assert write_rows(str(path), ["text", "label"], rows)["ok"]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"text": "one", "label": "negative"},
        {"text": "two", "label": "positive"},
        {"text": None, "label": "neutral"},
    ]
    found = finished(opened(exported["text-classification"]).evaluate(str(path), {"label_column": "label"}))
    measured = bertonnx.evaluate(exported["text-classification"], path, label_column="label", provider="cpu")
    assert found["values"] == list(measured.scores.values())
    assert found["labels"] == list(measured.labels)
    assert found["confusion"] == [float(count) for row in measured.confusion for count in row]
    assert found["mistake_texts"] == [mistake.text for mistake in measured.mistakes]


def test_errors_call_the_files_that_r_wrote_as_its_user_does(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "data.jsonl"
    write_rows(str(path), ["text", "label"], [["one", None], [None, "negative"]])
    named = {str(path): "`data`"}
    error = finished(opened(exported["text-classification"]).evaluate(str(path), {}, named))["error"]
    assert error["message"].startswith(
        "no row of `data` has a text and a label: 1 without a label, 1 without"
    )
    request = {"base": str(exported["feature-extraction"]), "data": str(path)}
    request["output"] = str(tmp_path / "head.onnx")
    error = finished(train(sys.executable, request, named))["error"]
    assert "no row of `data`" in error["message"]
    assert str(path) not in error["message"]


def test_what_is_stopped_says_no_more() -> None:
    entered, told, ends = threading.Event(), threading.Event(), []

    def work(tell: Any) -> dict[str, Any]:
        tell("begun", 1.0, 2.0)
        entered.set()
        told.wait()
        tell("more", 2.0, 2.0)
        ends.append("not stopped")
        return {}

    running = Work(work, stop=lambda: ends.append("stopped"))
    entered.wait()
    assert running.progress() == {"ok": True, "said": ["begun"], "done": 1.0, "total": 2.0, "finished": False}
    running.stop()
    told.set()
    running._thread.join()
    assert ends == ["stopped"]


def test_a_training_that_is_stopped_before_its_process_starts_never_starts_it(tmp_path: Path) -> None:
    begun, mark = tmp_path / "begun", tmp_path / "python"
    mark.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(begun))}\n")
    mark.chmod(0o755)
    own = Process()
    own.end()
    running = Work(lambda tell: trained(str(mark), {"base": "x"}, own, tell))
    running._thread.join()
    assert not begun.exists()
    assert running.result() == {}


def test_a_training_that_is_stopped_ends_its_process_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho begun\nexec sleep 10000\n")
    program.chmod(0o755)
    work = train(str(program), {"base": "x"})["work"]
    while not work.progress()["said"]:
        threading.Event().wait(0.01)
    work.stop()
    work._thread.join(600)
    assert not work._thread.is_alive()
    assert list(tmp_path.iterdir()) == [program]


def test_a_head_is_trained_in_another_process(exported: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = tmp_path / "data.csv"
    rows = [
        f"a {word} text {i},{label}" for i in range(8) for word, label in (("good", "yes"), ("bad", "no"))
    ]
    data.write_text("text,label\n" + "\n".join(rows) + "\n")
    out = tmp_path / "head.onnx"
    request = {"base": str(exported["feature-extraction"]), "data": str(data), "output": str(out)}
    answer = train(sys.executable, request)
    found = finished(answer)
    assert found["ok"], found
    assert found["labels"] == ["no", "yes"]
    with bertonnx.load(out, "cpu") as model:
        assert model.card.labels == ("no", "yes")
    again = finished(train(sys.executable, request))
    assert again["error"]["type"] == "OutputError"
    assert "force = TRUE" in again["error"]["message"]


def test_a_python_that_does_not_start_is_an_error() -> None:
    error = finished(train("/nowhere/python", {"base": "x"}))["error"]
    assert error["type"] == "MissingDependencyError"
    assert (
        error["message"]
        == "Python at /nowhere/python does not start (No such file or directory); name another"
    )


def test_a_process_that_died_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'out of memory'; exit 9\n")
    program.chmod(0o755)
    error = finished(train(str(program), {"base": "x"}))["error"]
    assert (error["type"], error["message"]) == ("TrainError", "the training ended with status 9")
    assert error["traceback"] == "out of memory"
