"""What is simple, on the same rows: a model that is no better was not worth training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from bertonnx.exporters.training.heads import quietly
from bertonnx.runtime.evaluation.labelled import MULTI, REGRESSION, Labelled
from bertonnx.runtime.evaluation.outcome import Amounts, Entities, Outcome, Several, Single
from bertonnx.runtime.evaluation.tagged import Span, Tagged

__all__ = ["entity_baselines", "label_baselines"]

_MAJORITY, _WORDS, _MEAN, _LIST = "majority", "TF-IDF", "mean", "word list"


def label_baselines(train: Labelled, measured: Labelled) -> dict[str, Outcome]:
    """Return the most frequent label (or the mean), and a linear model on words and pairs of words."""
    words, others = _words(train), _words(measured)
    if train.kind == REGRESSION:
        return _numbers(train, measured, words, others)
    if train.kind == MULTI:
        return _several(train, measured, words, others)
    most = Counter(train.labels).most_common(1)[0][0]
    return {
        _MAJORITY: Single(measured.labels, [most] * len(measured), names=train.names),
        _WORDS: Single(measured.labels, _predicted(words, train.labels, others), names=train.names),
    }


def entity_baselines(train: Tagged, measured: Tagged) -> dict[str, Outcome]:
    """Return the list of all entities that were trained on, found wherever their words stand again."""
    known: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for text, spans in zip(train.texts, train.spans, strict=True):
        for span in spans:
            known[tuple(text[span.start : span.end].split())][span.label] += 1
    longest = max(map(len, known), default=0)
    found = [_looked_up(text, known, longest) for text in measured.texts]
    return {_LIST: Entities(measured.spans, found)}


def _looked_up(text: str, known: dict[tuple[str, ...], Counter[str]], longest: int) -> tuple[Span, ...]:
    places, at = [], 0
    for word in text.split():
        start = text.index(word, at)
        at = start + len(word)
        places.append((start, at, word))
    found, first = [], 0
    while first < len(places):
        # The longest that is known wins, as New York City over New York.
        for last in range(min(first + longest, len(places)), first, -1):
            words = tuple(word for _, _, word in places[first:last])
            if words in known:
                label = known[words].most_common(1)[0][0]
                found.append(Span(places[first][0], places[last - 1][1], label))
                first = last - 1
                break
        first += 1
    return tuple(found)


def _words(data: Labelled) -> list[str]:
    if data.pairs is None:
        return data.texts
    # Of a pair both texts, told apart by nothing: it is a baseline.
    return [f"{text} {pair}" for text, pair in zip(data.texts, data.pairs, strict=True)]


def _several(
    train: Labelled, measured: Labelled, words: Sequence[str], others: Sequence[str]
) -> dict[str, Outcome]:
    names = train.names
    truth = np.array([[name in row for name in names] for row in train.labels], dtype=np.bool_)
    actual = np.array([[name in row for name in names] for row in measured.labels], dtype=np.bool_)
    usual = np.broadcast_to(truth.mean(axis=0) > 0.5, actual.shape)
    said = np.stack(
        [np.array(_predicted(words, list(column), others), dtype=np.bool_) for column in truth.T], axis=1
    )
    return {
        _MAJORITY: Several(actual, usual, names, usual.astype(np.float64)),
        _WORDS: Several(actual, said, names, said.astype(np.float64)),
    }


def _numbers(
    train: Labelled, measured: Labelled, words: Sequence[str], others: Sequence[str]
) -> dict[str, Outcome]:
    from sklearn.linear_model import Ridge

    actual = np.array(measured.labels, dtype=np.float64)
    known, asked = _weighted(words, others)
    with quietly():
        said = Ridge().fit(known, train.labels).predict(asked)
    mean = np.full(len(actual), np.mean(train.labels))
    return {_MEAN: Amounts(actual, mean), _WORDS: Amounts(actual, np.asarray(said, dtype=np.float64))}


def _predicted(words: Sequence[str], labels: Sequence[object], others: Sequence[str]) -> list[str]:
    from sklearn.linear_model import LogisticRegression

    if len(set(labels)) == 1:
        return [labels[0]] * len(others)  # type: ignore[list-item]
    known, asked = _weighted(words, others)
    with quietly():
        found: list[str] = LogisticRegression(C=10.0, max_iter=300).fit(known, labels).predict(asked).tolist()
    return found


def _weighted(words: Sequence[str], others: Sequence[str]) -> tuple[object, object]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Any run of characters without a space is a word, so that no script is left out, nor texts without words.
    made = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    return made.fit_transform(words), made.transform(others)
