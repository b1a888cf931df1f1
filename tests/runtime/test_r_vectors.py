"""Matrices as R has them: by columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.runtime.r_vectors import compared, searched
from bertonnx.runtime.vectors.similarity import SIMILARITIES, similarity

A = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
B = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)


def crossed(array: Any, encoding: str | None = None) -> dict[str, Any]:
    """Return a matrix as R sends it."""
    return {
        "bytes": bytearray(array.tobytes(order="F")),
        "rows": float(array.shape[0]),
        "columns": float(array.shape[1]),
        "encoding": encoding,
    }


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_come_by_columns(name: str) -> None:
    values = compared(crossed(A), crossed(B), name)["values"]
    assert bytes(values) == similarity(A, B, name).tobytes(order="F")


@pytest.mark.parametrize("encoding", [None, "int8"])
def test_hits_are_those_of_search(encoding: Any) -> None:
    stored, asked = (A, B) if encoding is None else ((A * 9).astype(np.int8), (B * 9).astype(np.int8))
    found = searched(
        crossed(stored, encoding),
        crossed(asked, encoding),
        top_k=2,
        name="cosine",
        encoding=encoding,
        column=None,
        card=None,
    )
    hits = bertonnx.search(stored, asked, top_k=2, encoding=encoding)
    assert found["lengths"] == [2.0, 2.0, 2.0]
    places = np.frombuffer(bytes(found["places"]), "<i4").tolist()
    assert places == [hit["index"] + 1 for each in hits for hit in each]
    scores = np.frombuffer(bytes(found["scores"]), "<f4").tolist()
    assert scores == [hit["score"] for each in hits for hit in each]
