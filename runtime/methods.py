"""The methods that serve tasks: what a model answers, whatever runs it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import RowError, TaskError, TruncationWarning, UsageError
from bertonnx.models.card import Card
from bertonnx.models.tasks import TASKS, served
from bertonnx.runtime.options import (
    TEMPLATE,
    Aggregation,
    DecodeOptions,
    Encoding,
    require_at_least,
    require_query,
    required_labels,
)
from bertonnx.runtime.rows import Array, Item, once_for_all, require_single
from bertonnx.runtime.vectors.form import form_of
from bertonnx.runtime.vectors.similarity import similarity, texts_or_vectors
from bertonnx.wording import Message, Method, Option

__all__ = ["Methods", "cut_note", "in_row", "listed"]


class Methods(ABC):
    """The methods of `bertonnx.Model`, over results that come from anywhere.

    Attributes:
        card: what the model says of itself.
    """

    card: Card

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Longest input in tokens, special tokens included."""

    @abstractmethod
    def _results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        """Return one result for each text, in order; an error stands in place of a failed row's.

        Args:
            texts: the texts, a list or tuple.
            pairs: second texts, as many; None for a model of single texts.
            decode: what becomes of a text.

        Raises:
            BertonnxError: nothing can be answered.
        """

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        encoding: Encoding = "float32",
    ) -> npt.NDArray[Any]:
        """Return sentence embeddings of shape (n, width), one row for each text, float32 if not encoded.

        They are what sentence-transformers' `encode` gives with `truncate_dim`, `normalize_embeddings` and
        `quantize_embeddings`, in this order.

        Args:
            texts: the texts.
            prompt: name of the prompt that is put before each of them; None for the model's default, "" for
                none. "query" and "document" give what sentence-transformers' `encode_query` and
                `encode_document` do: no prompt where the model has none of that name.
            dimensions: how many numbers of each embedding are kept, from its beginning; they are not
                normalized again unless `normalize` says so.
            normalize: True gives what was kept length 1; None leaves it as the file gives it.
            encoding: "float32"; "int8" or "uint8", of the same shape, which spread the range that each
                dimension had at export (`Card.ranges`); "binary" (int8) or "ubinary" (uint8), of shape
                (n, width / 8), a bit for each dimension: whether it is over 0.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: `texts` is one text, there is no such prompt or encoding, embeddings have fewer
                dimensions or no multiple of 8 for bits, the file has no ranges for int8 or uint8, or
                `normalize` is False and the file normalizes.
        """
        self.required("embed")
        texts = listed(texts)
        decode = DecodeOptions(prompt=prompt, dimensions=dimensions, normalize=normalize, encoding=encoding)
        form = form_of(self.card, decode)
        result = np.empty((len(texts), form.length or 0), dtype=form.dtype)
        for i, item in enumerate(self._all(texts, None, decode)):
            if i == 0 and form.length is None:
                # Folders from elsewhere may not say it; what comes out does.
                result = np.empty((len(texts), len(item["embedding"])), dtype=form.dtype)
            result[i] = item["embedding"]
        return result

    def embed_chunks(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        encoding: Encoding = "float32",
    ) -> list[list[Item]]:
        """Return for each text a list of its windows: `chunk`, `start`, `end` and `embedding`.

        A model that was opened with `long_text="stride"` reads long texts in windows; with another, each text
        is one. `start` and `end` count Unicode code points of the text, half open; embeddings are as those of
        `embed`.

        Args:
            texts: the texts.
            prompt: as `embed`; it is put before each window.
            dimensions: as `embed`.
            normalize: as `embed`.
            encoding: as `embed`.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: the form cannot be had, or there is no such prompt.
        """
        self.required("embed")
        decode = DecodeOptions(
            prompt=prompt, dimensions=dimensions, normalize=normalize, encoding=encoding, chunks=True
        )
        return [item["chunks"] for item in self._all(texts, None, decode)]

    def similarity(self, a: Sequence[str] | npt.ArrayLike, b: Sequence[str] | npt.ArrayLike) -> Array:
        """Return how near each of `a` is to each of `b`, float32 of shape (len(a), len(b)).

        As `SentenceTransformer.similarity`: by the measure that the model was made for (`Card.similarity`),
        else cosine. Of "euclidean" and "manhattan" it is the negative distance, so that more is nearer.

        Args:
            a: texts, which are embedded, or embeddings: numbers of shape (n, width).
            b: the same.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: the widths differ, or one of them is one text, or no table of finite numbers.
        """
        self.required("embed")
        name = self.card.similarity or "cosine"
        return similarity(self._vectors(a, "a"), self._vectors(b, "b"), name)

    def _vectors(self, given: Sequence[str] | npt.ArrayLike, what: str) -> Array:
        values = texts_or_vectors(given, what)
        return values if isinstance(values, np.ndarray) else self.embed(values)

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        top_k: int = 1,
        *,
        raw_scores: bool = False,
        threshold: float | None = None,
    ) -> list[Item]:
        """Return one dict for each text: `label`, `score`, `scores`, and with `top_k` over 1 `top`.

        Multi-label models give `labels` (those above the threshold) and `scores`; regression gives `score`.

        Args:
            texts: the texts.
            pairs: second texts, as many, for a model of text pairs.
            top_k: how many labels `top` lists, best first.
            raw_scores: give logits, as before softmax or sigmoid.
            threshold: of a multi-label model: what a label's score must be above; default 0.5.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: `top_k` is less than 1, the pairs are missing or too few, or a threshold is asked for
                and the model gives one label.
        """
        self.required("classify")
        return list(
            self._all(texts, pairs, DecodeOptions(top_k=top_k, raw_scores=raw_scores, threshold=threshold))
        )

    def rank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None, raw_scores: bool = False
    ) -> list[Item]:
        """Return one dict for each document, the best first: `index` into the documents, and `score`.

        Scores are those of `predict` for the query and each document; of equal ones the first document comes
        first. Nothing depends on the order in which documents are given, nor on their number.

        Args:
            query: what to rank for.
            documents: the texts to rank; none give an empty list.
            top_k: how many of the best to give; default all.
            raw_scores: give logits, as before sigmoid or what else the model makes scores with.

        Raises:
            TaskError: the model's task is another.
            RowError: a document failed; its place is in the message.
            UsageError: the query is empty, `documents` is one text, or `top_k` is less than 1.
        """
        task = self.required("rank")
        require_query(query)
        decode = DecodeOptions(query=query, raw_scores=raw_scores, task=task)
        require_at_least("top_k", top_k)
        scores = [item["score"] for item in self._all(documents, None, decode)]
        # The sort is stable: of equal scores, the document that was given first stays first.
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return [{"index": place, "score": scores[place]} for place in order[:top_k]]

    def zero_shot(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        template: str = TEMPLATE,
        multi_label: bool = False,
        entailment: str | None = None,
        threshold: float | None = None,
        top_k: int = 1,
    ) -> list[Item]:
        """Return one dict for each text: the best `label`, its `score`, and the `scores` of all labels.

        Any labels, for which nothing was trained: a classifier of inference (NLI) says how far a text entails
        the template with each of them. As transformers' `zero-shot-classification` pipeline.

        Args:
            texts: the texts.
            labels: what they may be about, each once.
            template: what makes a sentence of a label, in the language of the texts.
            multi_label: judge each label by itself, so that several may be true; else scores add up to 1. One
                label alone is always judged by itself.
            entailment: the model's own label that means entailment, where its name does not say so.
            threshold: with `multi_label`, also give `labels`: those with a score above it.
            top_k: how many labels `top` lists, best first.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: the model is no classifier of inference; there are no labels, or one is empty, there
                twice or too long; the template has no `{}`.
        """
        self.required("zero_shot")
        decode = DecodeOptions(
            top_k=top_k,
            labels=required_labels(labels),
            template=template,
            multi_label=multi_label,
            entailment=entailment,
            threshold=threshold,
        )
        return list(self._all(texts, None, decode))

    def entities(self, texts: Sequence[str], *, aggregation: Aggregation = "simple") -> list[Item]:
        """Return one dict for each text: `entities`, a list of `entity, text, score, start, end`.

        `start` and `end` count Unicode code points of the text, half open. Long texts are read in
        overlapping windows: an entity is there once, and whole.

        Args:
            texts: the texts.
            aggregation: how tokens become entities, as in Hugging Face's pipeline: "none",
                "simple", "first", "average" or "max".

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: there is no such aggregation.
        """
        self.required("entities")
        return list(self._all(texts, None, DecodeOptions(aggregation=aggregation)))

    def answer(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        top_k: int = 1,
        no_answer: bool = False,
        raw_scores: bool = False,
    ) -> list[Item]:
        """Return one dict for each question: `answer, score, start, end` into its context.

        `start` and `end` count Unicode code points of the context, half open. With `top_k` over 1 also
        `answers`, the best first. Long contexts are read in windows.

        Args:
            questions: the questions.
            contexts: where to look for the answer, one for each question.
            top_k: how many answers to give, at most.
            no_answer: whether a question may be left without an answer (an empty one), as models trained on
                SQuAD 2 can tell; Hugging Face's `handle_impossible_answer`.
            raw_scores: give the sum of the logits of an answer's start and end.

        Raises:
            TaskError: the model's task is another.
            RowError: a question failed; its place is in the message.
            UsageError: `top_k` is less than 1, or there are not as many contexts.
        """
        self.required("answer")
        decode = DecodeOptions(top_k=top_k, no_answer=no_answer, raw_scores=raw_scores)
        return list(self._all(questions, contexts, decode))

    def fill_mask(self, texts: Sequence[str], *, top_k: int = 5) -> list[Item]:
        """Return one dict for each text: `masks`, for each mask token its candidates, the best first.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed, or has no mask token; its place is in the message.
            UsageError: `top_k` is less than 1.
        """
        self.required("fill_mask")
        return list(self._all(texts, None, DecodeOptions(top_k=top_k)))

    def embed_sparse(
        self, texts: Sequence[str], *, prompt: str | None = None, top_k: int | None = None
    ) -> list[Item]:
        """Return one dict for each text: `ids`, int64, and `weights`, float32, the heaviest first.

        Args:
            texts: the texts.
            prompt: as `embed`.
            top_k: how many of the heaviest to give, at most; default as the checkpoint says, or all.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: `top_k` is less than 1, or there is no such prompt.
        """
        task = self.required("embed_sparse")
        items = self._all(texts, None, DecodeOptions(prompt=prompt, top_k=top_k, task=task))
        return [{"ids": item["sparse"].ids, "weights": item["sparse"].weights} for item in items]

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        task: str | None = None,
    ) -> list[Item]:
        """Return one dict for each text with the fields of the command line's JSON, whatever the task.

        Args:
            texts: the texts; of question answering, the questions.
            pairs: second texts, as many, for a model of text pairs; of question answering, the contexts.
            prompt: as `embed`.
            task: of a file that serves several tasks, the one to answer; default its own.

        Raises:
            RowError: a text failed; its place is in the message.
            UsageError: the pairs are missing or too few, or there is no such prompt or task.
        """
        # JSON has no arrays; whoever wants them calls `stream`, or the task's own method.
        items = list(self._all(texts, pairs, DecodeOptions(prompt=prompt, task=task)))
        return [{name: _plain(value) for name, value in item.items()} for item in items]

    def results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        """Return one result for each text, in order, with an error in place of one that failed.

        Args:
            texts: the texts.
            pairs: second texts, as many, for a model of text pairs.
            decode: what becomes of a text.

        Raises:
            UsageError: the pairs are missing or too few, or an option does not fit the model.
        """
        texts = listed(texts)
        if pairs is not None:
            require_single(self.card, Option("pairs"))
        if pairs is not None and len(listed(pairs)) != len(texts):
            raise UsageError(
                "there are {texts} texts and {pairs} pairs; each text needs its own",
                texts=len(texts),
                pairs=len(pairs),
            )
        if pairs is None and self.card.needs_pair and not decode.pairs_texts:
            raise UsageError(
                "this model was trained for {task} of text pairs, and no pairs were given; give the second "
                "texts as {option}{once}",
                task=self.card.task,
                option=Option("pairs"),
                once=once_for_all(self.card, decode.task),
            )
        return self._results(texts, pairs, decode)

    def _all(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item]:
        cut, texts = 0, listed(texts)
        for place, item in enumerate(self.results(texts, pairs, decode)):
            if isinstance(item, RowError):
                raise in_row(place, item) from item
            cut += "truncated" in item
            yield item
        if cut:
            self._say_cut(cut, len(texts))

    def _say_cut(self, cut: int, texts: int) -> None:
        """Say that so many texts were cut, of so many."""
        # Of the line that called the method which called what called this.
        # As a message, which other faces word in their own way.
        warnings.warn(TruncationWarning(cut_note(cut, texts, self.max_length)), stacklevel=4)

    def required(self, method: str, *, said: str | None = None) -> str | None:
        """Return the task that a method is of; None for the model's own. TaskError: it has no such.

        Args:
            method: as a row of the tasks has it.
            said: the method that was called, where it is another.
        """
        row, *others = served(self.card.task, self.card.also)
        asked = next((other.name for other in others if method in other.methods), None)
        if method not in row.methods and asked is None:
            serving, wanted = row.method, [task.name for task in TASKS if method in task.methods]
            raise TaskError(
                "{method} needs a model exported for {wanted}, and this one was exported for {task}; call "
                "{serving}, or export with {option}",
                method=Method(said or method),
                wanted=" or ".join(wanted),
                task=self.card.task,
                serving=_serving(serving),
                option=Option("task", wanted[0]),
            )
        return None if method in row.methods else asked


