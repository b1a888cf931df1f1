"""What people ask of a model, against the newest Sentence-Transformers and transformers.

The main environment has those before, and compares with them in tests/whole.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.tiny import save_tiny

library = pytest.importorskip("sentence_transformers")
if not hasattr(library, "MultiVectorEncoder"):
    pytest.skip("the tests in tests/whole are of this sentence-transformers", allow_module_level=True)

WIDTH, CUT = 32, 16
PROMPTS = {"query": "Query: ", "passage": "What the page says: "}
TEXTS = [*SENTENCES[:5], PARAGRAPHS[0] * 2, "", "ünï 👩‍🔬 北京", "Query: "]
DOCUMENTS = [
    "Mars is red.",
    "I like tea.",
    "",
    "I like tea.",
    "word " * 200,
    "Le café — 火星は赤い",
    "I like tea.",
]


@pytest.mark.filterwarnings("ignore::bertonnx.TruncationWarning")
@pytest.mark.parametrize("normalized", [True, False])
def test_prompts_dimensions_lengths_and_encodings(normalized: bool, tmp_path: Path) -> None:
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    tiny = save_tiny(tmp_path / "tiny", "bert", "feature-extraction")
    parts = [modules.Transformer(str(tiny), max_seq_length=48), modules.Pooling(WIDTH)]
    parts += [modules.Normalize()] if normalized else []
    made = library.SentenceTransformer(modules=parts, device="cpu", prompts=PROMPTS)
    made.default_prompt_name = "passage"
    made.save(str(tmp_path / "folder"))
    theirs = library.SentenceTransformer(str(tmp_path / "folder"), device="cpu")
    path = bertonnx.export(tmp_path / "folder", tmp_path / "model.onnx", dimensions=[CUT]).path
    with bertonnx.load(path) as model:
        for prompt, cut, unit in product((None, "", "query", "passage"), (None, CUT), (None, True)):
            asked = {} if prompt is None else {"prompt_name": prompt} if prompt else {"prompt": ""}
            wanted = {**asked, "truncate_dim": cut, "normalize_embeddings": bool(unit)}
            whole = theirs.encode(TEXTS, **wanted)
            for encoding in ("float32", "int8", "uint8", "binary", "ubinary"):
                ours = model.embed(TEXTS, prompt=prompt, dimensions=cut, normalize=unit, encoding=encoding)
                if encoding == "float32":
                    np.testing.assert_allclose(ours, whole, atol=1e-6)
                    continue
                if encoding.endswith("binary"):
                    expected = theirs.encode(TEXTS, **wanted, precision=encoding)
                else:
                    changed = bool(unit) and (cut is not None or not normalized)
                    expected = library.quantize_embeddings(
                        whole, encoding, ranges=_ranges(model.card, cut or WIDTH, changed=changed)
                    )
                assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
                # A number on the edge of two values may fall to either side.
                assert (ours != expected).mean() <= 0.005
        for prompt, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
            np.testing.assert_allclose(model.embed(TEXTS, prompt=prompt), encode(TEXTS), atol=1e-6)


def _ranges(card: Any, kept: int, *, changed: bool) -> Any:
    """Return the ranges of the card as docs/vectors.md says to find them."""
    (found,) = (
        each
        for each in card.ranges
        if each.normalized == changed and (not changed or each.dimensions == kept)
    )
    return np.array([found.least[:kept], found.largest[:kept]], dtype=np.float32)


@pytest.mark.filterwarnings("ignore::bertonnx.TruncationWarning")
def test_ranks_with_ties_and_the_best_of_them(tmp_path: Path) -> None:
    plain = save_tiny(tmp_path / "plain", "roberta", "text-classification", labels=("score",))
    made = library.CrossEncoder(str(plain), device="cpu", max_length=64)
    made.save_pretrained(str(tmp_path / "it"))
    report = bertonnx.export(tmp_path / "it", tmp_path / "model.onnx")
    assert report.card.task == "text-ranking"
    with bertonnx.load(report.path) as model:
        for most in (None, 3, 99):
            theirs = made.rank("red planet?", DOCUMENTS, top_k=most, return_documents=True, batch_size=1)
            ours = model.rank("red planet?", DOCUMENTS, top_k=most)
            assert [item["index"] for item in ours] == [item["corpus_id"] for item in theirs]
            assert [DOCUMENTS[item["index"]] for item in ours] == [item["text"] for item in theirs]
            found = [item["score"] for item in ours]
            assert found == pytest.approx([float(item["score"]) for item in theirs], abs=1e-5)
        equal = [item["score"] for item in model.rank("red planet?", DOCUMENTS) if item["index"] in (1, 3, 6)]
        assert len(set(equal)) == 1


@pytest.mark.filterwarnings("ignore::bertonnx.TruncationWarning")
def test_sparse_embeddings(tmp_path: Path) -> None:
    modules = pytest.importorskip("sentence_transformers.sparse_encoder.modules")
    base = save_tiny(tmp_path / "base", "bert", "fill-mask")
    transformer = modules.Transformer(str(base), transformer_task="fill-mask")
    made = library.SparseEncoder(
        modules=[transformer, modules.SpladePooling("max")], prompts=PROMPTS, device="cpu"
    )
    made.save_pretrained(str(tmp_path / "folder"))
    path = bertonnx.export(tmp_path / "folder", tmp_path / "model.onnx").path
    with bertonnx.load(path) as model:
        for most in (None, 9):
            wanted = made.encode_query(TEXTS, max_active_dims=most, convert_to_sparse_tensor=False).numpy()
            for item, row in zip(model.embed_sparse(TEXTS, prompt="query", top_k=most), wanted, strict=True):
                assert sorted(item["ids"].tolist()) == np.flatnonzero(row).tolist()
                np.testing.assert_allclose(item["weights"], row[item["ids"]], atol=1e-5)


@pytest.mark.filterwarnings("ignore::bertonnx.TruncationWarning")
def test_zero_shot(tmp_path: Path) -> None:
    from transformers import pipeline

    names = ("contradiction", "neutral", "entailment")
    folder = save_tiny(tmp_path / "nli", "roberta", "text-classification", labels=names)
    make: Any = pipeline
    theirs = make("zero-shot-classification", model=str(folder), tokenizer=str(folder))
    texts = ["Mars is red.", "Ünï 👩‍🔬 北京", "a", "word " * 300, "line\nbreak"]
    asked: list[tuple[list[str], str, bool]] = [
        (["food, drink", "a"], "This example is {}.", False),
        (["日本", "a\u0301", "👍🏽"], "Dieser Text handelt von {}.", True),
        (["only"], "关于{}。", False),
    ]
    with bertonnx.load(bertonnx.export(folder, tmp_path / "model.onnx").path) as model:
        for labels, template, several in asked:
            ours = model.zero_shot(texts, labels, template=template, multi_label=several)
            for text, item in zip(texts, ours, strict=True):
                wanted = theirs(text, labels, hypothesis_template=template, multi_label=several)
                scores = dict(zip(wanted["labels"], wanted["scores"], strict=True))
                assert item["scores"] == pytest.approx(scores, abs=1e-5)
                assert item["label"] == wanted["labels"][0]
