from __future__ import annotations

import numpy as np
import pytest

from bertonnx.errors import UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.decoders.classification import ClassificationDecoder, classification_decoder
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Encoded, Item, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.decoding import Checkpoint, shared_checkpoint, shared_folder, tiny_checkpoint
from tests.tokenizers_zoo import KINDS, wordpiece

LABELS = ("joy", "anger", "Überraschung", "fear")
TEXTS = [*SENTENCES, *PARAGRAPHS]
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def assert_as_pipeline(checkpoint: Checkpoint, texts: list[str]) -> set[str]:
    """Compare a single-label model's items with the pipeline's, and return the labels that won."""
    pipeline = checkpoint.pipeline()
    labels = checkpoint.labels
    decoder = ClassificationDecoder(labels, SINGLE, top_k=len(labels))
    won = set()
    for text, encoded in zip(texts, checkpoint.encode([Row(text) for text in texts]), strict=True):
        item = checkpoint.decode(decoder, encoded)
        expected = pipeline(text, truncation=True, top_k=None)
        scores = {entry["label"]: pytest.approx(entry["score"], abs=1e-6) for entry in expected}
        assert item == {
            "label": expected[0]["label"],
            "score": scores[expected[0]["label"]],
            "scores": scores,
            "top": [{"label": label, "score": score} for label, score in scores.items()],
        }
        assert list(item["scores"]) == list(labels)
        assert [entry["label"] for entry in item["top"]] == list(scores)
        won.add(item["label"])
    return won


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_pipelines(kind: str) -> None:
    checkpoint = tiny_checkpoint("text-classification", kind, labels=LABELS)
    assert len(TEXTS) > 100
    assert len(assert_as_pipeline(checkpoint, TEXTS)) > 1


def test_labels_of_a_real_model_are_the_pipelines() -> None:
    lines = (shared_folder() / "data" / "sst2_dev.tsv").read_text(encoding="utf-8").splitlines()[:200]
    checkpoint = shared_checkpoint("text-classification", "sst2-minilm")
    won = assert_as_pipeline(checkpoint, [line.split("\t")[0] for line in lines])
    assert won == {"NEGATIVE", "POSITIVE"}


@pytest.mark.parametrize("kind", KINDS)
def test_several_labels_are_the_pipelines(kind: str) -> None:
    checkpoint = tiny_checkpoint(
        "text-classification", kind, labels=LABELS, activation="sigmoid", problem_type=MULTI
    )
    pipeline = checkpoint.pipeline()
    decoder = ClassificationDecoder(LABELS, MULTI)
    for encoded in checkpoint.encode([Row(text) for text in TEXTS]):
        item = checkpoint.decode(decoder, encoded)
        entries = pipeline(encoded.row.text, truncation=True, top_k=None)
        expected = {entry["label"]: entry["score"] for entry in entries}
        assert item["scores"] == {label: pytest.approx(expected[label], abs=1e-6) for label in LABELS}
        assert item["labels"] == [label for label in LABELS if expected[label] > 0.5]
        assert set(item) == {"labels", "scores"}


def test_regression_is_the_pipelines() -> None:
    checkpoint = tiny_checkpoint(
        "text-classification", "bpe", labels=("LABEL_0",), activation="none", problem_type=REGRESSION
    )
    pipeline = checkpoint.pipeline(truncation=True)
    decoder = ClassificationDecoder(("LABEL_0",), REGRESSION)
    for encoded in checkpoint.encode([Row(text) for text in TEXTS]):
        expected = pipeline(encoded.row.text)[0]["score"]
        assert checkpoint.decode(decoder, encoded) == {"score": pytest.approx(expected, rel=1e-6, abs=1e-6)}


# Hand-made scores


def item_of(decoder: ClassificationDecoder, *scores: list[float], text: str = "a") -> Item:
    card = Card("text-classification", "bert", 10, inputs=(), outputs=())
    tokenizer = TextTokenizer(wordpiece().to_str(), card, long_text="stride", stride=0)
    (encoded,) = tokenizer.encode([Row(text)])
    assert isinstance(encoded, Encoded)
    kept = [
        decoder.keep(piece, {"scores": np.array(row, dtype=np.float32)})
        for piece, row in zip(encoded.pieces, scores, strict=True)
    ]
    return decoder.decode(encoded, kept)


