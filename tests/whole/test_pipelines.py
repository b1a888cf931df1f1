"""The whole way from text to result against transformers' own pipelines, on real sentences.

The models are random, their weights large enough that the best and the second best seldom lie
within the engines' rounding of each other. Where they do, `_same_choice` accepts either, and the
tests count how often that happened.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import bertonnx
from tests.corpus import CONTEXTS, PARAGRAPHS, QUESTIONS, SENTENCES
from tests.tiny import MAX_LENGTH, save_tiny

# transformers' own pipelines warn of NumPy 2, and of tokenizers whose words they have to guess.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning"),
]

TOLERANCE = 1e-4
"""Two fp32 engines: PyTorch and ONNX Runtime add in another order."""

TEXTS = list(SENTENCES)
FAMILIES = {"wordpiece": "bert", "bpe": "roberta", "unigram": "xlm-roberta"}
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")

Pair = tuple[bertonnx.Model, Path]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Return what exports a tiny model, once for equal arguments, and opens it."""
    made: dict[str, Pair] = {}

    def make(family: str, task: str, labels: tuple[str, ...] = (), **config: Any) -> Pair:
        key = repr((family, task, labels, sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("model")
            source = save_tiny(folder / "checkpoint", family, task, labels=labels, **config)
            made[key] = bertonnx.load(bertonnx.export(source, folder / "model.onnx").path), source
        return made[key]

    return make


def pipeline(task: str, source: Path, **options: Any) -> Any:
    make: Any = transformers.pipeline
    made = make(task, model=str(source), tokenizer=str(source), device="cpu", **options)
    # With no limit named, the pipelines take the tokenizer's; the tiny ones of RoBERTa's kin have it too.
    assert made.tokenizer.model_max_length == MAX_LENGTH or "BERTONNX_SHARED" in os.environ
    return made


def close(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= TOLERANCE


# Text classification ------------------------------------------------------------------------------


def _by_label(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in found}


def _assert_scores(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[label] - theirs[label]) for label in ours) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES.values())
def test_single_label(opened: Callable[..., Pair], family: str) -> None:
    model, source = opened(family, "text-classification", ("bad", "so-so", "good"), seed=3)
    texts = [*TEXTS, *PARAGRAPHS, "", " "]
    theirs = pipeline("text-classification", source, top_k=None)(texts, truncation=True)
    ours = model.classify(texts)
    assert len({item["label"] for item in ours}) > 1
    for item, found in zip(ours, theirs, strict=True):
        _assert_scores(item["scores"], _by_label(found))
        assert item["label"] == found[0]["label"] or close(found[0]["score"], found[1]["score"])
        assert close(item["score"], found[0]["score"])
    assert sum(item["label"] == found[0]["label"] for item, found in zip(ours, theirs, strict=True)) >= (
        len(texts) - 1
    )


def test_top_k(opened: Callable[..., Pair]) -> None:
    model, source = opened("bert", "text-classification", ("bad", "so-so", "good"), seed=3)
    theirs = pipeline("text-classification", source, top_k=2)(TEXTS, truncation=True)
    for item, found in zip(model.classify(TEXTS, top_k=2), theirs, strict=True):
        assert len(item["top"]) == 2
        assert [entry["score"] for entry in item["top"]] == pytest.approx(
            [entry["score"] for entry in found], abs=TOLERANCE
        )


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_text_pairs(opened: Callable[..., Pair], family: str) -> None:
    model, source = opened(family, "text-classification", ("bad", "so-so", "good"), seed=3)
    pairs = TEXTS[::-1]
    inputs = [{"text": text, "text_pair": pair} for text, pair in zip(TEXTS, pairs, strict=True)]
    theirs = pipeline("text-classification", source, top_k=None)(inputs, truncation=True)
    ours, alone = model.classify(TEXTS, pairs), model.classify(TEXTS)
    assert [item["score"] for item in ours] != [item["score"] for item in alone]
    for item, found in zip(ours, theirs, strict=True):
        _assert_scores(item["scores"], _by_label(found))


def test_multi_label(opened: Callable[..., Pair]) -> None:
    labels = ("toxic", "rude", "kind", "long")
    config = {"problem_type": "multi_label_classification"}
    model, source = opened("bert", "text-classification", labels, seed=3, **config)
    theirs = pipeline("text-classification", source, top_k=None)(TEXTS, truncation=True)
    ours = model.classify(TEXTS)
    assert len({tuple(item["labels"]) for item in ours}) > 1
    for item, found in zip(ours, theirs, strict=True):
        scores = _by_label(found)
        _assert_scores(item["scores"], scores)
        assert item["labels"] == [label for label in labels if scores[label] > 0.5]


@pytest.mark.parametrize(
    "config", [{"problem_type": "regression"}, {}], ids=["regression", "one label, which is a sigmoid"]
)
def test_one_number(opened: Callable[..., Pair], config: dict[str, Any]) -> None:
    model, source = opened("bert", "text-classification", ("stars",), **config)
    theirs = pipeline("text-classification", source)(TEXTS, truncation=True)
    ours = model.classify(TEXTS)
    assert len({round(item["score"], 2) for item in ours}) > 10
    assert any(not 0 <= item["score"] <= 1 for item in ours) == bool(config)
    for item, found in zip(ours, theirs, strict=True):
        assert close(item["score"], found["score"])


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_raw_scores(opened: Callable[..., Pair], problem: str) -> None:
    model, source = opened(
        "bert", "text-classification", ("bad", "so-so", "good"), seed=3, problem_type=problem
    )
    raw = pipeline("text-classification", source, top_k=None, function_to_apply="none")
    theirs = raw(TEXTS, truncation=True)
    ours, usual = model.classify(TEXTS, raw_scores=True), model.classify(TEXTS)
    assert min(score for item in ours for score in item["scores"].values()) < 0
    for item, found, chosen in zip(ours, theirs, usual, strict=True):
        _assert_scores(item["scores"], _by_label(found))
        assert item.get("labels") == chosen.get("labels")
        assert item.get("label") == chosen.get("label")


# Token classification -----------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("family", FAMILIES.values())
def test_entities(opened: Callable[..., Pair], family: str, aggregation: Any) -> None:
    model, source = opened(family, "token-classification", TAGS)
    # Short texts: the pipeline cuts nothing, and a longer one would be more than the model has positions.
    texts = [text for text in TEXTS if not model.tokenize([text])[0].truncated]
    assert len(texts) > 50
    recognize = pipeline("token-classification", source, aggregation_strategy=aggregation)
    ours = [item["entities"] for item in model.entities(texts, aggregation=aggregation)]
    assert sum(map(len, ours)) > 40
    for text, item, found in zip(texts, ours, recognize(texts), strict=True):
        expected = [(e["entity_group"], e["start"], e["end"]) for e in found]
        assert [(e["entity"], e["start"], e["end"]) for e in item] == expected, text
        assert [e["score"] for e in item] == pytest.approx([e["score"] for e in found], abs=TOLERANCE)
        assert all(e["text"] == text[e["start"] : e["end"]] for e in item)


def test_entities_of_long_texts(opened: Callable[..., Pair]) -> None:
    model, source = opened("bert", "token-classification", TAGS)
    stride = MAX_LENGTH // 2
    recognize = pipeline("token-classification", source, aggregation_strategy="simple", stride=stride)
    # Words of one token each: no window ends inside a word, where bertonnx takes the window with all of it.
    words = sorted({word for text in PARAGRAPHS for word in text.split() if _is_one_token(model, word)})
    dice = random.Random(0)
    texts = [" ".join(dice.choices(words, k=200)) for _ in range(8)]
    assert len(model.tokenize(texts)[0].pieces) > 2
    ours = [item["entities"] for item in model.entities(texts)]
    equal = 0
    for item, found in zip(ours, recognize(texts), strict=True):
        expected = {(e["entity_group"], e["start"], e["end"]): e["score"] for e in found}
        got = {(e["entity"], e["start"], e["end"]): e["score"] for e in item}
        same = got.keys() & expected.keys()
        assert [got[e] for e in same] == pytest.approx([expected[e] for e in same], abs=TOLERANCE)
        # What fills all that two windows share is one entity; the pipeline keeps the longer part of it.
        for label, start, end in expected.keys() - same:
            joined = [e for e in got.keys() - same if e[0] == label and e[1] <= start and end <= e[2]]
            assert joined, (label, start, end, sorted(got.keys() - same))
        equal += len(same)
    assert equal > 70


def _is_one_token(model: bertonnx.Model, word: str) -> bool:
    return word.isalpha() and len(model.tokenize([word])[0].pieces[0].ids) == 3


# Question answering -------------------------------------------------------------------------------


def _cases(count: int) -> list[dict[str, str]]:
    return [
        {"question": QUESTIONS[i % len(QUESTIONS)], "context": context}
        for i, context in enumerate(CONTEXTS[:count])
    ]


@pytest.mark.parametrize("family", FAMILIES.values())
@pytest.mark.parametrize("top_k", [1, 3])
def test_answers(opened: Callable[..., Pair], family: str, top_k: int) -> None:
    model, source = opened(family, "question-answering")
    cases = _cases(len(CONTEXTS))
    # The pipeline's own defaults: windows of at most 384 tokens that share half, at most 128.
    ask = pipeline("question-answering", source)
    length = min(model.max_length, 384)
    theirs = [ask(**case, top_k=top_k, max_seq_len=length) for case in cases]
    ours = model.answer(
        [case["question"] for case in cases], [case["context"] for case in cases], top_k=top_k
    )
    assert any(len(item.pieces) > 3 for item in model.tokenize(*_columns(cases)))
    exact = 0
    for case, item, found in zip(cases, ours, theirs, strict=True):
        expected = found if isinstance(found, list) else [found]
        answers = item["answers"] if top_k > 1 else [item]
        assert [a["score"] for a in answers] == pytest.approx([a["score"] for a in expected], abs=TOLERANCE)
        assert all(a["answer"] == case["context"][a["start"] : a["end"]] for a in answers)
        places = [(a["answer"], a["start"], a["end"]) for a in answers]
        exact += places == [(a["answer"], a["start"], a["end"]) for a in expected]
    assert exact == len(cases)


@pytest.mark.parametrize("top_k", [1, 3])
def test_no_answer(opened: Callable[..., Pair], top_k: int) -> None:
    model, source = opened("bert", "question-answering")
    cases = _cases(20)
    ask = pipeline("question-answering", source)
    options = {"top_k": top_k, "max_seq_len": model.max_length}
    theirs = [ask(**case, handle_impossible_answer=True, **options) for case in cases]
    ours = model.answer(*_columns(cases), top_k=top_k, no_answer=True)
    for item, found in zip(ours, theirs, strict=True):
        expected = found if isinstance(found, list) else [found]
        answers = item["answers"] if top_k > 1 else [item]
        assert [(a["answer"], a["start"], a["end"]) for a in answers] == [
            (a["answer"], a["start"], a["end"]) for a in expected
        ]
        assert [a["score"] for a in answers] == pytest.approx([a["score"] for a in expected], abs=TOLERANCE)


def test_raw_scores_of_answers_are_sums_of_logits(opened: Callable[..., Pair]) -> None:
    import torch

    model, source = opened("bert", "question-answering")
    question, context = "Who lived in London?", "Ada Lovelace lived in London."
    make: Any = transformers.AutoTokenizer.from_pretrained
    tokenizer = make(source)
    inputs = tokenizer(question, context, return_tensors="pt")
    with torch.inference_mode():
        asked: Any = transformers.AutoModelForQuestionAnswering.from_pretrained(source)
        outputs = asked(**inputs)
    start, end = outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()
    (item,) = model.answer([question], [context], top_k=50, no_answer=True, raw_scores=True)
    # Answers are widened to whole words, so several spans of tokens may be one; the best of them counts.
    sums = {"": float(start[0] + end[0])}
    words = [inputs.token_to_word(i) if inputs.sequence_ids(0)[i] == 1 else None for i in range(len(start))]
    for first in range(len(start)):
        for last in range(first, len(start)):
            if words[first] is not None and words[last] is not None:
                chars = [inputs.word_to_chars(0, words[i], sequence_index=1) for i in (first, last)]
                text = context[chars[0].start : chars[1].end]
                sums[text] = max(sums.get(text, -99.0), float(start[first] + end[last]))
    assert len(item["answers"]) > 10
    assert "" in {answer["answer"] for answer in item["answers"]}
    for answer in item["answers"]:
        assert answer["score"] == pytest.approx(sums[answer["answer"]], abs=TOLERANCE)
    scores = [answer["score"] for answer in item["answers"]]
    assert scores == sorted(scores, reverse=True)


def _columns(cases: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    return [case["question"] for case in cases], [case["context"] for case in cases]


# Fill-mask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.values())
def test_masks(opened: Callable[..., Pair], family: str) -> None:
    model, source = opened(family, "fill-mask")
    mask = model.card.mask_token or ""
    fill = pipeline("fill-mask", source, top_k=4)
    texts = [_masked(text, mask, 1 + i % 3) for i, text in enumerate(TEXTS)]
    texts = [text for text in texts if not model.tokenize([text])[0].truncated]
    assert len(texts) > 50
    for text, item in zip(texts, model.fill_mask(texts, top_k=4), strict=True):
        found = fill(text)
        expected = found if isinstance(found[0], list) else [found]
        assert len(item["masks"]) == len(expected) == text.count(mask)
        for ours, theirs in zip(item["masks"], expected, strict=True):
            _assert_candidates(ours, theirs)


def _masked(text: str, mask: str, count: int) -> str:
    words = text.split(" ")
    for place in range(count):
        words[(place * 2 + 1) % len(words)] = mask
    return " ".join(words)


def _assert_candidates(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [c["score"] for c in ours] == pytest.approx([c["score"] for c in theirs], abs=TOLERANCE)
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine["token_id"] != other["token"]:
            # Only two candidates that PyTorch itself has within its rounding may change places.
            near = theirs[max(0, place - 1) : place + 2]
            assert any(abs(c["score"] - other["score"]) < 1e-6 for c in near if c is not other)
            continue
        assert mine["token"].strip() == other["token_str"].strip()
        assert mine["sequence"] == other["sequence"]


# Feature extraction -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.values())
def test_embeddings_are_the_mean_of_the_pipelines_token_vectors(
    opened: Callable[..., Pair], family: str
) -> None:
    model, source = opened(family, "feature-extraction")
    extract = pipeline("feature-extraction", source, tokenize_kwargs={"truncation": True})
    texts = [*TEXTS, PARAGRAPHS[0], ""]
    expected = np.stack([np.array(found[0], np.float32).mean(axis=0) for found in extract(texts)])
    ours = model.embed(texts)
    assert ours.shape == expected.shape == (len(texts), 32)
    assert np.abs(ours - expected).max() <= TOLERANCE


# Real models --------------------------------------------------------------------------------------


def _shared() -> Path:
    folder = os.environ.get("BERTONNX_SHARED")
    if not folder:
        pytest.skip("real models are needed: set BERTONNX_SHARED to a folder with models/ and data/")
    return Path(folder)


def test_sentiment_of_real_sentences(tmp_path: Path) -> None:
    shared = _shared()
    source = shared / "models" / "sst2-minilm"
    lines = (shared / "data" / "sst2_dev.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[0] for line in lines[:300]]
    with bertonnx.load(bertonnx.export(source, tmp_path / "model.onnx").path) as model:
        ours = model.classify(texts)
    # The checkpoint holds 16-bit weights, and bertonnx computes in 32.
    theirs = pipeline("text-classification", source, top_k=None, dtype="float32")(texts)
    assert len({item["label"] for item in ours}) == 2
    assert [item["label"] for item in ours] == [found[0]["label"] for found in theirs]
    for item, found in zip(ours, theirs, strict=True):
        _assert_scores(item["scores"], _by_label(found))


def test_entities_of_real_sentences(tmp_path: Path) -> None:
    shared = _shared()
    source = shared / "models" / "ner-minilm"
    texts = _sentences(shared / "data" / "conll_dev.txt", 100)
    with bertonnx.load(bertonnx.export(source, tmp_path / "model.onnx").path) as model:
        for aggregation in ("simple", "first"):
            ours = [item["entities"] for item in model.entities(texts, aggregation=aggregation)]
            theirs = pipeline(
                "token-classification", source, aggregation_strategy=aggregation, dtype="float32"
            )(texts)
            assert sum(map(len, ours)) > 40
            for item, found in zip(ours, theirs, strict=True):
                expected = [(e["entity_group"], e["start"], e["end"]) for e in found]
                assert [(e["entity"], e["start"], e["end"]) for e in item] == expected
                assert [e["score"] for e in item] == pytest.approx([e["score"] for e in found], abs=TOLERANCE)


def test_entities_past_the_limit(tmp_path: Path) -> None:
    shared = _shared()
    source = shared / "models" / "ner-minilm"
    rain = "The rain fell on the roof and ran down to the river. " * 80
    ada = "Ada Lovelace lived in London."
    words = " ".join(_sentences(shared / "data" / "conll_dev.txt", 60))
    with bertonnx.load(bertonnx.export(source, tmp_path / "model.onnx").path) as model:
        past, mixed = model.entities([rain + ada, words])
        assert len(model.tokenize([words])[0].pieces) > 2
    assert [(e["entity"], e["text"], e["start"] - len(rain)) for e in past["entities"]] == [
        ("PER", "Ada Lovelace", 0),
        ("LOC", "London", ada.index("London")),
    ]
    assert "truncated" not in past
    # Half of the limit, at most 128 tokens, as the pipeline of question answering has it.
    recognize = pipeline("token-classification", source, aggregation_strategy="simple", stride=128)
    theirs = [(e["entity_group"], e["start"], e["end"]) for e in recognize(words)]
    ours = [(e["entity"], e["start"], e["end"]) for e in mixed["entities"]]
    # The pipeline leaves parts of words where a window begins within one.
    torn = [entity for entity in theirs if entity not in ours]
    assert [entity for entity in theirs if entity in ours] == ours
    assert len(torn) <= 1 < 80 < len(ours)


def _sentences(path: Path, count: int) -> list[str]:
    """Return sentences of a CoNLL file, their words joined by spaces."""
    sentences: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        word = line.split()[0] if line.strip() else ""
        if word and word != "-DOCSTART-":
            sentences[-1].append(word)
        elif sentences[-1]:
            sentences.append([])
    return [" ".join(words) for words in sentences if words][:count]
