"""`bertonnx.Model`: a model file, opened."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bertonnx.errors import BertonnxError, RowError, TaskError, TruncationWarning, UsageError
from bertonnx.models.card import Card
from bertonnx.models.tasks import TASKS
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.modelfile.agreement import sizes_of
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.optimum import read_optimum
from bertonnx.runtime.options import Aggregation, DecodeOptions, LoadOptions, LongText, RunOptions
from bertonnx.runtime.rows import POOLING_MASK, Array, Decoder, Encoded, Item, Row, as_rows
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import OpenSession, open_session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Call, Message, Method, Option

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Model", "cut_note", "load"]

_DEFAULTS = DecodeOptions()


def load(
    path: str | Path,
    provider: str = "auto",
    threads: int | None = None,
    *,
    max_length: int | None = None,
    long_text: LongText | None = None,
    tf32: bool = False,
    gpu_memory: float | None = None,
) -> Model:
    """Open a model.

    Args:
        path: a file that bertonnx made, or a folder or file that optimum-cli made.
        provider: "cpu", "cuda", or "auto" (CUDA where it works, else CPU). Never falls back in silence.
        threads: batches at a time; default as many as cores that this process may use.
        max_length: a shorter limit than the model's own, in tokens.
        long_text: what happens to a longer text: "truncate" (`TruncationWarning` then says how many),
            "stride" (overlapping windows) or "error"; default "stride" for question answering and token
            classification, else "truncate".
        tf32: on CUDA, let fp32 models multiply in TF32: faster, and about three digits exact.
        gpu_memory: on CUDA, GiB that ONNX Runtime may take for weights and batches; default no limit.

    Raises:
        ModelFileError: the file is missing, broken, foreign or of a newer format.
        ProviderError: the provider cannot be used, or the file is INT8 for a CPU unlike this one.
        UsageError: an argument is out of range.
        MissingDependencyError: no ONNX Runtime is installed.
    """
    options = LoadOptions(
        provider=provider,
        threads=threads,
        max_length=max_length,
        long_text=long_text,
        tf32=tf32,
        gpu_memory=gpu_memory,
    )
    return Model(path, options)


class _Found(NamedTuple):
    """What was read of a file or folder, before a session is opened.

    Attributes:
        card: what it says of itself.
        tokenizer: the text of its `tokenizer.json`.
        opens: opens the session.
        notes: promises of a bertonnx file that do not hold for it.
    """

    card: Card
    tokenizer: str
    opens: Callable[[LoadOptions], OpenSession]
    notes: tuple[Message, ...] = ()


class Model:
    """A model, opened; safe to call from several threads, a context manager, and picklable.

    Args:
        path: as `load`.
        options: how it is opened; default as `load`'s.

    Attributes:
        path: where it was opened from; a pickled model opens the same path again.
        card: what the file says of itself.
        provider: what really runs it, "cpu" or "cuda".
        placement: on CUDA, which nodes of the graph are there; None on CPU, or where ONNX Runtime
            cannot say.
        tokenizer: what makes token ids of texts.
    """

    def __init__(self, path: str | Path, options: LoadOptions | None = None) -> None:
        self.path = Path(path)
        self._options = options = options or LoadOptions()
        # What is checked is what runs, whatever becomes of the file meanwhile.
        with nullcontext() if self.path.is_dir() else held(self.path):
            found, self.tokenizer, session = _opened(self.path, options)
        self.card = found.card
        self._notes = (*found.notes, *session.notes)
        self.provider = session.provider
        self.placement = session.placement
        threads, outputs = options.threads or allowed_cores(), task_named(self.card.task).outputs
        sizes = sizes_of(self.card)
        self._engine = Engine(session, self.tokenizer, threads=threads, outputs=outputs, sizes=sizes)
        self._closed = False

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Absolute, for who unpickles it may work in another folder.
        return (type(self), (str(self.path.absolute()), self._options))

    def __repr__(self) -> str:
        return f"bertonnx.Model({str(self.path)!r}, task={self.card.task!r}, provider={self.provider!r})"

    def close(self) -> None:
        """Let the threads go. The model cannot be used afterwards."""
        self._closed = True
        self._engine.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know.

        Promises of a bertonnx file that do not hold for this one, why "auto" took CUDA or did not
        where this ONNX Runtime could, and that memory ran out on the way.
        """
        return tuple(map(str, self.messages))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The notes, for faces other than Python, which word them in their own way."""
        return (*self._notes, *map(Message, self._engine.notes))

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens included."""
        return self.tokenizer.max_length

    @property
    def identity(self) -> str:
        """SHA-256, in hex, of what decides a prediction: weights, tokenizer, limits."""
        import hashlib  # loads OpenSSL, for which a prediction need not wait

        parts = (
            self.card.weights_sha256,
            self.card.tokenizer_sha256,
            # Without a hash, as in files of optimum-cli, only the place tells models apart.
            "" if self.card.weights_sha256 else str(self.path.resolve()),
            str(self.max_length),
            self.tokenizer.long_text,
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def embed(self, texts: Sequence[str], *, prompt: str | None = None) -> Array:
        """Return sentence embeddings, float32 of shape (n, width), one row for each text.

        Args:
            texts: the texts.
            prompt: name of the prompt that is put before each of them; None for the model's default, "" for
                none. "query" and "document" give what sentence-transformers' `encode_query` and
                `encode_document` do: no prompt where the model has none of that name.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: `texts` is one text, or there is no such prompt.
        """
        self._require("embed")
        texts = _listed(texts)
        result = np.empty((len(texts), self.card.width or 0), dtype=np.float32)
        for i, item in enumerate(self._all(texts, None, DecodeOptions(prompt=prompt))):
            if i == 0 and self.card.width is None:
                # Folders from elsewhere may not say it; what comes out does.
                result = np.empty((len(texts), len(item["embedding"])), dtype=np.float32)
            result[i] = item["embedding"]
        return result

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        top_k: int = 1,
        *,
        raw_scores: bool = False,
    ) -> list[Item]:
        """Return one dict for each text: `label`, `score`, `scores`, and with `top_k` over 1 `top`.

        Multi-label models give `labels` (those above 0.5) and `scores`; regression gives `score`.

        Args:
            texts: the texts.
            pairs: second texts, as many, for a model of text pairs.
            top_k: how many labels `top` lists, best first.
            raw_scores: give logits, as before softmax or sigmoid.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: `top_k` is less than 1, or the pairs are missing or too few.
        """
        self._require("classify")
        return list(self._all(texts, pairs, DecodeOptions(top_k=top_k, raw_scores=raw_scores)))

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
        self._require("entities")
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
        self._require("answer")
        decode = DecodeOptions(top_k=top_k, no_answer=no_answer, raw_scores=raw_scores)
        return list(self._all(questions, contexts, decode))

    def fill_mask(self, texts: Sequence[str], *, top_k: int = 5) -> list[Item]:
        """Return one dict for each text: `masks`, for each mask token its candidates, the best first.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed, or has no mask token; its place is in the message.
            UsageError: `top_k` is less than 1.
        """
        self._require("fill_mask")
        return list(self._all(texts, None, DecodeOptions(top_k=top_k)))

    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, prompt: str | None = None
    ) -> list[Item]:
        """Return one dict for each text with the fields of the command line's JSON, whatever the task.

        Args:
            texts: the texts; of question answering, the questions.
            pairs: second texts, as many, for a model of text pairs; of question answering, the contexts.
            prompt: as `embed`.

        Raises:
            RowError: a text failed; its place is in the message.
            UsageError: the pairs are missing or too few, or there is no such prompt.
        """
        # JSON has no arrays; whoever wants them calls `stream`, or the task's own method.
        items = list(self._all(texts, pairs, DecodeOptions(prompt=prompt)))
        return [{name: _plain(value) for name, value in item.items()} for item in items]

    def predict_batch(
        self,
        batch: pyarrow.RecordBatch,
        *,
        column: str | None = None,
        pair_column: str | None = None,
        prompt: str | None = None,
    ) -> pyarrow.RecordBatch:
        """Return predictions for an Arrow record batch, a row for a row, errors as columns.

        Args:
            batch: the rows.
            column: the column of the texts; default `text`, or the only column of strings; of question
                answering also `question`.
            pair_column: the column of the second texts; default `pair`, or `context`.
            prompt: as `embed`.

        Raises:
            InputError: nothing says which column holds the text, or the pair.
            UsageError: there is no such prompt.
        """
        from bertonnx.runtime.io.arrow_batch import predict_batch

        columns = RunOptions(column=column, pair_column=pair_column)
        return predict_batch(self, batch, DecodeOptions(prompt=prompt), columns)

    def tokenize(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, prompt: str | None = None
    ) -> list[Encoded]:
        """Return how each text reaches the model: ids, segments and offsets, cut or in windows.

        Raises:
            RowError: a text failed; its place is in the message.
            UsageError: there is no such prompt.
        """
        encoded: list[Encoded] = []
        rows = self.prompted(as_rows(_listed(texts), pairs), prompt)
        for place, row in enumerate(rows):
            result = row if isinstance(row, RowError) else self.tokenizer.encode([row])[0]
            if isinstance(result, RowError):
                raise _in_row(place, result) from result
            encoded.append(result)
        return encoded

    def stream(
        self, rows: Iterable[Row | RowError], decode: DecodeOptions = _DEFAULTS
    ) -> Generator[Item | RowError, None, None]:
        """Yield one result for each row, in order, reading ahead only a bounded number of rows.

        An error stands in place of a row's result; embeddings are float32 arrays of shape (width,).
        Closing the generator cancels what has not started.

        Raises:
            BertonnxError: the model was closed.
            UsageError: there is no such prompt.
        """
        self._require_open()
        return self._engine.map(self.prompted(rows, decode.prompt), self._decoder(decode))

    def prompted(self, rows: Iterable[Row | RowError], prompt: str | None) -> Iterable[Row | RowError]:
        """Return rows that ask for a prompt; with None, as they are.

        Raises:
            UsageError: there is no such prompt.
        """
        text = self.card.prompt_text(prompt)
        if text and not self.card.pooled_prompt and POOLING_MASK not in self.card.inputs:
            raise UsageError(
                "{asked}: the pooling of this model leaves prompts out, and its graph cannot; export the "
                "checkpoint again with: {export}",
                asked=Option("prompt", prompt),
                export=Call("export", "SOURCE"),
            )
        if prompt is None:
            return rows
        return (row if isinstance(row, RowError) else replace(row, prompt=prompt) for row in rows)

    def _all(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item]:
        self._require_open()
        texts = _listed(texts)
        if pairs is not None and len(_listed(pairs)) != len(texts):
            raise UsageError(
                "there are {texts} texts and {pairs} pairs; each text needs its own",
                texts=len(texts),
                pairs=len(pairs),
            )
        if pairs is None and self.card.needs_pair:
            raise UsageError(
                "this model was trained for {task} of text pairs, and no pairs were given; give the second "
                "texts as {option}",
                task=self.card.task,
                option=Option("pairs"),
            )
        rows = self.prompted(as_rows(texts, pairs), decode.prompt)
        cut = 0
        for place, item in enumerate(self._engine.map(rows, self._decoder(decode), soon=False)):
            if isinstance(item, RowError):
                raise _in_row(place, item) from item
            cut += "truncated" in item
            yield item
        if cut:
            # Of the line that called the method which called this.
            warnings.warn(str(cut_note(cut, len(texts), self.max_length)), TruncationWarning, stacklevel=3)

    def _decoder(self, options: DecodeOptions) -> Decoder:
        return decoder_for(DecoderContext(self.card, self.tokenizer, options))

    def _require(self, method: str) -> None:
        serving = task_named(self.card.task).method
        if method != serving:
            wanted = [task.name for task in TASKS if task.method == method]
            raise TaskError(
                "{method} needs a model exported for {wanted}, and this one was exported for {task}; call "
                "{serving}, or export with {option}",
                method=Method(method),
                wanted=" or ".join(wanted),
                task=self.card.task,
                serving=_serving(serving),
                option=Option("task", wanted[0]),
            )

    def _require_open(self) -> None:
        if self._closed:
            raise BertonnxError("this model was closed; open it again with {call}", call=Call("load"))


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


