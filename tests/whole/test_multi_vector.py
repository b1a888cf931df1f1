"""Many vectors for a text, from folder to file to results, against ColBERT's published formulas in PyTorch.

The formulas are those of PyLate (pylate/models/colbert.py: `tokenize`, `encode`, `skiplist_mask`;
pylate/scores): the marker stands behind the first token, queries are filled up with the mask token, vectors
are projected and normalized, and punctuation is left out of documents.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import bertonnx
from bertonnx.errors import TaskError, UsageError
from tests.commands import Command
from tests.retrieval import VECTOR, dense, write_folder
from tests.tiny import save_tiny

DOCUMENTS = ["Ada Lovelace wrote the first program.", "!!! ???", "No.", "long, with commas. " * 40, ""]
QUERIES = ["who wrote it?", "what is " + "very " * 50, ""]
LENGTHS = {"query_length": 16, "document_length": 40}
MARKERS = {"query_prefix": "b", "document_prefix": "a"}


def folder_of(folder: Path, family: str, **settings: Any) -> Path:
    save_tiny(folder, family, "feature-extraction")
    said = {**LENGTHS, **MARKERS, "skiplist_words": list(string.punctuation), **settings}
    write_folder(folder, "ColBERT", [("Transformer", {}), ("PyLateDense", dense(32))], **said)
    return folder


class Reference:
    """ColBERT in PyTorch and transformers."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._model: Any = transformers.AutoModel.from_pretrained(folder).eval()
        self._own: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self._weight = load_file(folder / "1_PyLateDense/model.safetensors")["linear.weight"]
        self._expands = settings.get("do_query_expansion", True)
        self._attends = settings.get("attend_to_expansion_tokens", False)

    def _encoded(self, text: str, marker: str, length: int, *, fill: bool) -> tuple[torch.Tensor, list[int]]:
        ids = self._own(text, truncation=True, max_length=length - 1)["input_ids"]
        ids = [ids[0], self._own.convert_tokens_to_ids(marker), *ids[1:]]
        missing = length - len(ids) if fill else 0
        mask = [1] * len(ids) + [int(self._attends)] * missing
        ids += [self._own.mask_token_id] * missing
        with torch.no_grad():
            given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.tensor([mask])}
            hidden = self._model(**given).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden @ self._weight.T, dim=-1), ids

    def query(self, text: str) -> np.ndarray[Any, Any]:
        found, _ = self._encoded(text, "b", LENGTHS["query_length"], fill=self._expands)
        return found.numpy()

    def document(self, text: str) -> np.ndarray[Any, Any]:
        found, ids = self._encoded(text, "a", LENGTHS["document_length"], fill=False)
        skipped = {self._own.convert_tokens_to_ids(word) for word in string.punctuation} - {
            self._own.unk_token_id
        }
        return found[[number not in skipped for number in ids]].numpy()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {}),
        ("modernbert", {"attend_to_expansion_tokens": True}),
        ("xlm-roberta", {"do_query_expansion": False}),
    ],
)
def test_vectors_are_colberts(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", family, **settings)
    report = bertonnx.export(folder, tmp_path / "model.onnx")
    assert report.golden is not None
    reference = Reference(folder, **settings)
    with bertonnx.load(report.path) as model:
        for prompt, texts, wanted in (
            ("query", QUERIES, [*map(reference.query, QUERIES)]),
            ("document", DOCUMENTS, [*map(reference.document, DOCUMENTS)]),
        ):
            with pytest.warns(bertonnx.TruncationWarning):
                found = model.embed_tokens(texts, prompt=prompt)
            for own, item, text in zip(wanted, found, texts, strict=True):
                assert len(item["tokens"]) == len(item["offsets"]) == len(own)
                assert all(0 <= start <= end <= len(text) for start, end in item["offsets"])
                assert item["vectors"].shape == own.shape
                assert np.abs(item["vectors"] - own).max(initial=0) < 1e-5
        with pytest.warns(bertonnx.TruncationWarning):
            ranked = model.rank(QUERIES[0], DOCUMENTS)
    query, documents = reference.query(QUERIES[0]), [*map(reference.document, DOCUMENTS)]
    scores = [(query @ document.T).max(axis=1).sum() for document in documents]
    assert [item["index"] for item in ranked] == np.argsort(scores)[::-1].tolist()
    assert [item["score"] for item in ranked] == pytest.approx(sorted(scores, reverse=True), rel=1e-5)


def test_bits_do_not_depend_on_the_batch(exported: dict[str, Path]) -> None:
    texts = ["Ada wrote it.", "No.", "a b c d e f g h i j k l m n o"] * 3
    with bertonnx.load(exported["multi-vector"]) as model:
        for prompt in ("query", "document"):
            together = model.embed_tokens(texts, prompt=prompt)
            for text, item in zip(texts, together, strict=True):
                (alone,) = model.embed_tokens([text], prompt=prompt)
                assert alone["vectors"].tobytes() == item["vectors"].tobytes()
        # A query that is filled up and a document of its length are no company for each other.
        mixed = [
            bertonnx.runtime.rows.Row("Ada", prompt="query"),
            *(bertonnx.runtime.rows.Row(texts[2]),) * 2,
        ]
        first: Any = next(model.stream(mixed))
        assert (
            first["vectors"].tobytes() == model.embed_tokens(["Ada"], prompt="query")[0]["vectors"].tobytes()
        )


def test_files_of_every_form(exported: dict[str, Path], tmp_path: Path, command: Command) -> None:
    pa = pytest.importorskip("pyarrow")
    model = exported["multi-vector"]
    (tmp_path / "in.txt").write_text("Ada wrote it.\n\n", encoding="utf-8")
    lines = [json.loads(line) for line in command("run", model, tmp_path / "in.txt").out.splitlines()]
    assert {len(vector) for line in lines for vector in line["vectors"]} == {VECTOR}
    for name in ("out.parquet", "out.arrow", "out.csv"):
        assert command("run", model, tmp_path / "in.txt", "-o", tmp_path / name).code == 0
    table = pa.parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.field("vectors").type == pa.list_(pa.list_(pa.float32(), VECTOR))
    wanted = [np.array(line["vectors"], dtype=np.float32) for line in lines]
    for row, own in zip(table.column("vectors").to_pylist(), wanted, strict=True):
        np.testing.assert_array_equal(np.array(row, dtype=np.float32), own)
    scores = command("run", model, tmp_path / "in.txt", "--query", "who?")
    found = [json.loads(line) for line in scores.out.splitlines()]
    assert [list(line) for line in found] == [["row", "score"]] * 2
    # Vectors do not fit into .npy; scores do.
    asked = ("run", model, tmp_path / "in.txt", "-o", tmp_path / "out.npy")
    assert command(*asked).code == 2
    assert command(*asked, "--query", "who?").code == 0
    numbers = np.array([[line["score"]] for line in found], dtype=np.float32)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), numbers)


