from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertonnx.models.card import Card
from bertonnx.runtime.decoders.embeddings import EmbeddingDecoder
from bertonnx.runtime.decoders.overlap import text_length
from bertonnx.runtime.rows import Array, Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import wordpiece


def read(text: str) -> Encoded:
    """Tokenize with at most 10 tokens a window, 8 of text, that do not overlap."""
    card = Card("feature-extraction", "bert", 10, inputs=(), outputs=())
    tokenizer = TextTokenizer(wordpiece().to_str(), card, long_text="stride", stride=0)
    (encoded,) = tokenizer.encode([Row(text)])
    assert isinstance(encoded, Encoded)
    return encoded


def embedding(text: str, *values: list[float], normalize: bool = False) -> Array:
    encoded = read(text)
    decoder = EmbeddingDecoder(normalize)
    kept = [
        decoder.keep(piece, {"sentence_embedding": np.array(value, dtype=np.float32)})
        for piece, value in zip(encoded.pieces, values, strict=True)
    ]
    item: dict[str, Any] = decoder.decode(encoded, kept)
    assert set(item) == {"embedding"}
    found: Array = item["embedding"]
    assert found.dtype == np.float32
    return found


@pytest.mark.parametrize("normalize", [False, True])
def test_a_single_window_is_the_graphs_embedding(normalize: bool) -> None:
    value = [0.1, -0.2, 3.0]
    assert np.array_equal(embedding("a", value, normalize=normalize), np.array(value, dtype=np.float32))


def test_keep_copies() -> None:
    batch = np.ones((2, 3), dtype=np.float32)
    encoded = read("a")
    kept = EmbeddingDecoder(False).keep(encoded.pieces[0], {"sentence_embedding": batch[0]})
    assert not np.shares_memory(kept, batch)
    assert kept.base is None


def test_windows_count_by_their_tokens() -> None:
    assert [text_length(piece) for piece in read("a " * 18).pieces] == [8, 8, 2]
    found = embedding("a " * 18, [9.0, 0.0], [0.0, 9.0], [9.0, 9.0])
    assert found == pytest.approx([5.0, 5.0], abs=1e-6)


def test_the_mean_of_windows_gets_length_one() -> None:
    found = embedding("a " * 12, [3.0, 0.0], [0.0, 8.0], normalize=True)
    assert found == pytest.approx([0.6, 0.8], abs=1e-6)  # (8 * 3, 4 * 8) / 12, made 1 long


def test_opposite_windows_make_no_nan() -> None:
    found = embedding("a " * 16, [1.0, 0.0], [-1.0, 0.0], normalize=True)
    assert found.tolist() == [0.0, 0.0]
