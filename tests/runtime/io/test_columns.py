"""The columns of results, in every format."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertonnx.errors import OutputError, RowError
from bertonnx.models.card import Card
from bertonnx.models.tasks import TASKS, task
from bertonnx.runtime.io.columns import Column, columns
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item
from tests.fake_predictor import LABELS, card
from tests.results import CARDS, results_of, same_item, write, writer_of


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
    for name, own in expected.items():
        path = write(tmp_path / "out.parquet", name, results_of(name))
        assert pq.read_schema(path).names == ["row", *own, "truncated", "error_type", "error_message"]


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


# A task from outside ---------------------------------------------------------------------------------

NESTED: Item = {
    "spans": [[{"a": 1, "sure": True}], []],
    "vectors": [np.array([0.1, 2.0], np.float32)],
    "inner": {"score": 0.5},
}


def nested_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    return (
        Column("spans", "struct", lists=2, fields={"a": "int", "sure": "bool"}),
        Column("vectors", "vector", lists=1, width=2),
        Column("inner_score", "float", path=("inner", "score")),
        Column("nowhere", "int", path=("none", "at all")),
    )


@pytest.fixture
def nested() -> Iterator[Card]:
    row = replace(task("fill-mask"), name="nested", columns=f"{__name__}:nested_columns")
    TASKS.register(row)
    yield replace(CARDS["fill-mask"], task="nested")
    TASKS.unregister("nested")


def test_any_kinds_of_columns_are_written(nested: Card, tmp_path: Path) -> None:
    for ending in (".jsonl", ".csv", ".parquet"):
        writer = writer_of(tmp_path / f"out{ending}", nested)
        writer.write(0, NESTED)
        writer.write(1, RowError("runtime", "no"))
        writer.finish()
        writer.close()
    spans, vectors = '[[{"a": 1, "sure": true}], []]', "[[0.1, 2.0]]"
    assert (tmp_path / "out.jsonl").read_text().splitlines()[0] == (
        f'{{"row": 0, "spans": {spans}, "vectors": {vectors}, "inner": {{"score": 0.5}}}}'
    )
    with (tmp_path / "out.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["spans"], first["vectors"]) == (spans, vectors)
    assert (first["inner_score"], first["nowhere"]) == ("0.5", "")
    assert (second["spans"], second["error_type"]) == ("", "runtime")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("vectors").type.value_type == pa.list_(pa.float32(), 2)
    row = table.to_pylist()[0]
    assert (row["spans"], row["inner_score"], row["nowhere"]) == (NESTED["spans"], 0.5, None)
    assert same_item(row["vectors"], NESTED["vectors"])


def test_an_unknown_task_has_no_columns() -> None:
    unknown = replace(CARDS["fill-mask"], task="unheard-of")
    with pytest.raises(KeyError, match="unheard-of"):
        columns(unknown, DecodeOptions())
