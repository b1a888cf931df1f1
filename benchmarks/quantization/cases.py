"""The models with their texts, how they are judged, and the bars."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from common import minilm, sst2, verdict
from quantization.engines import Array, Engine

__all__ = ["Case", "agreements", "cases", "same"]


@dataclass
class Case:
    """One model with its texts. `score` judges results against the truth."""

    name: str
    source: Path
    output: str
    texts: list[str]
    score_name: str
    score: Callable[[Sequence[Array]], float]
    bars: Callable[[Case, Engine, Engine], Iterator[str]]


def cases(shared: Path, most: int | None = None) -> Iterator[Case]:
    """Yield the models; `most` limits their texts."""
    lines = sst2(shared)[:most]
    labels = np.array([label for _, label in lines])
    yield Case(
        f"sst2-minilm on SST-2 dev ({len(lines)} texts)",
        shared / "models/sst2-minilm",
        "logits",
        [text for text, _ in lines],
        "accuracy",
        lambda results: float(np.mean(np.array(results).argmax(-1) == labels)),
        sst2_bars,
    )
    sentences = list(conll(shared / "data/conll_dev.txt"))
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    embedded = texts[100:1000][:most]
    yield Case(
        f"all-MiniLM-L6-v2 on {len(embedded)} sentences of CoNLL",
        minilm(),
        "sentence_embedding",
        embedded,
        "",
        lambda _: float("nan"),
        embedding_bars,
    )
    sentences, texts = sentences[:most], texts[:most]
    yield Case(
        f"ner-minilm on CoNLL dev ({len(texts)} sentences)",
        shared / "models/ner-minilm",
        "logits",
        texts,
        "entity F1",
        EntityScore(sentences, shared / "models/ner-minilm"),
        ner_bars,
    )


def agreements(case: Case, first: Sequence[Array], second: Sequence[Array]) -> tuple[float, float]:
    if case.output == "logits":
        equal = [np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in zip(first, second, strict=True)]
    else:
        equal = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(first, second, strict=True)
        ]
    return float(np.mean(equal)), float(np.min(equal))


def same(case: Case, first: Array, second: Array) -> bool:
    if case.output == "logits":
        return bool(np.array_equal(first.argmax(-1), second.argmax(-1)))
    return bool(np.array_equal(first, second))


def sst2_bars(case: Case, reference: Engine, ours: Engine) -> Iterator[str]:
    equal, _ = agreements(case, reference.results, ours.results)
    yield verdict(equal >= 0.996, "labels equal to fp32 at least 99.6%", f"{equal:.2%}")
    lost = 100 * (case.score(reference.results) - case.score(ours.results))
    yield verdict(lost <= 0.2, "accuracy at most 0.2 points lower", f"{lost:.2f} points lower")


def embedding_bars(case: Case, reference: Engine, ours: Engine) -> Iterator[str]:
    mean, worst = agreements(case, reference.results, ours.results)
    yield verdict(mean >= 0.9988, "mean cosine at least 0.9988", f"{mean:.5f}")
    yield verdict(worst >= 0.993, "worst cosine at least 0.993", f"{worst:.4f}")
    share = ours.megabytes / reference.megabytes
    yield verdict(share <= 0.30, "file at most 0.30 of fp32's", f"{share:.3f}")


def ner_bars(case: Case, reference: Engine, ours: Engine) -> Iterator[str]:
    lost = 100 * (case.score(reference.results) - case.score(ours.results))
    yield verdict(lost <= 0.3, "entity F1 at most 0.3 points lower", f"{lost:.2f} points lower")


def conll(path: Path) -> Iterator[list[tuple[str, str]]]:
    sentence: list[tuple[str, str]] = []
    for line in [*path.read_text().splitlines(), ""]:
        fields = line.split()
        if fields and fields[0] != "-DOCSTART-":
            sentence.append((fields[0], fields[-1]))
        elif sentence:
            yield sentence
            sentence = []


class EntityScore:
    """F1 of entities, a word's label being that of its first token."""

    def __init__(self, sentences: list[list[tuple[str, str]]], source: Path) -> None:
        labels = json.loads((source / "config.json").read_text())["id2label"]
        self._labels = [labels[str(i)] for i in range(len(labels))]
        self._tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._sentences = sentences

    def __call__(self, results: Sequence[Array]) -> float:
        """Return the F1 of logits, (tokens, labels) a sentence."""
        both = total = 0
        for sentence, logits in zip(self._sentences, results, strict=True):
            gold = spans([tag for _, tag in sentence])
            found = spans(self._tags([word for word, _ in sentence], logits))
            both += len(gold & found)
            total += len(gold) + len(found)
        return 2 * both / total

    def _tags(self, words: list[str], logits: Array) -> list[str]:
        encoding = self._tokenizer.encode(" ".join(words))
        places = np.cumsum([0, *(len(word) + 1 for word in words[:-1])]).tolist()
        starts = {start: word for word, start in enumerate(places)}
        tags = ["O"] * len(words)
        for place, ((start, end), label) in enumerate(zip(encoding.offsets, logits.argmax(-1), strict=False)):
            if end > start and start in starts and encoding.word_ids[place] is not None:
                tags[starts[start]] = self._labels[label]
        return tags


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    found, kind, start = set(), "", 0
    for place, tag in enumerate([*tags, "O"]):
        if kind and (tag == "O" or tag.startswith("B-") or tag[2:] != kind):
            found.add((kind, start, place))
            kind = ""
        if tag != "O" and not kind:
            kind, start = tag[2:], place
    return found
