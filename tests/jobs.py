"""What tests of jobs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertonnx.runtime.io.job import JobReport, run_job
from tests.fake_predictor import FakePredictor

__all__ = ["ENDINGS", "ROOT", "names", "run", "texts", "whole_output", "write_input"]

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
    return run_job(predictor or FakePredictor(), input=input, output=output, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole_output(folder: Path, input: Path, ending: str, **options: Any) -> bytes:
    path = folder / f"whole{ending}"
    run(input, path, **options)
    return path.read_bytes()
