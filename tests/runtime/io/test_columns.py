"""The columns of results, in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import OutputError
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Item
from tests.fake_predictor import LABELS, card
from tests.results import CARDS, results_of, write, writer_of


def test_the_columns_are_those_that_are_documented(tmp_path: Path) -> None:
    expected = {
        "feature-extraction": ["embedding"],
        "text-classification": ["label", "score", *(f"score_{label}" for label in LABELS)],
        "multi-label": ["labels", *(f"score_{label}" for label in LABELS)],
        "regression": ["score"],
        "token-classification": ["entities"],
        "question-answering": ["answer", "score", "start", "end"],
        "fill-mask": ["masks"],
    }
    for name, columns in expected.items():
        path = write(tmp_path / "out.parquet", name, results_of(name))
        assert pq.read_schema(path).names == ["row", *columns, "truncated", "error_type", "error_message"]


def test_a_width_that_is_not_known(tmp_path: Path) -> None:
    for ending in (".csv", ".npy", ".parquet"):
        with pytest.raises(OutputError, match=r"how wide its embeddings are.*write \.jsonl"):
            writer_of(tmp_path / f"out{ending}", card("feature-extraction", width=None))


BEST: dict[str, tuple[Card, Item]] = {
    "top": (
        CARDS["text-classification"],
        {"label": "a", "score": 0.5, "top": [{"label": "a", "score": 0.5}]},
    ),
    "answers": (
        CARDS["question-answering"],
        {**(answer := {"answer": "é", "score": 0.25, "start": 1, "end": 2}), "answers": [answer]},
    ),
}


@pytest.mark.parametrize("name", BEST)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_the_best_few_have_a_column(tmp_path: Path, name: str, ending: str) -> None:
    model, item = BEST[name]
    for top_k in (1, 2):
        path = tmp_path / f"out{ending}"
        writer = writer_of(path, model, top_k=top_k)
        writer.write(0, item if top_k == 2 else {k: v for k, v in item.items() if k != name})
        writer.finish()
        writer.close()
        if ending == ".parquet":
            row = pq.read_table(path).to_pylist()[0]
        elif ending == ".jsonl":
            row = json.loads(path.read_text())
        else:
            with path.open(newline="") as file:
                row = next(csv.DictReader(file))
            row = {k: json.loads(v) if k == name else v for k, v in row.items()}
        assert row.get(name) == (item[name] if top_k == 2 else None)
        assert (name in row) is (top_k == 2)


def test_regression_with_several_outputs(tmp_path: Path) -> None:
    model = card("text-classification", problem_type="regression", labels=("x", "y"))
    for ending in (".csv", ".npy"):
        writer = writer_of(tmp_path / f"out{ending}", model)
        writer.write(0, {"scores": {"x": 1.5, "y": -2.0}})
        writer.finish()
        writer.close()
    expected = "row,score_x,score_y,truncated,error_type,error_message\n0,1.5,-2.0,false,,\n"
    assert (tmp_path / "out.csv").read_text() == expected
    assert np.load(tmp_path / "out.npy").tolist() == [[1.5, -2.0]]
