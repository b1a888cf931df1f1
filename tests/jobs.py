"""What tests of jobs share."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bertonnx.runtime.io.job import Job, JobProgress, JobReport
from bertonnx.runtime.io.writers import check_output
from bertonnx.runtime.options import RunOptions
from tests.fake_predictor import FakePredictor

__all__ = [
    "ENDINGS",
    "ROOT",
    "Stop",
    "names",
    "run",
    "run_until",
    "texts",
    "whole_output",
    "write_input",
]

ROOT = Path(__file__).parent.parent
ENDINGS = [".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".npy"]


def texts(count: int) -> list[str]:
    special = {3: "FAIL, please", 7: "", 11: "LONG", 12: 'a "quoted" é🙂', 20: "FAIL again"}
    return [special.get(i % 40, f"text {i}") for i in range(count)]


def write_input(folder: Path, count: int = 50, name: str = "in.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{text}\n" for text in texts(count)), encoding="utf-8")
    return path


def run(
    input: Path, output: Path | None, predictor: FakePredictor | None = None, **options: Any
) -> JobReport:
    """Run a job; what is an option of a run goes there, the rest to the job."""
    own = {field.name for field in fields(RunOptions)} & set(options)
    asked = RunOptions(**{name: options.pop(name) for name in own})
    safe = asked.csv_safe
    target = None if output is None else check_output(output, input=input, csv_safe=safe)
    return Job(predictor or FakePredictor(), input, target, options=asked, **options).run()


class Stop(Exception):
    """What a job is stopped with."""


def run_until(rows: int, input: Path, output: Path, **options: Any) -> None:
    """Run a job whose progress bar fails after so many rows: an unexpected error in mid-run."""

    def stop(now: JobProgress) -> None:
        if now.rows == rows:
            raise Stop

    with pytest.raises(Stop):
        run(input, output, progress=stop, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole_output(folder: Path, input: Path, ending: str, **options: Any) -> bytes:
    path = folder / f"whole{ending}"
    run(input, path, **options)
    return path.read_bytes()
