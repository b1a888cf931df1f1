"""Sparse embeddings from folder to file to results, against Sentence-Transformers' own `encode`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.exporters.quiet import quiet
from tests.commands import Command
from tests.tiny import save_tiny

TEXTS = ["Ada Lovelace wrote the first program.", "", "No.", "北京 is a city", "!!! ???", "slow film " * 90]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sparse") / "base", "bert", "fill-mask")


@pytest.mark.parametrize(
    ("family", "strategy", "activation", "dims"),
    [
        ("bert", "max", "relu", None),
        ("roberta", "sum", "log1p_relu", 7),
    ],
)
def test_it_gives_what_sparse_encoder_gives(
    family: str, strategy: Any, activation: Any, dims: int | None, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sparse_encoder.modules")
    base = save_tiny(tmp_path / "base", family, "fill-mask")
    with quiet():
        made = library.SparseEncoder(
            modules=[modules.MLMTransformer(str(base)), modules.SpladePooling(strategy, activation)],
            prompts={"query": "find: ", "document": ""},
            device="cpu",
        )
        made.save_pretrained(str(tmp_path / "folder"))
        own = library.SparseEncoder(str(tmp_path / "folder"), device="cpu")
    report = bertonnx.export(tmp_path / "folder", tmp_path / "model.onnx")
    assert report.card.task == "sparse-embedding"
    with bertonnx.load(report.path, long_text="truncate") as model:
        for prompt, encode in (
            (None, own.encode),
            ("query", own.encode_query),
            ("document", own.encode_document),
        ):
            wanted = encode(TEXTS, convert_to_sparse_tensor=False, max_active_dims=dims).numpy()
            with pytest.warns(bertonnx.TruncationWarning):
                found = model.embed_sparse(TEXTS, prompt=prompt, top_k=dims)
            for row, item in zip(wanted, found, strict=True):
                assert sorted(item["ids"].tolist()) == np.flatnonzero(row).tolist()
                assert np.abs(row[item["ids"]] - item["weights"]).max(initial=0) <= 1e-5 * max(1, row.max())
                assert (np.diff(item["weights"]) <= 0).all()


def test_files_of_every_form(exported: dict[str, Path], tmp_path: Path, command: Command) -> None:
    pa = pytest.importorskip("pyarrow")
    model = exported["sparse-embedding"]
    (tmp_path / "in.txt").write_text("Ada wrote it.\n\nNo.\n", encoding="utf-8")
    done = command("run", model, tmp_path / "in.txt", "--top-k", 5)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [len(line["sparse"]) for line in lines] == [5, 5, 5]
    for name in ("out.parquet", "out.arrow", "out.csv"):
        assert command("run", model, tmp_path / "in.txt", "-o", tmp_path / name, "--top-k", 5).code == 0
    table = pa.parquet.read_table(tmp_path / "out.parquet")
    words = table.column("sparse").to_pylist()
    assert [{word["token"]: pytest.approx(word["weight"]) for word in row} for row in words] == [
        line["sparse"] for line in lines
    ]
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        cells = [json.loads(row["sparse"]) for row in csv.DictReader(file)]
    assert [[word["token"] for word in row] for row in cells] == [list(line["sparse"]) for line in lines]
    refused = command("run", model, tmp_path / "in.txt", "-o", tmp_path / "out.npy")
    assert refused.code == 2
    assert "the results of sparse-embedding are more than that" in refused.err


def test_record_batches(exported: dict[str, Path]) -> None:
    pa = pytest.importorskip("pyarrow")
    with bertonnx.load(exported["sparse-embedding"]) as model:
        found = model.predict_batch(pa.RecordBatch.from_pydict({"text": ["Ada", None]}))
        (item,) = model.embed_sparse(["Ada"])
    first, second = found.column("sparse").to_pylist()
    assert [word["token_id"] for word in first] == item["ids"].tolist()
    assert second is None


@pytest.mark.parametrize("option", [{"quantize": True}, {"precision": "fp16"}])
def test_smaller_numbers_keep_the_order(encoder: Path, option: dict[str, Any], tmp_path: Path) -> None:
    report = bertonnx.export(encoder, tmp_path / "model.onnx", task="sparse-embedding", **option)
    figures = report.card.quantization or report.card.half
    assert figures is not None
    assert figures.metric == "rank correlation"
    assert 0.99 <= figures.agreement <= 1
    assert 0.9 < figures.worst < figures.agreement
    assert report.golden is not None
