"""Outputs of numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertonnx.errors import RowError, UsageError
from tests.results import CARDS, results_of, write, writer_of


def test_npy(tmp_path: Path) -> None:
    results = results_of("feature-extraction")
    array = np.load(write(tmp_path / "out.npy", "feature-extraction", results))
    assert (array.dtype, array.shape) == (np.float32, (12, 8))
    for row, result in zip(array, results, strict=True):
        if isinstance(result, RowError):
            assert np.isnan(row).all()
        else:
            assert row.tobytes() == result["embedding"].tobytes()
    for name, width in (("text-classification", 3), ("multi-label", 3), ("regression", 1)):
        results = results_of(name)
        array = np.load(write(tmp_path / "out.npy", name, results))
        assert array.shape == (12, width)
        item = results[3]
        assert isinstance(item, dict)
        assert array[3].tolist() == [*item.get("scores", {"": item.get("score")}).values()]


@pytest.mark.parametrize("name", ["token-classification", "question-answering", "fill-mask"])
def test_npy_names_the_formats_that_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}.*write \.jsonl, \.csv, \.tsv, \.parquet or \.arrow"):
        writer_of(tmp_path / "out.npy", CARDS[name])


def _saved(path: Path, array: object) -> None:
    with path.open("wb") as file:
        np.save(file, array)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04 a zip file",
        np.zeros(12, np.float32),
        np.float32(0),
        np.zeros((12, 7), np.float32),
        np.zeros((12, 8), np.float64),
        np.zeros((12, 8, 1), np.float32),
        np.array([["a"] * 8], dtype=object),
    ],
    ids=["garbage", "short", "zip", "1-D", "0-D", "width", "float64", "3-D", "objects"],
)
def test_a_foreign_npy_is_not_taken_for_a_finished_one(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "out.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        _saved(path, content)
    with pytest.raises(UsageError, match=r"out\.npy was not written by this command; run without resume"):
        writer_of(path, CARDS["feature-extraction"]).finished()


def test_a_cut_npy_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    path = write(tmp_path / "out.npy", "feature-extraction", results_of("feature-extraction"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="was not written by this command"):
        writer_of(path, CARDS["feature-extraction"]).finished()
