"""`bertonnx.search`: the nearest of stored vectors, whatever they are stored in; and the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertonnx.errors import InputError, OutputError, RowError, TaskError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.io.files import replacing
from bertonnx.runtime.io.formats import ending_of
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.io.stored import Stored, stored_vectors
from bertonnx.runtime.io.text import json_line, open_lines
from bertonnx.runtime.io.writers import Target, check_output
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import (
    ENCODINGS,
    DecodeOptions,
    Encoding,
    LoadOptions,
    RunOptions,
    chosen,
    require_at_least,
)
from bertonnx.runtime.places import is_special
from bertonnx.runtime.rows import Array, Item
from bertonnx.runtime.vectors.encodings import has_ranges, is_packed
from bertonnx.runtime.vectors.form import form_of
from bertonnx.runtime.vectors.search import Hit, nearest
from bertonnx.runtime.vectors.similarity import SIMILARITIES, vectors_of
from bertonnx.runtime.vectors.stored import Kind, Reading, encoding_of, reading_of, require_stored_as
from bertonnx.wording import Option

__all__ = ["OfModel", "SearchOptions", "search", "search_files"]


@dataclass(frozen=True)
class SearchOptions:
    """How stored vectors are searched; the attributes are arguments of `search`.

    Raises:
        UsageError: `top_k` is less than 1, or there is no such encoding or similarity.
    """

    top_k: int = 10
    similarity: str | None = None
    encoding: Encoding | None = None
    column: str | None = None
    query_column: str | None = None

    def __post_init__(self) -> None:
        require_at_least("top_k", self.top_k)
        if self.similarity is not None:
            chosen("similarity", self.similarity, tuple(SIMILARITIES))
        if self.encoding is not None:
            chosen("encoding", self.encoding, ENCODINGS)


_COSINE = "cosine"
_LINES = (".jsonl", ".ndjson")


def search(
    vectors: npt.ArrayLike | str | Path,
    queries: npt.ArrayLike | str | Path,
    *,
    top_k: int = 10,
    similarity: str = "cosine",
    encoding: Encoding | None = None,
    ranges: npt.ArrayLike | None = None,
    column: str | None = None,
    query_column: str | None = None,
) -> list[list[Hit]]:
    """Return for each query the `top_k` nearest vectors, the best first, equally near ones by their index.

    Every vector is compared, so that the result is exact; files are read in blocks, in bounded memory. A
    vector of a text that failed (NaN, and 0 in all integers) is not listed. docs/vectors.md says from how
    many vectors on an index of FAISS, pgvector or DuckDB is worth it.

    Args:
        vectors: what is stored: numbers of shape (n, width), or the path of a `.npy`, `.parquet` or `.arrow`
            file.
        queries: what is looked for, in the same forms: float32, or in the encoding of what is stored.
        top_k: how many are listed; fewer where there are fewer.
        similarity: "cosine", "dot", "euclidean" or "manhattan"; the last two give negative distances.
        encoding: of what is stored, as `Model.embed`; needed where both are integers, since a byte may be
            one dimension or eight. Bits are compared as 1 and -1.
        ranges: of int8 and uint8: float32 of shape (2, width), with which they were made (`Card.ranges`);
            without, and with queries of the same kind, the bytes are compared as they are.
        column: of Parquet and Arrow: the column of stored vectors; default "embedding", or the only one.
        query_column: that of the queries.

    Returns:
        A list for each query, of dicts with `index` (int) and `score` (float, exact in float32).

    Raises:
        InputError: a file cannot be read, or holds no vectors.
        UsageError: an argument is out of range or names a column of an array, or the two do not belong
            together.
    """
    options = SearchOptions(top_k, similarity, encoding, column, query_column)
    given = None if ranges is None else vectors_of(ranges, "ranges")
    return _searched(vectors, queries, options, given)


def _searched(
    vectors: npt.ArrayLike | str | Path,
    queries: npt.ArrayLike | str | Path,
    options: SearchOptions,
    ranges: Array | None,
) -> list[list[Hit]]:
    stored = stored_vectors(vectors, "vectors", column=options.column)
    asked = stored_vectors(queries, "queries", column=options.query_column, option=Option("query_column"))
    if not asked.kind.width:
        # An empty list has no width that could be wrong; one that has rows, no number in any of them.
        _require_finite(np.full((asked.rows, 1), np.nan, dtype=np.float32))
        return []
    if not stored.kind.width:
        return [[] for _ in range(asked.rows)]
    reading, of_queries = reading_of(stored.kind, asked.kind, encoding=options.encoding, ranges=ranges)
    numbers = np.concatenate([of_queries.of(block) for block in asked.blocks()])
    _require_finite(numbers)
    return _nearest(stored, reading, numbers, options)


def _nearest(stored: Stored, reading: Reading, queries: Array, options: SearchOptions) -> list[list[Hit]]:
    if not stored.kind.width:  # all of its texts failed
        return [[] for _ in queries]
    blocks = (reading.of(block) for block in stored.blocks())
    most = min(options.top_k, max(1, stored.rows))
    return nearest(blocks, queries, top_k=most, name=options.similarity or _COSINE)


def _require_finite(queries: Array) -> None:
    (failed,) = np.nonzero(~np.isfinite(queries).all(axis=1))
    if len(failed):
        raise UsageError(
            "row {row} of the queries holds NaN or infinity, or its text failed, and is near to nothing",
            row=int(failed[0]),
        )


@dataclass(frozen=True)
class OfModel:
    """The model that made the stored vectors.

    Attributes:
        path: a model file that embeds.
        texts: whether the queries are texts, which it embeds; else it is asked for its ranges alone.
        load: how it is opened.
        prompt: name of the prompt before each text; None for "query".
        normalize: as `Model.embed`, as the stored vectors were made.
    """

    path: Path
    texts: bool
    load: LoadOptions
    prompt: str | None = None
    normalize: bool | None = None


def search_files(
    vectors: Path, queries: str, output: Path | None, options: SearchOptions, model: OfModel | None
) -> int:
    """Search from file to file, as the command does; return how many queries failed.

    Args:
        vectors: as `search`.
        queries: as `search`; where they are texts, an input of them, or "-".
        output: a `.jsonl` file; None for standard output.
        options: how; without a similarity, the model's own, and cosine without one.
        model: what made the vectors; None where nothing says it.

    Raises:
        BertonnxError: as `search`, or the model or output cannot be used.
    """
    target = _checked(output, vectors, queries)
    if model is None:
        return _write(target, [{"hits": hits} for hits in _searched(vectors, queries, options, None)])
    stored = stored_vectors(vectors, "vectors", column=options.column)
    if model.texts and ending_of(queries) == ".npy":
        raise UsageError(
            "{model} embeds texts, and {queries} holds vectors; leave {option} out, or for vectors of int8 "
            "and uint8 give {ranges}",
            model=Option("model", model.path),
            queries=queries,
            option=Option("model"),
            ranges=Option("ranges", model.path),
        )
    with Model(model.path, model.load) as opened:
        _require_embeddings(opened, model)
        reading, decode = _read_as(stored.kind, options, opened.card, model)
        named = replace(options, similarity=options.similarity or opened.card.similarity or _COSINE)
        if not model.texts:
            found = _searched(vectors, queries, named, reading.ranges)
            return _write(target, [{"hits": hits} for hits in found])
        with (
            _of_queries(),
            open_rows(queries, RunOptions(column=options.query_column), needs_pair=False) as rows,
        ):
            items = list(opened.stream(rows, decode))
    numbers = [item["embedding"] for item in items if not isinstance(item, RowError)]
    hits = iter(_nearest(stored, reading, np.stack(numbers), named) if numbers else [])
    return _write(target, [item if isinstance(item, RowError) else {"hits": next(hits)} for item in items])


def _require_embeddings(model: Model, given: OfModel) -> None:
    try:
        model.required("embed")
    except TaskError as error:
        raise TaskError(
            "{given} needs a model exported for {wanted}, and this one was exported for {task}",
            given=Option("model" if given.texts else "ranges", given.path),
            wanted=error.facts["wanted"],
            task=error.facts["task"],
        ) from None


@contextmanager
def _of_queries() -> Iterator[None]:
    """Let errors about a column name the option for it that is of queries."""
    try:
        yield
    except (InputError, UsageError) as error:
        facts = {name: _renamed(fact) for name, fact in error.facts.items()}
        raise type(error)(error.message.template, **facts) from error.__cause__


def _renamed(fact: object) -> object:
    if isinstance(fact, Option) and fact.name == "column":
        return replace(fact, name="query_column")
    return fact


def _read_as(
    stored: Kind, options: SearchOptions, card: Card, model: OfModel
) -> tuple[Reading, DecodeOptions]:
    """Return how stored vectors are read, and how a model makes float32 queries for them."""
    width = card.width or stored.width
    # Told by the model's width: a byte for each dimension, or for eight.
    queries = Kind(stored.width if stored.width == width else stored.width * 8, np.dtype(np.float32))
    encoding = options.encoding or encoding_of(stored, queries)
    require_stored_as(encoding, stored)
    dimensions = stored.width * 8 if is_packed(encoding) else stored.width
    kept = dimensions if dimensions not in (0, width) else None
    given = DecodeOptions(dimensions=kept, normalize=model.normalize, encoding=encoding)
    ranges = form_of(card, given).ranges if has_ranges(encoding) else None
    prompt = "query" if model.prompt is None else model.prompt
    decode = DecodeOptions(prompt=prompt, dimensions=kept, normalize=model.normalize)
    return Reading(encoding, ranges), decode


def _checked(output: Path | None, vectors: Path, queries: str) -> Target | None:
    if output is None:
        return None
    if ending_of(output) not in _LINES:
        raise UsageError(
            "{option}: hits are written as JSON Lines; name a file that ends in {endings}",
            option=Option("output", output),
            endings=" or ".join(_LINES),
        )
    check_output(output, input=vectors)
    return check_output(output, input=queries)


def _write(target: Target | None, results: Sequence[Item | RowError]) -> int:
    if target is None or is_special(target.path):
        writer = open_lines(None if target is None else target.path)
        for row, result in enumerate(results):
            writer.write(row, result)
        writer.finish()
    else:
        try:
            # Aside: there is no part of a search that another could go on with.
            with replacing(target.path) as file:
                file.writelines(f"{json_line(*line)}\n".encode() for line in enumerate(results))
        except OSError as error:
            why = error.strerror or str(error)
            raise OutputError("cannot write {path}: {why}", path=target.given, why=why) from error
    return sum(isinstance(result, RowError) for result in results)
