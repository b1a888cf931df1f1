"""The examples of docs/vectors.md with FAISS and DuckDB work as they stand, and find what a search finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import bertonnx

faiss = pytest.importorskip("faiss", reason="needs the environment tests/environments/search")
pytest.importorskip("duckdb", reason="needs the environment tests/environments/search")

PAGE = (Path(__file__).parents[3] / "docs" / "vectors.md").read_text(encoding="utf-8")
WIDTH, ROWS = 384, 2000


def example(name: str) -> str:
    """Return the block of the page that begins with the import of a package."""
    (found,) = re.findall(rf"^```python\n(import {name}\n.*?)^```", PAGE, re.M | re.S)
    return str(found)


@pytest.fixture(scope="module")
def vectors() -> Any:
    found = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, vectors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "vectors.npy", vectors)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), WIDTH)
    table = pyarrow.table({"row": np.arange(ROWS), "embedding": column})
    pyarrow.parquet.write_table(table, tmp_path / "vectors.parquet")
    monkeypatch.chdir(tmp_path)


def test_faiss(vectors: Any) -> None:
    scope: dict[str, Any] = {"queries": vectors[5:9] + np.float32(0.01)}
    exec(example("faiss"), scope)
    exact = bertonnx.search("vectors.npy", scope["queries"], top_k=1)
    assert scope["indices"][:, 0].tolist() == [hits[0]["index"] for hits in exact] == [5, 6, 7, 8]


def test_faiss_takes_bits_as_they_are(vectors: Any) -> None:
    bits = np.packbits(vectors > 0, axis=1)
    index = faiss.IndexBinaryFlat(WIDTH)
    index.add(bits)
    distances, indices = index.search(bits[:4], 3)
    exact = bertonnx.search(bits, bits[:4], top_k=3, encoding="ubinary")
    assert indices[:, 0].tolist() == [hits[0]["index"] for hits in exact]
    scores = [[hit["score"] for hit in hits] for hits in exact]
    np.testing.assert_allclose(1 - 2 * distances / WIDTH, scores, atol=1e-6)


def test_duckdb(vectors: Any) -> None:
    scope: dict[str, Any] = {"query": vectors[7] + np.float32(0.01)}
    exec(example("duckdb"), scope)
    (exact,) = bertonnx.search("vectors.parquet", scope["query"][None])
    assert [row for row, _ in scope["found"]] == [hit["index"] for hit in exact]
    np.testing.assert_allclose([score for _, score in scope["found"]], [h["score"] for h in exact], atol=1e-5)
