"""Python searches for no garbage while a model is opened, and does again when rows are read."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bertonnx
import bertonnx.prediction
from bertonnx import __main__
from bertonnx.collecting import paused, resume
from bertonnx.runtime import opening, run


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()
    gc.unfreeze()


def test_it_is_paused_inside_the_block_alone() -> None:
    with paused():
        assert not gc.isenabled()
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(ValueError, match="a fault"), paused():
        raise ValueError("a fault")
    assert gc.isenabled()


def test_who_turned_it_off_has_it_off() -> None:
    gc.disable()
    with paused():
        pass
    assert not gc.isenabled()


def test_resuming_leaves_a_program_alone_that_never_paused() -> None:
    gc.unfreeze()
    resume()
    assert gc.isenabled()
    assert not gc.get_freeze_count()


def test_a_model_is_opened_without_it(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen, read = [], opening._read

    def noted(path: Path) -> opening.Found:
        seen.append(gc.isenabled())
        return read(path)

    monkeypatch.setattr(opening, "_read", noted)
    bertonnx.load(next(iter(exported.values()))).close()
    assert seen == [False]
    assert gc.isenabled()


def test_a_command_imports_without_it_and_reads_rows_with_it(
    exported: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in.txt").write_text("a\n", encoding="utf-8")
    seen: list[bool] = []
    job, run_file = run.run_job, bertonnx.prediction.run_file

    def noted_file(*arguments: Any) -> int:
        seen.append(gc.isenabled())
        return run_file(*arguments)

    def noted_job(*arguments: Any, **options: Any) -> Any:
        seen.append(gc.isenabled())
        return job(*arguments, **options)

    monkeypatch.setattr(bertonnx.prediction, "run_file", noted_file)
    monkeypatch.setattr(run, "run_job", noted_job)
    monkeypatch.setattr(
        sys, "argv", ["bertonnx", "run", str(exported["feature-extraction"]), str(tmp_path / "in.txt")]
    )
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert not ended.value.code
    assert '"row": 0' in capsys.readouterr().out
    assert seen == [False, True]


def test_another_command_runs_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("bertonnx.cli.app", lambda: seen.append(gc.isenabled()))
    monkeypatch.setattr(sys, "argv", ["bertonnx", "info", "model.onnx"])
    __main__.main()
    assert seen == [True]
