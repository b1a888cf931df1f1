"""Similarity, encodings and search against Sentence-Transformers and against every pair compared by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertonnx.errors import UsageError
from bertonnx.runtime.options import Encoding
from bertonnx.runtime.rows import Array
from bertonnx.runtime.vectors.encodings import DTYPES, encode, encoded_width
from bertonnx.runtime.vectors.search import nearest
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


@pytest.mark.parametrize("name", [*SIMILARITIES])
def test_equally_near_vectors_come_by_their_index(name: str) -> None:
    # Of an odd width and number: products of float32 differ with a vector's place in its block.
    same = np.repeat(random_vectors(1, 37, seed=3), 101, axis=0)
    for rows in (1, 7, 100, 101):
        blocks = (same[start : start + rows] for start in range(0, 101, rows))
        hits = nearest(blocks, random_vectors(3, 37), top_k=50, name=name)
        assert [[hit["index"] for hit in found] for found in hits] == [[*range(50)]] * 3


def test_vectors_keep_float32() -> None:
    vectors = random_vectors(3)
    assert vectors_of(vectors, "vectors") is vectors
