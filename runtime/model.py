"""`bertonnx.Model`: a model file, opened."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from bertonnx.errors import BertonnxError, ModelFileError, RowError, UsageError
from bertonnx.models.tasks import served
from bertonnx.runtime.decoders import DecoderContext, decoder_for, require_options
from bertonnx.runtime.decoders.tokens import POOLED, Pooled, TokenDecoder, output_of
from bertonnx.runtime.decoders.uses import Answers, Run, Running, use_of
from bertonnx.runtime.engine.cores import Cores
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.methods import Methods, in_row, listed
from bertonnx.runtime.modelfile.agreement import sizes_of
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.opening import opened
from bertonnx.runtime.options import (
    TEMPLATE,
    Aggregation,
    BatchOptions,
    DecodeOptions,
    Encoding,
    LoadOptions,
    LongText,
    OnError,
    RunOptions,
    chosen,
    require_whole,
    taken,
)
from bertonnx.runtime.places import require_name
from bertonnx.runtime.rows import POOLING_MASK, Decoder, Encoded, Item, Row, as_rows
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Call, Message, Option

if TYPE_CHECKING:
    import pyarrow

    ArrowRows = TypeVar("ArrowRows", pyarrow.RecordBatch, pyarrow.Table)

__all__ = ["Model", "load"]

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


class Model(Methods):
    """A model, opened; safe to call from several threads, a context manager, and picklable.

    Args:
        path: as `load`.
        options: how it is opened; default as `load`'s.
        cores: what models share that run side by side; default each has its threads to itself.

    Attributes:
        path: where it was opened from; a pickled model opens the same path again.
        options: how it was opened.
        card: what the file says of itself.
        provider: what really runs it, "cpu" or "cuda".
        placement: on CUDA, which nodes of the graph are there; None on CPU, or where ONNX Runtime
            cannot say.
        tokenizer: what makes token ids of texts.
        threads: batches at a time on CPU.
    """

    def __init__(
        self, path: str | Path, options: LoadOptions | None = None, *, cores: Cores | None = None
    ) -> None:
        self.path = Path(path)
        self.options = options = options or LoadOptions()
        require_name(path, ModelFileError)
        self.threads = options.threads or allowed_cores()
        # What is checked is what runs, whatever becomes of the file meanwhile.
        with nullcontext() if self.path.is_dir() else held(self.path):
            found, self.tokenizer, session = opened(self.path, options)
        self.card = found.card
        self._notes = (*found.notes, *session.notes)
        self.provider = session.provider
        self.placement = session.placement
        outputs = self.card.dimensions
        sizes = sizes_of(self.card)
        self._engine = Engine(
            session, self.tokenizer, threads=self.threads, outputs=outputs, sizes=sizes, cores=cores
        )
        self._closed = False

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Absolute, for who unpickles it may work in another folder.
        return (type(self), (str(self.path.absolute()), self.options))

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
    def engine(self) -> Engine:
        """What runs it, for who has tokenized rows and waits for no result, as a server."""
        return self._engine

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

    def predict_batch(
        self,
        batch: ArrowRows,
        *,
        column: str | None = None,
        pair_column: str | None = None,
        keep: bool = False,
        plain: bool = False,
        first_row: int | None = 0,
        prefix: str = "",
        on_error: OnError = "record",
        top_k: int | None = None,
        aggregation: Aggregation = "simple",
        prompt: str | None = None,
        no_answer: bool = False,
        raw_scores: bool = False,
        query: str | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        encoding: Encoding = "float32",
        labels: Sequence[str] = (),
        template: str = TEMPLATE,
        multi_label: bool = False,
        entailment: str | None = None,
        threshold: float | None = None,
    ) -> ArrowRows:
        """Return predictions for an Arrow record batch or table, a row for a row, errors as columns.

        Args:
            batch: the rows.
            column: the column of the texts; default `text`, or the only column of strings; of question
                answering also `question`.
            pair_column: the column of the second texts; default `pair`, or `context`.
            keep: put the columns of the batch before those of the results.
            plain: leave out types that not every engine has: an embedding is `list<float>`, in place of
                `fixed_size_list<float>[width]`.
            first_row: number of the first row in the column `row`; None for no such column.
            prefix: what the names of the results' columns begin with.
            on_error: "record" puts a failed row's error into `error_type` and `error_message`, "fail" raises
                it.
            top_k: how many candidates a result lists.
            aggregation: as `entities`.
            prompt: as `embed`.
            no_answer: as `answer`.
            raw_scores: whether scores are logits.
            query: as `rank`; the column of the texts is then that of the documents.
            task: as `predict`.
            dimensions: as `embed`.
            normalize: as `embed`.
            encoding: as `embed`.
            labels: as `zero_shot`; none for what the model was trained for.
            template: as `zero_shot`.
            multi_label: as `zero_shot`.
            entailment: as `zero_shot`.
            threshold: as `classify` and `zero_shot`.

        Raises:
            InputError: nothing says which column holds the text, or the pair; or a kept column has the name
                of one of the results, which `prefix` mends.
            RowError: a row failed, with `on_error="fail"`; its number is in the message.
            UsageError: an argument is out of range, or for another task.
        """
        given = locals()
        from bertonnx.runtime.io.arrow_batch import predict_batch

        decode, columns = taken(DecodeOptions, given), taken(RunOptions, given)
        require_options(self.card, decode)
        return predict_batch(self, batch, decode, columns, taken(BatchOptions, given))

    def batch_schema(
        self,
        schema: pyarrow.Schema | None = None,
        *,
        keep: bool = False,
        plain: bool = False,
        first_row: int | None = 0,
        prefix: str = "",
        top_k: int | None = None,
        aggregation: Aggregation = "simple",
        prompt: str | None = None,
        no_answer: bool = False,
        raw_scores: bool = False,
        query: str | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        encoding: Encoding = "float32",
        labels: Sequence[str] = (),
        template: str = TEMPLATE,
        multi_label: bool = False,
        entailment: str | None = None,
        threshold: float | None = None,
    ) -> pyarrow.Schema:
        """Return the Arrow schema of what `predict_batch` gives with the same arguments; no row is read.

        Args:
            schema: that of the batches; only needed with `keep`.
            keep: as `predict_batch`, and so are the others.
            plain: as there.
            first_row: as there.
            prefix: as there.
            top_k: as there.
            aggregation: as there.
            prompt: as there.
            no_answer: as there.
            raw_scores: as there.
            query: as there.
            task: as there.
            dimensions: as there.
            normalize: as there.
            encoding: as there.
            labels: as there.
            template: as there.
            multi_label: as there.
            entailment: as there.
            threshold: as there.

        Raises:
            InputError: a kept column has the name of one of the results.
            UsageError: an argument is out of range, or for another task.
        """
        given = locals()
        from bertonnx.runtime.io.arrow_batch import batch_schema

        decode = taken(DecodeOptions, given)
        require_options(self.card, decode)
        return batch_schema(self.card, schema, decode, taken(BatchOptions, given))

    def embed_tokens(
        self, texts: Sequence[str], *, layer: int = -1, words: Pooled | None = None, prompt: str | None = None
    ) -> list[Item]:
        """Return one dict for each text: `tokens`, `offsets` and `vectors`, special tokens included.

        Of a model with many vectors for a text (ColBERT, bge-m3) the vectors are those that it compares, of
        the tokens that count; of others transformers' `hidden_states[layer]`. They are float32 of shape
        (tokens, width). `offsets` are pairs of code points, half open, into the text; (0, 0) for special
        tokens and those of a prompt.

        Args:
            texts: the texts.
            layer: -1 for the last one, which every file of embeddings holds; others where the file was
                exported with `hidden_states`: 0 is what enters the first layer, and negative numbers count
                from the last.
            words: give words in place of tokens (`words` in place of `tokens`), as the tokenizer splits a
                text before it looks for tokens; a word's vector is the "mean", "first", "last" or "max" of
                its tokens'. Special tokens are then left out.
            prompt: as `embed`.

        Raises:
            TaskError: the model's task is another.
            RowError: a text failed; its place is in the message.
            UsageError: the file does not hold the layer, or there is no such pooling or prompt.
        """
        require_whole("layer", layer)
        rows = served(self.card.task, self.card.also)
        # A head that makes vectors of tokens is what they are asked of; its encoder's layers have numbers.
        if layer == -1 and words is None and any("embed_tokens" in row.methods for row in rows):
            task = self._require("embed_tokens")
            options = DecodeOptions(prompt=prompt, task=task)
            from bertonnx.runtime.decoders.multi_vector import token_vectors_decoder

            made = token_vectors_decoder(DecoderContext(self.card, self.tokenizer, options))
            self._require_open()
            return self._tokens(listed(texts), prompt, made)
        self._require("embed")
        if words is not None:
            chosen("words", words, POOLED)
        decoder = TokenDecoder(
            output_of(self.card, layer), prompt=len(self.card.prompt_text(prompt)), words=words
        )
        self._require_open()
        return self._tokens(listed(texts), prompt, decoder)

    def _tokens(self, texts: Sequence[str], prompt: str | None, decoder: Decoder) -> list[Item]:
        found = self._engine.map(self.prompted(as_rows(texts), prompt), decoder, soon=False)
        items = [_good(place, item) for place, item in enumerate(found)]
        if cut := sum("truncated" in item for item in items):
            self._say_cut(cut, len(texts))
        return items

    def tokenize(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, prompt: str | None = None
    ) -> list[Encoded]:
        """Return how each text reaches the model: ids, segments and offsets, cut or in windows.

        Raises:
            RowError: a text failed; its place is in the message.
            UsageError: there is no such prompt.
        """
        encoded: list[Encoded] = []
        for place, row in enumerate(self.prompted(as_rows(listed(texts), pairs), prompt)):
            encoded.append(_good(place, self.tokenizer.encode([_good(place, row)])[0]))
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
        return self._answers(rows, decode, soon=True)

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

    def _results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        self._require_open()
        return self._answers(as_rows(texts, pairs), decode, soon=False)

    def _answers(self, rows: Iterable[Row | RowError], decode: DecodeOptions, *, soon: bool) -> Answers:
        return self.answers(rows, decode, partial(self._engine.map, soon=soon))

    def answers(
        self,
        rows: Iterable[Row | RowError],
        decode: DecodeOptions,
        run: Run,
        tokenizer: TextTokenizer | None = None,
    ) -> Answers:
        """Return one result for each row.

        Args:
            rows: the rows.
            decode: what becomes of a text.
            run: computes rows for a decoder, as `Engine.map` does.
            tokenizer: reads what is tokenized before `run`; default the model's.

        Raises:
            UsageError: there is no such prompt, or an option is of other tasks.
        """
        rows = self.prompted(rows, decode.prompt)
        use = use_of(self.card, decode)
        if use is None:
            return run(rows, self.decoder(decode))
        return use(Running(self.card, tokenizer or self.tokenizer, decode, run), rows)

    def decoder(self, options: DecodeOptions) -> Decoder:
        """Return what makes results of what the graph puts out.

        Raises:
            UsageError: an option is of other tasks.
        """
        return decoder_for(DecoderContext(self.card, self.tokenizer, options))

    def _require_open(self) -> None:
        if self._closed:
            raise BertonnxError("this model was closed; open it again with {call}", call=Call("load"))


def _good(place: int, result: Any) -> Any:
    if isinstance(result, RowError):
        raise in_row(place, result) from result
    return result
