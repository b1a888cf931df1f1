"""`bertonnx.Model`: a model file, opened."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bertonnx.collecting import paused
from bertonnx.errors import BertonnxError, RowError, UsageError
from bertonnx.runtime.arrow_methods import ArrowMethods
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.decoders.uses import Answers, Run, Running, use_of
from bertonnx.runtime.engine.cores import Cores
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.modelfile.agreement import sizes_of
from bertonnx.runtime.opening import Opening
from bertonnx.runtime.options import DecodeOptions, LoadOptions, LongText
from bertonnx.runtime.rows import POOLING_MASK, Decoder, Encoded, Item, Row, as_rows
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Call, Message, Option

if TYPE_CHECKING:
    from bertonnx.runtime.decoders.tokens import TokenOptions

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


class Model(ArrowMethods):
    """A model, opened; safe to call from several threads, a context manager, and picklable.

    Args:
        path: as `load`.
        options: how it is opened; default as `load`'s.
        cores: what models share that run side by side; default each has its threads to itself.
        opening: of this path and these options, begun already.

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
        self,
        path: str | Path,
        options: LoadOptions | None = None,
        *,
        cores: Cores | None = None,
        opening: Opening | None = None,
    ) -> None:
        self.path = Path(path)
        self.options = options = options or LoadOptions()
        self.threads = options.threads or allowed_cores()
        with paused():
            found, self.tokenizer, session = (opening or Opening(path, options)).result()
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

    def _token_results(self, texts: Sequence[str], asked: TokenOptions) -> Iterator[Item | RowError]:
        self._require_open()
        return self.token_answers(texts, asked, partial(self._engine.map, soon=False))

    def _encoded(
        self, texts: Sequence[str], pairs: Sequence[str] | None, prompt: str | None
    ) -> Iterator[Encoded | RowError]:
        for row in self.prompted(as_rows(texts, pairs), prompt):
            yield row if isinstance(row, RowError) else self.tokenizer.encode([row])[0]

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

    def token_answers(self, texts: Sequence[str], asked: TokenOptions, run: Run) -> Answers:
        """Return the vectors of each text's tokens.

        Args:
            texts: the texts.
            asked: of which tokens.
            run: computes rows for a decoder, as `Engine.map` does.

        Raises:
            UsageError: there is no such prompt, or the file does not hold the layer.
        """
        rows = self.prompted(as_rows(texts), asked.prompt)
        if self._compares_tokens(asked):
            from bertonnx.runtime.decoders.multi_vector import token_vectors_decoder

            options = DecodeOptions(prompt=asked.prompt, task=self.required("embed_tokens"))
            return run(rows, token_vectors_decoder(DecoderContext(self.card, self.tokenizer, options)))
        from bertonnx.runtime.decoders.tokens import TokenDecoder, output_of

        before = len(self.card.prompt_text(asked.prompt))
        return run(rows, TokenDecoder(output_of(self.card, asked.layer), prompt=before, words=asked.words))

    def decoder(self, options: DecodeOptions) -> Decoder:
        """Return what makes results of what the graph puts out.

        Raises:
            UsageError: an option is of other tasks.
        """
        return decoder_for(DecoderContext(self.card, self.tokenizer, options))

    def _require_open(self) -> None:
        if self._closed:
            raise BertonnxError("this model was closed; open it again with {call}", call=Call("load"))
