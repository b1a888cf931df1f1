"""Similarity, encodings and search against Sentence-Transformers and against every pair compared by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertonnx.errors import UsageError
from bertonnx.runtime.options import Encoding
from bertonnx.runtime.rows import Array
from bertonnx.runtime.vectors.encodings import DTYPES, encode, encoded_width
from bertonnx.runtime.vectors.search import blocks_of, nearest, search
from bertonnx.runtime.vectors.similarity import SIMILARITIES, similarity, unit, vectors_of


def random_vectors(rows: int, width: int = 24, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("sentence_transformers").util


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("cosine", "cos_sim"),
        ("dot", "dot_score"),
        ("euclidean", "euclidean_sim"),
        ("manhattan", "manhattan_sim"),
    ],
)
def test_a_similarity_is_that_of_sentence_transformers(theirs: Any, name: str, function: str) -> None:
    a, b = random_vectors(7), random_vectors(300, seed=1)
    a[3] = 0  # a vector without a direction
    b[5] = a[1]  # and one that is the same
    got = similarity(a, b, name)
    assert got.dtype == np.float32
    assert got.shape == (7, 300)
    np.testing.assert_allclose(got, getattr(theirs, function)(a, b).numpy(), atol=2e-5)


def test_all_names_of_similarities_are_known() -> None:
    from sentence_transformers.util import SimilarityFunction

    assert {*SIMILARITIES} == {*SimilarityFunction.possible_values()}


def test_a_unit_vector_has_length_1_and_zero_stays_zero() -> None:
    vectors = random_vectors(5)
    vectors[2] = 0
    np.testing.assert_allclose(np.linalg.norm(unit(vectors), axis=1), [1, 1, 0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("encoding", [*DTYPES])
def test_an_encoding_is_that_of_sentence_transformers(theirs: Any, encoding: Encoding) -> None:
    vectors = random_vectors(40)
    vectors[0] = 100  # outside of the ranges
    ranges = np.stack([vectors[1:20].min(axis=0), vectors[1:20].max(axis=0)])
    ranges[:, 4] = 0.5  # a dimension that never changed
    got = encode(vectors, encoding, ranges)
    expected = theirs.quantize_embeddings(vectors, encoding, ranges=ranges)
    assert got.dtype == expected.dtype == DTYPES[encoding]
    assert got.shape == (40, encoded_width(encoding, 24))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("encoding", ["binary", "ubinary"])
def test_bits_need_whole_bytes(encoding: Encoding) -> None:
    with pytest.raises(UsageError, match=r"eight dimensions into a byte, and an embedding has 20.*16"):
        encode(random_vectors(2, 20), encoding)


@pytest.mark.parametrize("name", [*SIMILARITIES])
def test_search_finds_what_comparing_all_finds(name: str) -> None:
    vectors, queries = random_vectors(500), random_vectors(6, seed=1)
    near = similarity(queries, vectors, name)
    # The small blocks end within the list, and one of them at its very end.
    for rows in (1, 7, 250, 500, 501):
        blocks = (vectors[start : start + rows] for start in range(0, 500, rows))
        found = nearest(blocks, queries, top_k=12, name=name)
        for row, hits in zip(near, found, strict=True):
            best = np.argsort(-row, kind="stable")[:12]
            assert [hit["index"] for hit in hits] == best.tolist()
            np.testing.assert_allclose([hit["score"] for hit in hits], row[best], atol=1e-5)


def test_equally_near_vectors_come_by_their_index() -> None:
    same = np.ones((9, 4), dtype=np.float32)
    blocks = iter([same[:2], same[2:5], same[5:]])
    assert [hit["index"] for hit in nearest(blocks, same[:1], top_k=5, name="dot")[0]] == [0, 1, 2, 3, 4]


def test_search_over_a_file_and_over_few_or_no_vectors(tmp_path: Path) -> None:
    vectors = random_vectors(30)
    np.save(tmp_path / "v.npy", vectors)
    stored = np.load(tmp_path / "v.npy", mmap_mode="r")
    found = search(stored, vectors[4:5], top_k=2)
    assert found[0][0]["index"] == 4
    assert found[0][0]["score"] == pytest.approx(1)
    assert found == search(vectors.tolist(), vectors[4:5].tolist(), top_k=2)
    assert [len(hits) for hits in search(vectors[:3], vectors, top_k=10)] == [3] * 30
    assert search(vectors[:0], vectors[:2]) == [[], []]
    assert search(vectors, vectors[:0]) == []


def test_blocks_are_bounded_whatever_the_width() -> None:
    assert [block.shape for block in blocks_of(np.zeros((3, 1 << 22), dtype=np.float32))] == [
        (1, 1 << 22)
    ] * 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"top_k": 0}, "top_k=0 is too small"),
        ({"similarity": "angular"}, "similarity='angular' is unknown; it can be cosine, dot"),
        ({"queries": [[1.0, 2.0]]}, "vectors of 2 numbers cannot be compared with vectors of 24"),
        ({"queries": [1.0, 2.0]}, r"queries must be vectors of shape \(n, width\), and the shape is \(2,\)"),
        ({"queries": [["a"]]}, "queries must be vectors, numbers of shape"),
        ({"queries": [[float("nan")] * 24]}, "queries holds NaN"),
        ({"vectors": np.zeros(24)}, r"vectors must be vectors of shape .* is \(24,\)"),
    ],
)
def test_what_search_refuses(arguments: dict[str, Any], said: str) -> None:
    given = {"vectors": random_vectors(5), "queries": random_vectors(1), **arguments}
    with pytest.raises(UsageError, match=said):
        search(given.pop("vectors"), given.pop("queries"), **given)


def test_vectors_keep_float32() -> None:
    vectors = random_vectors(3)
    assert vectors_of(vectors, "vectors") is vectors