def test_single_label() -> None:
    item = item_of(ClassificationDecoder(("a", "b", "c")), [0.25, 0.5, 0.25])
    assert item == {"label": "b", "score": 0.5, "scores": {"a": 0.25, "b": 0.5, "c": 0.25}}


def test_of_equal_scores_the_first_label_wins() -> None:
    item = item_of(ClassificationDecoder(("a", "b", "c"), SINGLE, top_k=2), [0.25, 0.375, 0.375])
    assert item["label"] == "b"
    assert item["top"] == [{"label": "b", "score": 0.375}, {"label": "c", "score": 0.375}]


def test_scores_are_exact_float32() -> None:
    item = item_of(ClassificationDecoder(("a", "b")), [0.1, 0.9])
    assert item["scores"] == {"a": float(np.float32(0.1)), "b": float(np.float32(0.9))}


def test_multi_label_takes_what_is_above_a_half() -> None:
    item = item_of(ClassificationDecoder(("a", "b", "c"), MULTI, top_k=9), [0.75, 0.5, 0.875])
    assert item["labels"] == ["a", "c"]
    assert [entry["label"] for entry in item["top"]] == ["c", "a", "b"]


def test_regression() -> None:
    assert item_of(ClassificationDecoder(("x",), REGRESSION, top_k=3), [-2.5]) == {"score": -2.5}
    assert item_of(ClassificationDecoder(("x", "y"), REGRESSION), [1.5, -1.0]) == {
        "scores": {"x": 1.5, "y": -1.0}
    }


def test_windows_count_by_their_tokens() -> None:
    text = "a " * 10  # windows of 8 and 2 tokens, without the special ones
    item = item_of(ClassificationDecoder(("a", "b")), [1.0, 0.0], [0.0, 1.0], text=text)
    assert item["scores"] == pytest.approx({"a": 0.8, "b": 0.2}, abs=1e-7)
    assert item["score"] == float(np.float32(0.8))


def test_keep_copies() -> None:
    scores = np.array([[0.25, 0.75]], dtype=np.float32)
    (encoded,) = TextTokenizer(
        wordpiece().to_str(), Card("text-classification", "bert", 10, inputs=(), outputs=())
    ).encode([Row("a")])
    assert isinstance(encoded, Encoded)
    kept = ClassificationDecoder(("a", "b")).keep(encoded.pieces[0], {"scores": scores[0]})
    assert not np.shares_memory(kept, scores)


def decoded(card: Card, outputs: dict[str, list[float]], **options: object) -> Item:
    tokenizer = TextTokenizer(wordpiece().to_str(), card)
    decoder = classification_decoder(DecoderContext(card, tokenizer, DecodeOptions(**options)))  # type: ignore[arg-type]
    (encoded,) = tokenizer.encode([Row("a b")])
    assert isinstance(encoded, Encoded)
    arrays = {name: np.array(outputs[name], dtype=np.float32) for name in decoder.fetch}
    return decoder.decode(encoded, [decoder.keep(encoded.pieces[0], arrays)])


@pytest.mark.parametrize(
    ("threshold", "chosen"), [(None, ["joy"]), (0.25, ["joy", "fear"]), (0.0, [*LABELS]), (0.9, [])]
)
@pytest.mark.parametrize("raw", [False, True])
def test_a_threshold_chooses_labels_by_scores(threshold: float | None, chosen: list[str], raw: bool) -> None:
    """The same labels where logits are shown, whatever makes scores of them."""
    card = Card(
        "text-classification",
        "bert",
        16,
        ("input_ids",),
        ("logits", "scores"),
        labels=LABELS,
        problem_type=MULTI,
    )
    outputs = {"logits": [9.0, -9.0, 0.6, -3.0], "scores": [0.75, 0.125, 0.25, 0.5]}
    item = decoded(card, outputs, threshold=threshold, raw_scores=raw)
    assert item["labels"] == chosen
    assert list(item["scores"].values()) == pytest.approx(outputs["logits" if raw else "scores"])


@pytest.mark.parametrize(("problem", "given"), [(SINGLE, "one"), (REGRESSION, "a number")])
def test_a_threshold_of_one_label(problem: str, given: str) -> None:
    card = Card(
        "text-classification", "bert", 16, ("input_ids",), ("logits",), labels=LABELS, problem_type=problem
    )
    with pytest.raises(
        UsageError, match=f"threshold=0.3 is for models that give .*, and this one gives {given}"
    ):
        decoded(card, {}, threshold=0.3)