def _opened(path: Path, options: LoadOptions) -> tuple[_Found, TextTokenizer, OpenSession]:
    found = _read(path)
    # ONNX Runtime reads weights beside Python, which reads the vocabulary meanwhile.
    with ThreadPoolExecutor(1) as beside:
        opening = beside.submit(found.opens, options)
        tokenizer = TextTokenizer(
            found.tokenizer,
            found.card,
            max_length=options.max_length,
            long_text=options.long_text or task_named(found.card.task).long_text,
        )
        return found, tokenizer, opening.result()


def _read(path: Path) -> _Found:
    if not path.is_dir():
        file = read_model_file(path)
        if file.is_bertonnx:
            card = file.card
            return _Found(card, file.tokenizer, lambda options: open_session(path, card, options))
    folder = read_optimum(path)
    return _Found(folder.card, folder.tokenizer, folder.open, folder.notes)


def _serving(method: str) -> Message:
    predict = Method("predict")
    if method == predict.name:
        return Message("{predict}", predict=predict)
    return Message("{method} or {predict}", method=Method(method), predict=predict)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _in_row(place: int, error: RowError) -> RowError:
    return RowError(error.kind, "row {place}: {why}", place=place, why=error.message)


def _listed(texts: Sequence[str]) -> Sequence[str]:
    # A text is a sequence of texts to Python, and would be predicted letter by letter.
    if isinstance(texts, (str, bytes)):
        raise UsageError("a list of texts is expected, and this is one text; give [text]")
    return texts if isinstance(texts, (list, tuple)) else list(texts)