def cut_note(cut: int, texts: int, limit: int) -> Message:
    """Return what is said where texts were cut.

    Args:
        cut: how many.
        texts: of how many.
        limit: tokens that are left of each.
    """
    return Message(
        "{cut} of {texts} texts were cut to {limit} tokens; {whole} reads them whole",
        cut=cut,
        texts=texts,
        limit=limit,
        whole=Option("long_text", "stride"),
    )


def _serving(method: str) -> Message:
    predict = Method("predict")
    if method == predict.name:
        return Message("{predict}", predict=predict)
    return Message("{method} or {predict}", method=Method(method), predict=predict)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def in_row(place: int, error: RowError) -> RowError:
    """Return a row's error that says which row it is; rows count from 0."""
    return RowError(error.kind, "row {place}: {why}", place=place, why=error.message)


def listed(texts: Sequence[str]) -> Sequence[str]:
    """Return texts as a list or tuple.

    Raises:
        UsageError: they are one text, or no texts at all.
    """
    # A text is a sequence of texts to Python, and would be predicted letter by letter.
    if isinstance(texts, (str, bytes)):
        raise UsageError("a list of texts is expected, and this is one text; give [text]")
    if not isinstance(texts, Iterable):
        raise UsageError(
            "a list of texts is expected, and this is {kind}; give [text]", kind=type(texts).__name__
        )
    return texts if isinstance(texts, (list, tuple)) else list(texts)