def test_record_batches(exported: dict[str, Path]) -> None:
    pa = pytest.importorskip("pyarrow")
    batch = pa.RecordBatch.from_pydict({"text": ["Ada", None, "No."]})
    with bertonnx.load(exported["multi-vector"]) as model:
        found = model.predict_batch(batch).column("vectors").to_pylist()
        own = model.embed_tokens(["Ada", "No."])
    assert found[1] is None
    for row, item in zip((found[0], found[2]), own, strict=True):
        np.testing.assert_array_equal(np.array(row, dtype=np.float32), item["vectors"])


def test_what_it_does_not_do(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["multi-vector"]) as model:
        with pytest.raises(TaskError, match=r"call embed_tokens\(\) or predict\(\)"):
            model.embed(["a"])
        with pytest.raises(UsageError, match="raw_scores"):
            model.rank("a", ["b"], raw_scores=True)
        with pytest.raises(UsageError, match="no such prompt; it has query, document"):
            model.embed_tokens(["a"], prompt="passage")


@pytest.mark.parametrize("option", [{"quantize": True}, {"precision": "fp16"}])
def test_smaller_numbers(option: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "folder", task="multi-vector")
    report = bertonnx.export(folder, tmp_path / "model.onnx", **option)
    figures = report.card.quantization or report.card.half
    assert figures is not None
    assert (figures.metric, report.golden is not None) == ("cosine", True)
    assert 0.99 <= figures.agreement <= 1
