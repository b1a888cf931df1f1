"""SetFit folders, against scikit-learn's predict_proba on Sentence-Transformers' embeddings."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

import bertonnx
from bertonnx.errors import CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.options import Trust
from bertonnx.exporters.quiet import quiet
from bertonnx.exporters.verify.parity import reference_outputs
from tests.checkpoints import message, read
from tests.tiny import save_tiny

TRUSTED = Trust(allow_pickle=True)
TEXTS = [
    "Ada wrote it.",
    "A slow film, and a good one.",
    "Rain.",
    "Where is the station?",
    "No!",
    "Yes, yes, yes.",
]
TWO, THREE = [0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]
SURE = [[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]
MANY = [[0, 1, 0], [1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]]


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("setfit")
    save_tiny(folder / "encoder", task="feature-extraction")
    with quiet():
        SentenceTransformer(str(folder / "encoder"), device="cpu").save(str(folder / "body"))
    return folder / "body"


@pytest.fixture(scope="module")
def embedder(body: Path) -> Any:
    with quiet():
        return SentenceTransformer(str(body), device="cpu")


def trained(body: Path, folder: Path, head: Any, **settings: Any) -> Path:
    """Lay a fitted classifier beside a body, as SetFit's `_save_pretrained` does."""
    shutil.copytree(body, folder, dirs_exist_ok=True)
    joblib.dump(head, folder / "model_head.pkl")
    (folder / "config_setfit.json").write_text(
        json.dumps({"labels": None, "normalize_embeddings": False, **settings})
    )
    return folder


