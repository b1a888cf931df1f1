"""The methods of `bertonnx.Model` that take many rows at a time: streams of rows, and Arrow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from bertonnx.errors import RowError
from bertonnx.runtime.decoders import require_options
from bertonnx.runtime.options import (
    TEMPLATE,
    Aggregation,
    BatchOptions,
    DecodeOptions,
    Encoding,
    OnError,
    RunOptions,
    taken,
)
from bertonnx.runtime.rows import Item, Row
from bertonnx.runtime.token_methods import TokenMethods

if TYPE_CHECKING:
    import pyarrow

    ArrowRows = TypeVar("ArrowRows", pyarrow.RecordBatch, pyarrow.Table)

__all__ = ["ArrowMethods"]

_DEFAULTS = DecodeOptions()


class ArrowMethods(TokenMethods):
    """Streams of rows, and Arrow, over results that come from anywhere."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """SHA-256, in hex, of what decides a prediction: weights, tokenizer, limits."""

    @abstractmethod
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
