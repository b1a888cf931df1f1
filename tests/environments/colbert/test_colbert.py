"""Many vectors for a text, against Sentence-Transformers' own MultiVectorEncoder."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from tests.retrieval import dense, write_folder
from tests.tiny import save_tiny

library = pytest.importorskip("sentence_transformers")
if not hasattr(library, "MultiVectorEncoder"):
    pytest.skip("this sentence-transformers has no MultiVectorEncoder", allow_module_level=True)

DOCUMENTS = ["Ada Lovelace wrote the first program.", "!!! ???", "No.", "long, with commas. " * 40, ""]
QUERIES = ["who wrote it?", "what is " + "very " * 50, ""]
TOKENS = {"module_input_name": "token_embeddings"}
PYLATE = {"query_prefix": "b ", "document_prefix": "a ", "query_length": 16, "document_length": 40}


def native(folder: Path) -> None:
    expansion = {"strategy": "min", "length": 12, "attend": True}
    modules = [
        ("Transformer", {"query_expansion": expansion, "query_length": 20}),
        ("Dense", dense(32)),
        ("MultiVectorMask", {"skiplist_words": list(string.punctuation)}),
        ("Normalize", TOKENS),
    ]
    prompts = {"query": "find: ", "document": "text: "}
    write_folder(folder, "MultiVectorEncoder", modules, prompts=prompts, similarity_fn_name="meanmaxsim")


def pylate(folder: Path) -> None:
    write_folder(folder, "ColBERT", [("Transformer", {}), ("PyLateDense", dense(32))], **PYLATE)


@pytest.mark.filterwarnings("ignore::bertonnx.TruncationWarning")
@pytest.mark.parametrize("write", [native, pylate])
def test_vectors_and_ranks_are_the_librarys(write: Any, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "folder", "bert", "feature-extraction")
    write(folder)
    own = library.MultiVectorEncoder(str(folder), device="cpu")
    report = bertonnx.export(folder, tmp_path / "model.onnx", verify_with=["sentence-transformers"])
    queries = own.encode_query(QUERIES, batch_size=1, convert_to_numpy=True)
    documents = own.encode_document(DOCUMENTS, batch_size=1, convert_to_numpy=True)
    with bertonnx.load(report.path) as model:
        for prompt, texts, wanted in (("query", QUERIES, queries), ("document", DOCUMENTS, documents)):
            for item, vectors in zip(model.embed_tokens(texts, prompt=prompt), wanted, strict=True):
                assert item["vectors"].shape == vectors.shape
                assert np.abs(item["vectors"] - vectors).max(initial=0) < 1e-5
        ranked = model.rank(QUERIES[0], DOCUMENTS)
    scores = own.similarity(queries[:1], documents)[0].tolist()
    assert [item["score"] for item in ranked] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