HEADS: Mapping[str, tuple[Any, Any]] = {
    "two classes": (LogisticRegression(C=10), TWO),
    "three classes": (LogisticRegression(C=10), THREE),
    "three names": (LogisticRegression(C=10), ["a", "b", "c", "a", "b", "c"]),
    "no bias": (LogisticRegression(C=10, fit_intercept=False), THREE),
    "one against the rest": (OneVsRestClassifier(LogisticRegression(C=10)), THREE),
    "one against the other": (OneVsRestClassifier(LogisticRegression(C=10)), TWO),
    "several labels": (OneVsRestClassifier(LogisticRegression(C=10)), MANY),
    "a label that all have, and one that none has": (OneVsRestClassifier(LogisticRegression(C=10)), SURE),
    "several outputs": (MultiOutputClassifier(LogisticRegression(C=10)), MANY),
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", HEADS)
def test_classifiers(body: Path, embedder: Any, tmp_path: Path, kind: str, *, normalize: bool) -> None:
    made, classes = HEADS[kind]
    vectors = embedder.encode(TEXTS, normalize_embeddings=normalize, show_progress_bar=False)
    # scikit-learn warns of a label that is the same in all texts.
    with quiet():
        head = made.fit(vectors, classes)
    names = None if kind == "three names" else ["no", "yes", "maybe"]
    trained(body, tmp_path, head, normalize_embeddings=normalize, labels=names)
    checkpoint = read(tmp_path, trust=TRUSTED)
    count = np.ndim(classes) == 2 or len(set(np.ravel(classes)))
    assert checkpoint.labels == (
        ("a", "b", "c") if names is None else ("no", "yes", "maybe")[: 3 if count is True else count]
    )
    wanted = head.predict_proba(vectors)
    if isinstance(wanted, list):
        wanted = np.stack([pair[:, 1] for pair in wanted], axis=1)
    for text, row in zip(TEXTS, wanted, strict=True):
        given = embedder.tokenize([text])
        feeds = {name: given[name].numpy() for name in checkpoint.input_names}
        found = reference_outputs(checkpoint, feeds)["scores"][0]
        np.testing.assert_allclose(found, row, atol=1e-5)


def test_classifiers_of_older_versions(body: Path, embedder: Any, tmp_path: Path) -> None:
    vectors = embedder.encode(TEXTS, show_progress_bar=False)
    head = LogisticRegression(C=10).fit(vectors, THREE)
    # Until 1.7 this attribute chose how scores are made; the newest has forgotten it.
    head.multi_class = "ovr"
    trained(body, tmp_path / "rest", head)
    head = LogisticRegression(C=10).fit(vectors, TWO)
    head.multi_class = "multinomial"
    trained(body, tmp_path / "two", head)
    single = 1 / (1 + np.exp(-LogisticRegression(C=10).fit(vectors, THREE).decision_function(vectors)))
    double = 1 / (1 + np.exp(-2 * head.decision_function(vectors)))
    wanted = {
        "rest": single / single.sum(axis=1, keepdims=True),
        "two": np.stack([1 - double, double], axis=1),
    }
    for name, rows in wanted.items():
        checkpoint = read(tmp_path / name, trust=TRUSTED)
        given = embedder.tokenize(TEXTS[1:2])
        feeds = {name: given[name].numpy() for name in checkpoint.input_names}
        np.testing.assert_allclose(reference_outputs(checkpoint, feeds)["scores"][0], rows[1], atol=1e-5)


def test_the_file_classifies(body: Path, embedder: Any, tmp_path: Path) -> None:
    vectors = embedder.encode(TEXTS, show_progress_bar=False)
    head = LogisticRegression(C=10).fit(vectors, THREE)
    source = trained(body, tmp_path / "source", head, labels=["no", "yes", "maybe"])
    report = bertonnx.export(source, tmp_path / "model.onnx", allow_pickle=True)
    assert report.card.task == "text-classification"
    note = "task text-classification, because it is a SetFit model; its classifier (model_head.pkl) is merged"
    assert note in report.notes
    results = bertonnx.load(report.path).predict(TEXTS)
    for result, row in zip(results, head.predict_proba(vectors), strict=True):
        assert list(result["scores"].values()) == pytest.approx(list(row), abs=1e-5)
    assert [result["label"] for result in results] == [
        ["no", "yes", "maybe"][k] for k in head.predict(vectors)
    ]


@pytest.mark.parametrize("file", ["config_setfit.json", "model_head.pkl"])
def test_a_classifier_is_not_left_out_unsaid(body: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(body, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text("{}")
    said = message(SourceError, tmp_path)
    assert f"is a SetFit model ({file})" in said
    assert "--allow-pickle" in said
    assert "--task feature-extraction" in said
    assert read(tmp_path, task="feature-extraction").task == "feature-extraction"
    lacking = message(CheckpointError, tmp_path, trust=TRUSTED)
    assert ("without a classifier" in lacking) == (file == "config_setfit.json")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL_PLACE"],)


def test_nothing_in_the_pickle_runs(body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL_PLACE", str(tmp_path / "was here"))
    head = LogisticRegression().fit(np.eye(2), [0, 1])
    head.more = Evil()
    trained(body, tmp_path / "a", head)
    trained(body, tmp_path / "b", np.array([Evil()], dtype=object))
    for folder in ("a", "b"):
        said = message(UnsupportedError, tmp_path / folder, trust=TRUSTED)
        assert "names posix.mkdir, which no classifier of scikit-learn needs; nothing of it was run" in said
    assert not (tmp_path / "was here").exists()
    # It does run where nothing holds it back.
    joblib.load(tmp_path / "b" / "model_head.pkl")
    assert (tmp_path / "was here").exists()


def test_what_cannot_be_merged(body: Path, embedder: Any, tmp_path: Path) -> None:
    vectors = embedder.encode(TEXTS, show_progress_bar=False)
    chain = ClassifierChain(LogisticRegression()).fit(vectors, MANY)
    trained(body, tmp_path / "chain", chain)
    assert "holds a ClassifierChain, and only logistic regressions" in message(
        UnsupportedError, tmp_path / "chain", trust=TRUSTED
    )
    ridge = OneVsRestClassifier(RidgeClassifier()).fit(vectors, THREE)
    trained(body, tmp_path / "ridge", ridge)
    assert "holds a RidgeClassifier for one" in message(UnsupportedError, tmp_path / "ridge", trust=TRUSTED)
    narrow = LogisticRegression().fit(vectors[:, :5], TWO)
    trained(body, tmp_path / "narrow", narrow)
    assert "reads 5 numbers, and the embedding has 32" in message(
        CheckpointError, tmp_path / "narrow", trust=TRUSTED
    )
    torch_head = {"linear": __import__("torch").nn.Linear(2, 2)}
    trained(body, tmp_path / "torch", torch_head)
    assert "holds a head of PyTorch (torch.nn" in message(UnsupportedError, tmp_path / "torch", trust=TRUSTED)


def test_labels_and_keys_that_do_not_fit(body: Path, embedder: Any, tmp_path: Path) -> None:
    head = LogisticRegression().fit(embedder.encode(TEXTS, show_progress_bar=False), THREE)
    trained(body, tmp_path / "few", head, labels=["no", "yes"])
    said = message(CheckpointError, tmp_path / "few", trust=TRUSTED)
    assert "names the labels no, yes, and the classifier has the classes 0, 1, 2" in said
    trained(body, tmp_path / "aspects", head, span_context=3)
    said = message(CheckpointError, tmp_path / "aspects", trust=TRUSTED)
    assert "config_setfit.json has span_context 3, which is of a SetFit model" in said
    damaged = trained(body, tmp_path / "damaged", head) / "model_head.pkl"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert "cannot be read" in message(CheckpointError, tmp_path / "damaged", trust=TRUSTED)
